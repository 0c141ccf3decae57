// Frozen weights that read one input, and their low-rank adapters, as one matrix whose product includes the low-rank
// paths.
#pragma once
#include <vector>

#include "device.h"

namespace tfjs_lora::cuda {

/**
 * The matrix `[rows + slots, cols + slots]` of kernels/weights.cu for weights `W_j [rows_j, cols]` with adapters of
 * rank r_j: every W_j with its scaled B_j beside it, and the A_j below. With the input x `[n, cols]` and `low = x · Aᵀ`
 * beside it, the outputs are `[x | low] · [W | sB]ᵀ`; with the outputs' gradient dy and `lowSlope = dy · sB` beside it,
 * the gradient of x is `[dy | lowSlope] · [W; A]`.
 */
class AdaptedWeight {
 public:
  /** The sum of the ranks is rounded up to a multiple of this, for the tensor cores. */
  static constexpr int64_t kSlots = 16;

  explicit AdaptedWeight(std::vector<const Projection*> parts);

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  /** Number of extra columns of inputs and of outputs' gradients. */
  int64_t slots() const { return slots_; }
  size_t bytes() const { return (rows_ + slots_) * (cols_ + slots_) * sizeof(Half); }

  /** Writes the matrix to `place`, which has {@link bytes}. The other methods read it. */
  void assemble(Device&, Stream, void* place);

  struct Context {
    Device& device;
    Stream stream;
    void* workspace;
  };

  /** Fills the last columns of x `[n, cols + slots]` with `low`. */
  void addLow(const Context&, int64_t n, Rows x) const;
  /** x with `low` → y `[n, rows]`, plus `added` if given. */
  void forward(const Context&, int64_t n, Rows x, Rows y, Rows added = {}) const;
  /** Fills the last columns of dy `[n, rows + slots]` with `lowSlope`. */
  void addLowSlope(const Context&, int64_t n, Rows dy) const;
  /** dy with `lowSlope` → dx `[n, cols]`. */
  void backward(const Context&, int64_t n, Rows dy, Rows dx) const;

  /** Number of float32 numbers in the sums for the gradients of the adapters. */
  int64_t gradientSize() const { return slots_ * (rows_ + cols_); }
  /** x with `low`, dy with `lowSlope` → their part of the sums; the first call overwrites the sums. */
  void addGradients(const Context&, int64_t n, Rows x, Rows dy, float* sums, bool isFirst) const;
  /** Computes the gradients of each A and B from the sums. */
  void giveGradients(const Context&, const float* sums) const;

 private:
  std::vector<const Projection*> parts_;
  int64_t rows_ = 0, cols_ = 0, slots_ = 0;
  Rows matrix_;
};

}  // namespace tfjs_lora::cuda
