#include "ops.h"

#include <algorithm>
#include <cmath>

#include "parallel.h"
#include "vec.h"

namespace tfjs_lora {
namespace {

/**
 * Calls `body(i, from, to)` for each tensor `i` with its part of `[begin, end)`, a range of the numbers of all tensors.
 */
template <class Body>
void forEachPart(const std::vector<int64_t>& sizes, int64_t begin, int64_t end, Body body) {
  int64_t offset = 0;
  for (size_t i = 0; i < sizes.size(); offset += sizes[i++]) {
    const int64_t from = std::max(begin - offset, int64_t{0}), to = std::min(end - offset, sizes[i]);
    if (from < to) body(static_cast<int>(i), from, to);
  }
}

int64_t totalOf(const std::vector<int64_t>& sizes) {
  int64_t total = 0;
  for (int64_t size : sizes) total += size;
  return total;
}

/**
 * Values, gradients, means and variances of N variables, and factors
 * `[beta1, 1 − beta1, beta2, 1 − beta2, correction of the root, epsilon, decay, rate]` → the next values, means and
 * variances. See layers/ops/adamWUpdate.ts.
 */
class AdamWUpdates {
 public:
  explicit AdamWUpdates(const Attributes&) {}

  void run(Call& call) {
    const int count = (call.inputCount() - 1) / 4;
    const float* factors = call.input(4 * count);
    std::vector<int64_t> sizes;
    for (int i = 0; i < count; i++) sizes.push_back(call.size(i));
    std::vector<float*> next;
    for (int i = 0; i < 3 * count; i++) next.push_back(call.output(i, call.shape(i % count)));
    parallelRanges(totalOf(sizes), 7, [&](int64_t begin, int64_t end) {
      forEachPart(sizes, begin, end, [&](int i, int64_t from, int64_t to) {
        update(call.input(i) + from, call.input(count + i) + from, call.input(2 * count + i) + from,
               call.input(3 * count + i) + from, factors, to - from, next[i] + from, next[count + i] + from,
               next[2 * count + i] + from);
      });
    });
  }

 private:
  static void update(const float* value, const float* gradient, const float* mean, const float* variance,
                     const float* factors, int64_t size, float* nextValue, float* nextMean, float* nextVariance) {
    const float correction = factors[4], epsilon = factors[5], decay = factors[6], rate = factors[7];
    for (int64_t i = 0; i < size; i++) {
      const float g = gradient[i];
      const float m = factors[0] * mean[i] + factors[1] * g;
      const float v = factors[2] * variance[i] + factors[3] * (g * g);
      nextMean[i] = m;
      nextVariance[i] = v;
      nextValue[i] = decay * value[i] - rate * (m / (std::sqrt(v) * correction + epsilon));
    }
  }
};

/** N tensors → the root of the sum of all their squares, `[]`. */
class GlobalNorm {
 public:
  explicit GlobalNorm(const Attributes&) {}

  void run(Call& call) {
    std::vector<int64_t> sizes;
    for (int i = 0; i < call.inputCount(); i++) sizes.push_back(call.size(i));
    const int64_t total = totalOf(sizes), blocks = (total + kBlock - 1) / kBlock;
    std::vector<double> sums(blocks);
    parallelFor(blocks, total, [&](int64_t block) {
      forEachPart(sizes, block * kBlock, (block + 1) * kBlock, [&](int i, int64_t from, int64_t to) {
        const float* x = call.input(i);
        Vec squares = {};
        forEachVec(from, to, [&](auto at) { squares += at.load(x) * at.load(x); });
        sums[block] += sumOf(squares);
      });
    });
    double sum = 0;
    for (double part : sums) sum += part;
    *call.output(0, {}) = static_cast<float>(std::sqrt(sum));
  }

 private:
  /** How many numbers are summed in float32; their sums are added in float64. */
  static constexpr int64_t kBlock = 1 << 14;
};

}  // namespace

std::string registerAdamWUpdates() {
  const std::string failure =
      registerOp<GlobalNorm>({"TfjsLoraGlobalNorm", {"x: N * float"}, {"norm: float"}, {"N: int >= 1"}});
  if (!failure.empty()) return failure;
  return registerOp<AdamWUpdates>(
      {"TfjsLoraAdamWUpdates",
       {"values: N * float", "gradients: N * float", "means: N * float", "variances: N * float", "factors: float"},
       {"next_values: N * float", "next_means: N * float", "next_variances: N * float"},
       {"N: int >= 1"}});
}

}  // namespace tfjs_lora
