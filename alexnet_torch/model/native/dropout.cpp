// Dropout on CPUs, with or without the ReLU before it, in one pass over memory; dropout.py has the formula of the mask.
// kernels.py compiles this file on first use. It needs nothing of torch, whose headers take seconds to compile, and runs
// on one thread: the paper's activations of a batch take a fifth of a millisecond.
#include <cstdint>
#include <vector>

namespace {

// Chris Wellons' lowbias32
inline uint32_t mix(uint32_t bits) {
  bits = (bits ^ (bits >> 16)) * 0x7FEB352Du;
  bits = (bits ^ (bits >> 15)) * 0x846CA68Bu;
  return bits ^ (bits >> 16);
}

// The hash of a row of the global batch under a key below 2^62.
inline uint32_t mix_row(uint32_t row, int64_t key) {
  return mix(mix(row ^ static_cast<uint32_t>(key)) + static_cast<uint32_t>(key >> 32));
}

template <typename T, bool kRelu, bool kGated>
void drop_row(
    const T* __restrict x, const T* __restrict gate, T* __restrict out, const uint32_t* __restrict elements, int64_t width, uint32_t row,
    uint32_t threshold, T scale) {
  for (int64_t j = 0; j < width; ++j) {
    T value = x[j];
    if (kRelu && value < T(0)) value = T(0);  // NaN stays NaN
    // a product, not a choice: a NaN that is dropped stays, as in the formula
    const T kept = mix(elements[j] ^ row) >= threshold ? T(1) : T(0);
    value = value * kept * scale;
    if (kGated && gate[j] <= T(0)) value = T(0);
    out[j] = value;
  }
}

template <typename T>
void drop(
    const T* x, const T* gate, T* out, int64_t rows, int64_t width, int64_t key, int64_t first_row, int64_t first_element,
    uint32_t threshold, double scale, bool relu) {
  std::vector<uint32_t> elements(width);
  for (int64_t j = 0; j < width; ++j) elements[j] = mix(static_cast<uint32_t>(first_element + j));
  for (int64_t i = 0; i < rows; ++i) {
    const uint32_t row = mix_row(static_cast<uint32_t>(first_row + i), key);
    const T *from = x + i * width;
    T* to = out + i * width;
    const auto function = gate ? drop_row<T, false, true> : relu ? drop_row<T, true, false> : drop_row<T, false, false>;
    function(from, gate ? gate + i * width : nullptr, to, elements.data(), width, row, threshold, T(scale));
  }
}

}  // namespace

// x, gate and out: (rows, width) contiguous, of float or double. The result is 0 where the gate, if there is one, is 0
// or less; then there is no ReLU.
extern "C" void dropout(
    const void* x, const void* gate, void* out, int64_t is_double, int64_t rows, int64_t width, int64_t key,
    int64_t first_row, int64_t first_element, int64_t threshold, double scale, bool relu) {
  const auto call = [&](auto zero) {
    using T = decltype(zero);
    drop(static_cast<const T*>(x), static_cast<const T*>(gate), static_cast<T*>(out), rows, width, key, first_row,
         first_element, static_cast<uint32_t>(threshold), scale, relu);
  };
  if (is_double) call(double());
  else call(float());
}
