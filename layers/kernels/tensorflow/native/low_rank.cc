#include "ops.h"

#include <algorithm>
#include <cstring>

#include "parallel.h"
#include "tile_product.h"

namespace tfjs_lora {
namespace {

/** Number of rows in a chunk, so that what several products read of them stays in the cache. */
constexpr int64_t kRows = 48;

/** Returns `[rows, cols]` as `[rows, padded cols]`, with zeros at the end. */
std::vector<float> widened(const float* from, int64_t rows, int64_t cols) {
  const int64_t width = padded(cols);
  std::vector<float> to(rows * width);
  for (int64_t row = 0; row < rows; row++) std::copy_n(from + row * cols, cols, to.data() + row * width);
  return to;
}

/** Returns `[rows, cols]` as `[cols, padded rows]`, with zeros at the end. */
std::vector<float> transposed(const float* from, int64_t rows, int64_t cols) {
  const int64_t width = padded(rows);
  std::vector<float> to(cols * width);
  for (int64_t row = 0; row < rows; row++) {
    for (int64_t col = 0; col < cols; col++) to[col * width + row] = from[row * cols + col];
  }
  return to;
}

/** base `[N, M]`, left `[N, R]`, right `[R, M]` → `base + scaling · left · right`. M is a multiple of 8. */
class AddLowRank {
 public:
  explicit AddLowRank(const Attributes& attributes) : scaling_(attributes.number("scaling")) {}

  void run(Call& call) {
    const int64_t rows = call.dim(0, 0), cols = call.dim(0, 1), rank = call.dim(1, 1);
    const float *base = call.input(0), *left = call.input(1), *right = call.input(2);
    float* y = call.output(0, {rows, cols});
    parallelRanges(rows, cols * rank / 4, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row += kRows) {
        const int64_t count = std::min(kRows, end - row);
        std::vector<float> scaled(left + row * rank, left + (row + count) * rank);
        for (float& each : scaled) each *= scaling_;
        float* to = y + row * cols;
        std::copy_n(base + row * cols, count * cols, to);
        tileProduct(count, cols, rank, {scaled.data(), rank, 1}, right, cols, true, to, cols);
      }
    });
  }

 private:
  float scaling_;
};

/**
 * dy `[N, out]`, x `[N, in]`, a `[R, in]`, b `[out, R]` → the gradients of a and b, and `scaling · dy · b`, `[N, R]`,
 * from which the gradient of x is made. Reads dy and x once. in and out are multiples of 8.
 */
class LowRankGrad {
 public:
  explicit LowRankGrad(const Attributes& attributes) : scaling_(attributes.number("scaling")) {}

  void run(Call& call) {
    const int64_t rows = call.dim(0, 0), out = call.dim(0, 1), in = call.dim(1, 1), rank = call.dim(2, 0);
    const float *dy = call.input(0), *x = call.input(1);
    const int64_t width = padded(rank);
    const std::vector<float> down = transposed(call.input(2), rank, in);  // [in, R]
    const std::vector<float> up = widened(call.input(3), out, rank);      // [out, R]
    float* dA = call.output(0, {rank, in});
    float* dB = call.output(1, {out, rank});
    float* lowGradient = call.output(2, {rows, rank});
    const int64_t blocks = (rows + kRows - 1) / kRows;
    const int64_t work = rows * (in + out) * rank / 2;
    const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(blocks, work < kWorthAThread ? 1 : threadCount()));
    std::vector<float> sums(parts * rank * (in + out));  // of each part: dA [R, in], then dB [R, out]
    parallelFor(parts, work, [&](int64_t part) {
      float* sumA = sums.data() + part * rank * (in + out);
      float* sumB = sumA + rank * in;
      std::vector<float> low(kRows * width), slopes(kRows * width);
      for (int64_t block = part * blocks / parts; block < (part + 1) * blocks / parts; block++) {
        const int64_t begin = block * kRows, count = std::min(kRows, rows - begin);
        const float *g = dy + begin * out, *h = x + begin * in;
        tileProduct(count, width, out, {g, out, 1}, up.data(), width, false, slopes.data(), width);
        tileProduct(count, width, in, {h, in, 1}, down.data(), width, false, low.data(), width);
        for (int64_t i = 0; i < count; i++) {
          for (int64_t r = 0; r < rank; r++) {
            slopes[i * width + r] *= scaling_;
            low[i * width + r] *= scaling_;
            lowGradient[(begin + i) * rank + r] = slopes[i * width + r];
          }
        }
        tileProduct(rank, in, count, {slopes.data(), 1, width}, h, in, true, sumA, in);
        tileProduct(rank, out, count, {low.data(), 1, width}, g, out, true, sumB, out);
      }
    });
    for (int64_t part = 1; part < parts; part++) {
      const float* other = sums.data() + part * rank * (in + out);
      for (int64_t i = 0; i < rank * (in + out); i++) sums[i] += other[i];
    }
    std::copy_n(sums.data(), rank * in, dA);
    const float* sumB = sums.data() + rank * in;
    for (int64_t row = 0; row < out; row++) {
      for (int64_t r = 0; r < rank; r++) dB[row * rank + r] = sumB[r * out + row];
    }
  }

 private:
  float scaling_;
};

}  // namespace

std::string registerLowRank() {
  const std::string failure = registerOp<AddLowRank>(
      {"TfjsLoraAddLowRank", {"base: float", "left: float", "right: float"}, {"y: float"}, {"scaling: float"}});
  if (!failure.empty()) return failure;
  return registerOp<LowRankGrad>({"TfjsLoraLowRankGrad",
                                  {"dy: float", "x: float", "a: float", "b: float"},
                                  {"d_a: float", "d_b: float", "low_gradient: float"},
                                  {"scaling: float"}});
}

}  // namespace tfjs_lora
