// Frozen weights that read one input, with their low-rank adapters, as one matrix: a product with it does the low-rank paths too.
#pragma once
#include <vector>

#include "device.h"

namespace tfjs_lora::cuda {

/**
 * Of weights `W_j [rows_j, cols]` with adapters of rank r_j, the matrix `[rows + slots, cols + slots]` of kernels/weights.cu:
 * every W_j with its scaled B_j beside it, and the A_j below. So with the input x `[n, cols]` and `low = x · Aᵀ` beside it, the
 * outputs are `[x | low] · [W | sB]ᵀ`; and with the outputs' gradient dy and `lowSlope = dy · sB` beside it, the gradient of x
 * is `[dy | lowSlope] · [W; A]`.
 */
class AdaptedWeight {
 public:
  /** Ranks together are rounded up to this, for the sake of the tensor cores. */
  static constexpr int64_t kSlots = 16;

  explicit AdaptedWeight(std::vector<const Projection*> parts);

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  /** Columns that inputs and gradients of outputs have beside their own. */
  int64_t slots() const { return slots_; }
  size_t bytes() const { return (rows_ + slots_) * (cols_ + slots_) * sizeof(Half); }

  /** Writes the matrix to `place`, of {@link bytes}. The rest reads it. */
  void assemble(Device&, Stream, void* place);

  struct Context {
    Device& device;
    Stream stream;
    void* workspace;
  };

  /** x `[n, cols + slots]`: fills its last columns with `low`. */
  void addLow(const Context&, int64_t n, Rows x) const;
  /** x with `low` → y `[n, rows]`, plus `added` where there is one. */
  void forward(const Context&, int64_t n, Rows x, Rows y, Rows added = {}) const;
  /** dy `[n, rows + slots]`: fills its last columns with `lowSlope`. */
  void addLowSlope(const Context&, int64_t n, Rows dy) const;
  /** dy with `lowSlope` → dx `[n, cols]`. */
  void backward(const Context&, int64_t n, Rows dy, Rows dx) const;

  /** Float32 numbers of the sums for the gradients of the adapters. */
  int64_t gradientSize() const { return slots_ * (rows_ + cols_); }
  /** x with `low`, dy with `lowSlope` → their part of the sums; the first replaces what is there. */
  void addGradients(const Context&, int64_t n, Rows x, Rows dy, float* sums, bool isFirst) const;
  /** The sums → gradients of each A and B. */
  void giveGradients(const Context&, const float* sums) const;

 private:
  std::vector<const Projection*> parts_;
  int64_t rows_ = 0, cols_ = 0, slots_ = 0;
  Rows matrix_;
};

}  // namespace tfjs_lora::cuda
