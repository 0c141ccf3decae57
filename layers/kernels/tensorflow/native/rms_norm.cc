#include "ops.h"

#include <cmath>

#include "parallel.h"
#include "vec.h"

namespace tfjs_lora {
namespace {

/** x `[..., C]`, weight `[C]` → y as x, inverse root `[..., 1]`. */
class RMSNorm {
 public:
  explicit RMSNorm(const Attributes& attributes) : epsilon_(attributes.number("epsilon")) {}

  void run(Call& call) {
    const int64_t width = call.dim(0, -1), rows = call.size(0) / width;
    const float *x = call.input(0), *weight = call.input(1);
    float* y = call.output(0, call.shape(0));
    std::vector<int64_t> perRow = call.shape(0);
    perRow.back() = 1;
    float* inverse = call.output(1, perRow);
    parallelRanges(rows, 2 * width, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        const float* in = x + row * width;
        float* out = y + row * width;
        Vec squares = {};
        forEachVec(0, width, [&](auto at) { squares += at.load(in) * at.load(in); });
        const float root = 1 / std::sqrt(sumOf(squares) / width + epsilon_);
        inverse[row] = root;
        forEachVec(0, width, [&](auto at) { at.store(out, at.load(in) * root * at.load(weight)); });
      }
    });
  }

 private:
  float epsilon_;
};

/** dy, x `[..., C]`, weight `[C]`, inverse root r `[..., 1]` → dx: `r · (dy·w − x · r² · mean(dy·w · x))`. */
class RMSNormGrad {
 public:
  explicit RMSNormGrad(const Attributes&) {}

  void run(Call& call) {
    const int64_t width = call.dim(1, -1), rows = call.size(1) / width;
    const float *dy = call.input(0), *x = call.input(1), *weight = call.input(2), *inverse = call.input(3);
    float* dx = call.output(0, call.shape(1));
    parallelRanges(rows, 3 * width, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        const float *g = dy + row * width, *in = x + row * width;
        float* out = dx + row * width;
        const float root = inverse[row];
        Vec along = {};
        forEachVec(0, width, [&](auto at) { along += at.load(g) * at.load(weight) * at.load(in); });
        const float pull = root * root * sumOf(along) / width;
        forEachVec(0, width, [&](auto at) {
          at.store(out, (at.load(g) * at.load(weight) - at.load(in) * pull) * root);
        });
      }
    });
  }
};

}  // namespace

std::string registerRMSNorm() {
  const std::string failure = registerOp<RMSNorm>(
      {"TfjsLoraRMSNorm", {"x: float", "weight: float"}, {"y: float", "inverse: float"}, {"epsilon: float"}});
  if (!failure.empty()) return failure;
  return registerOp<RMSNormGrad>(
      {"TfjsLoraRMSNormGrad", {"dy: float", "x: float", "weight: float", "inverse: float"}, {"dx: float"}, {}});
}

}  // namespace tfjs_lora
