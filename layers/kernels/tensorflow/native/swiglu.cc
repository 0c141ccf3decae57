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
      forEachVec(end - begin, [&](int64_t at, int64_t count) {
        const int64_t i = begin + at;
        if (count == kLanes) store(y + i, gated(load(gate + i), load(up + i)));
        else storePart(y + i, gated(loadPart(gate + i, count), loadPart(up + i, count)), count);
      });
    });
  }

 private:
  static Vec gated(Vec gate, Vec up) { return gate * sigmoid(gate) * up; }
};

/** dy, gate, up → the gradients of gate, `dy · up · s · (1 + gate · (1 − s))` with s its sigmoid, and of up, `dy · gate · s`. */
class SwiGLUGrad {
 public:
  explicit SwiGLUGrad(const Attributes&) {}

  void run(Call& call) {
    const float *dy = call.input(0), *gate = call.input(1), *up = call.input(2);
    float* dGate = call.output(0, call.shape(1));
    float* dUp = call.output(1, call.shape(2));
    parallelRanges(call.size(1), 6, [&](int64_t begin, int64_t end) {
      forEachVec(end - begin, [&](int64_t at, int64_t count) {
        const int64_t i = begin + at;
        const bool isWhole = count == kLanes;
        const Vec g = isWhole ? load(dy + i) : loadPart(dy + i, count);
        const Vec x = isWhole ? load(gate + i) : loadPart(gate + i, count);
        const Vec u = isWhole ? load(up + i) : loadPart(up + i, count);
        const Vec s = sigmoid(x);
        const Vec byGate = g * u * s * (1.0f + x * (1.0f - s)), byUp = g * x * s;
        if (isWhole) {
          store(dGate + i, byGate);
          store(dUp + i, byUp);
        } else {
          storePart(dGate + i, byGate, count);
          storePart(dUp + i, byUp, count);
        }
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
