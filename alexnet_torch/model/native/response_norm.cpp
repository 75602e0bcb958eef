// Response normalisation on CPUs, forward and backward, with or without the ReLU before it.
// response_norm.py has the formulas; cpu_kernels.py compiles this file on first use.
//
// Each function makes one pass over memory: the channels of a pixel (channels_last) or of a block of pixels
// (contiguous) go through small buffers that stay in the first-level cache. The sum of each element has a
// fixed order, so the results are the same to the bit for any number of threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/Dispatch.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

using at::Tensor;

constexpr int kBlock = 128;          // pixels in a block of the contiguous kernels
constexpr int64_t kGrain = 1 << 14;  // with fewer elements than this, another thread costs more than it saves

struct Norm {
  int64_t half;  // number of neighbours on each side
  double scale;  // alpha / window
  double beta, k;
  bool relu;  // apply ReLU to the input first
};

template <typename T>
inline T rectified(T x, bool relu) {
  return relu && x < T(0) ? T(0) : x;  // NaN stays NaN
}

// s^-beta. Square roots cost a fraction of a power.
template <typename T>
inline T negative_power(T s, double beta) {
  if (beta == 0.75) {
    const T root = std::sqrt(s);
    return T(1) / (root * std::sqrt(root));
  }
  return beta == 0.5 ? T(1) / std::sqrt(s) : std::pow(s, T(-beta));
}

// The arithmetic on one pixel or one block of pixels. kHalf is norm.half at compile time, or 0 for unusual
// values, and kBetaTimes4 is 4 * norm.beta in the same way: the compiler then unrolls the loops over the window
// and vectorises those over elements.
//
// kLanes is 1 for one pixel of a channels_last map, whose channels are contiguous: the outer loop runs once, the
// inner one over the channels. Otherwise kLanes is the number of pixels in a block, whose channels are `stride`
// apart: the outer loop runs over the channels, the inner one over `width` pixels.
template <typename T, int kHalf, int kBetaTimes4, int kLanes>
struct Kernel {
  const Norm norm;
  const int64_t half, outer;
  // squares and products have channel c at (half + c) * kLanes, with zeros before the first and after the last
  std::vector<T> squares, products, direct;

  Kernel(const Norm& norm, int64_t channels)
      : norm(norm), half(kHalf ? kHalf : norm.half), outer(kLanes == 1 ? 1 : channels),
        squares((channels + 2 * half) * kLanes), products(squares.size()), direct(channels * kLanes) {}

  inline T power(T s) const { return negative_power(s, kBetaTimes4 ? kBetaTimes4 / 4.0 : norm.beta); }

  inline T window_sum(const T* from) const {
    T sum = from[0];
    if (kHalf) {
      for (int i = 1; i <= 2 * kHalf; ++i) sum += from[i * kLanes];
    } else {
      for (int64_t i = 1; i <= 2 * half; ++i) sum += from[i * kLanes];
    }
    return sum;
  }

  void fill_squares(const T* __restrict x, int64_t stride, int64_t width) {
    const bool relu = norm.relu;
    for (int64_t c = 0; c < outer; ++c) {
      T* __restrict to = squares.data() + (half + c) * kLanes;
      const T* __restrict from = x + c * stride;
      for (int64_t j = 0; j < width; ++j) {
        const T a = rectified(from[j], relu);
        to[j] = a * a;
      }
    }
  }

  void forward(const T* __restrict x, T* __restrict y, int64_t stride, int64_t width) {
    fill_squares(x, stride, width);
    const T scale = T(norm.scale), k = T(norm.k);
    const bool relu = norm.relu;
    for (int64_t c = 0; c < outer; ++c) {
      const T* __restrict sum = squares.data() + c * kLanes;
      const T* __restrict from = x + c * stride;
      T* __restrict to = y + c * stride;
      for (int64_t j = 0; j < width; ++j) to[j] = rectified(from[j], relu) * power(k + scale * window_sum(sum + j));
    }
  }

  void backward(
      const T* __restrict grad, const T* __restrict x, T* __restrict out, int64_t stride, int64_t width) {
    fill_squares(x, stride, width);
    const T scale = T(norm.scale), k = T(norm.k), twice = T(2 * norm.scale * norm.beta);
    const bool relu = norm.relu;
    for (int64_t c = 0; c < outer; ++c) {
      const T* __restrict sum = squares.data() + c * kLanes;
      const T* __restrict from = x + c * stride;
      const T* __restrict out_grad = grad + c * stride;
      T* __restrict product = products.data() + (half + c) * kLanes;
      T* __restrict scaled = direct.data() + c * kLanes;
      for (int64_t j = 0; j < width; ++j) {
        const T s = k + scale * window_sum(sum + j);
        scaled[j] = out_grad[j] * power(s);
        product[j] = scaled[j] * rectified(from[j], relu) / s;
      }
    }
    for (int64_t c = 0; c < outer; ++c) {
      const T* __restrict sum = products.data() + c * kLanes;
      const T* __restrict scaled = direct.data() + c * kLanes;
      const T* __restrict from = x + c * stride;
      T* __restrict to = out + c * stride;
      for (int64_t j = 0; j < width; ++j) {
        const T a = from[j];
        const T g = scaled[j] - twice * a * window_sum(sum + j);
        to[j] = relu && !(a > T(0)) ? T(0) : g;
      }
    }
  }
};

