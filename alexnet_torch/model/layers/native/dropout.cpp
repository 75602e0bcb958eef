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

template <typename T, bool kRelu>
void drop_row(
    const T* __restrict x, T* __restrict out, const uint32_t* __restrict elements, int64_t width, uint32_t row,
    uint32_t threshold, T scale) {
  for (int64_t j = 0; j < width; ++j) {
    T value = x[j];
    if (kRelu && value < T(0)) value = T(0);  // NaN stays NaN
    // a product, not a choice: a NaN that is dropped stays, as in the formula
    const T kept = mix(elements[j] ^ row) >= threshold ? T(1) : T(0);
    out[j] = value * kept * scale;
  }
}

template <typename T>
void drop(
    const T* x, T* out, int64_t rows, int64_t width, int64_t key, int64_t first_row, int64_t first_element,
    uint32_t threshold, double scale, bool relu) {
  std::vector<uint32_t> elements(width);
  for (int64_t j = 0; j < width; ++j) elements[j] = mix(static_cast<uint32_t>(first_element + j));
  for (int64_t i = 0; i < rows; ++i) {
    const uint32_t row = mix_row(static_cast<uint32_t>(first_row + i), key);
    const T *from = x + i * width;
    T* to = out + i * width;
    if (relu) drop_row<T, true>(from, to, elements.data(), width, row, threshold, T(scale));
    else drop_row<T, false>(from, to, elements.data(), width, row, threshold, T(scale));
  }
}

}  // namespace

// x and out: (rows, width) contiguous, of float or double.
extern "C" void dropout(
    const void* x, void* out, int64_t is_double, int64_t rows, int64_t width, int64_t key, int64_t first_row,
    int64_t first_element, int64_t threshold, double scale, bool relu) {
  const uint32_t bound = static_cast<uint32_t>(threshold);
  if (is_double) {
    drop(static_cast<const double*>(x), static_cast<double*>(out), rows, width, key, first_row, first_element, bound,
         scale, relu);
  } else {
    drop(static_cast<const float*>(x), static_cast<float*>(out), rows, width, key, first_row, first_element, bound,
         scale, relu);
  }
}
