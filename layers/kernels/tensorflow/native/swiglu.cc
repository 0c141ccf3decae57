#include "ops.h"

#include "parallel.h"
#include "vec.h"

namespace tfjs_lora {
namespace {

/** gate, up → `gate · sigmoid(gate) · up`. */
class SwiGLU {
 public:
  explicit SwiGLU(const Attributes&) {}

  void run(Call& call) {
    const float *gate = call.input(0), *up = call.input(1);
    float* y = call.output(0, call.shape(0));
    parallelRanges(call.size(0), 4, [&](int64_t begin, int64_t end) {
      forEachVec(begin, end, [&](auto at) {
        const Vec x = at.load(gate);
        at.store(y, x * sigmoid(x) * at.load(up));
      });
    });
  }
};

/**
 * dy, gate, up → the gradients of gate, `dy · up · s · (1 + gate · (1 − s))` with s its sigmoid, and of up,
 * `dy · gate · s`.
 */
class SwiGLUGrad {
 public:
  explicit SwiGLUGrad(const Attributes&) {}

  void run(Call& call) {
    const float *dy = call.input(0), *gate = call.input(1), *up = call.input(2);
    float* dGate = call.output(0, call.shape(1));
    float* dUp = call.output(1, call.shape(2));
    parallelRanges(call.size(1), 6, [&](int64_t begin, int64_t end) {
      forEachVec(begin, end, [&](auto at) {
        const Vec g = at.load(dy), x = at.load(gate), s = sigmoid(x);
        at.store(dGate, g * at.load(up) * s * (1.0f + x * (1.0f - s)));
        at.store(dUp, g * x * s);
      });
    });
  }
};

}  // namespace

std::string registerSwiGLU() {
  const std::string failure = registerOp<SwiGLU>({"TfjsLoraSwiGLU", {"gate: float", "up: float"}, {"y: float"}, {}});
  if (!failure.empty()) return failure;
  return registerOp<SwiGLUGrad>(
      {"TfjsLoraSwiGLUGrad", {"dy: float", "gate: float", "up: float"}, {"d_gate: float", "d_up: float"}, {}});
}

}  // namespace tfjs_lora