// Calls `body` with the kernel for this window and power; each thread copies it.
template <typename T, int kLanes, typename Body>
void with_kernel(const Norm& norm, int64_t channels, const Body& body) {
  if (norm.half == 2 && norm.beta == 0.75) body(Kernel<T, 2, 3, kLanes>(norm, channels));
  else if (norm.half == 5 && norm.beta == 0.5) body(Kernel<T, 5, 2, kLanes>(norm, channels));
  else body(Kernel<T, 0, 0, kLanes>(norm, channels));
}

int64_t grain(int64_t elements) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements)); }

// Runs the forward pass, or the backward pass if `grad` is defined.
template <typename T>
void over_pixels(const Norm& norm, const Tensor& x, const Tensor& grad, Tensor& out, bool channels_last) {
  const int64_t channels = x.size(1), pixels = x.numel() / std::max<int64_t>(1, x.size(0) * channels);
  const T* from = x.const_data_ptr<T>();
  const T* out_grad = grad.defined() ? grad.const_data_ptr<T>() : nullptr;
  T* to = out.mutable_data_ptr<T>();
  if (channels_last) {
    with_kernel<T, 1>(norm, channels, [&](const auto& prototype) {
      at::parallel_for(0, x.size(0) * pixels, grain(channels), [&](int64_t begin, int64_t end) {
        auto kernel = prototype;
        for (int64_t at = begin * channels; at < end * channels; at += channels) {
          if (out_grad) kernel.backward(out_grad + at, from + at, to + at, 0, channels);
          else kernel.forward(from + at, to + at, 0, channels);
        }
      });
    });
    return;
  }
  with_kernel<T, kBlock>(norm, channels, [&](const auto& prototype) {
    const int64_t blocks = (pixels + kBlock - 1) / kBlock;
    at::parallel_for(0, x.size(0) * blocks, grain(channels * kBlock), [&](int64_t begin, int64_t end) {
      auto kernel = prototype;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i % blocks * kBlock, at = i / blocks * channels * pixels + first;
        const int64_t width = std::min<int64_t>(kBlock, pixels - first);
        if (out_grad) kernel.backward(out_grad + at, from + at, to + at, pixels, width);
        else kernel.forward(from + at, to + at, pixels, width);
      }
    });
  });
}

Norm norm_of(int64_t window, double alpha, double beta, double k, bool relu) {
  return {window / 2, alpha / static_cast<double>(window), beta, k, relu};
}

// Checks what the kernels take for granted; returns whether x is channels_last.
bool checked(const Tensor& x, int64_t window) {
  const bool last = !x.is_contiguous();
  TORCH_CHECK(x.dim() == 4, "x must be (N, C, H, W)");
  TORCH_CHECK(!last || x.is_contiguous(at::MemoryFormat::ChannelsLast), "x must be contiguous or channels_last");
  TORCH_CHECK(window > 0 && window % 2 == 1, "window must be odd and at least 1, not ", window);
  return last;
}

Tensor forward(const Tensor& x, int64_t window, double alpha, double beta, double k, bool relu) {
  const bool last = checked(x, window);
  Tensor out = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "response_norm", [&] {
    over_pixels<scalar_t>(norm_of(window, alpha, beta, k, relu), x, Tensor(), out, last);
  });
  return out;
}

Tensor backward(
    const Tensor& grad, const Tensor& x, int64_t window, double alpha, double beta, double k, bool relu) {
  const bool last = checked(x, window);
  TORCH_CHECK(grad.sizes() == x.sizes() && grad.scalar_type() == x.scalar_type(), "grad must be of the shape and type of x");
  const Tensor like_x = grad.contiguous(last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
  Tensor out = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "response_norm_backward", [&] {
    over_pixels<scalar_t>(norm_of(window, alpha, beta, k, relu), x, like_x, out, last);
  });
  return out;
}

}  // namespace

TORCH_LIBRARY(alexnet_torch, library) {
  library.def("norm(Tensor x, int window, float alpha, float beta, float k, bool relu) -> Tensor");
  library.def(
      "norm_backward(Tensor grad, Tensor x, int window, float alpha, float beta, float k, bool relu) -> Tensor");
}

TORCH_LIBRARY_IMPL(alexnet_torch, CPU, library) {
  library.impl("norm", forward);
  library.impl("norm_backward", backward);
}
