#include <cstring>

#include "ops.h"
#include "parallel.h"

namespace tfjs_lora {
namespace {

/** N tensors → all their numbers in turn. See layers/ops/packFlat.ts. */
class PackFlat {
 public:
  explicit PackFlat(const Attributes&) {}

  void run(Call& call) {
    std::vector<int64_t> offsets;
    int64_t total = 0;
    for (int i = 0; i < call.inputCount(); total += call.size(i++)) offsets.push_back(total);
    float* flat = call.output(0, {total});
    parallelFor(call.inputCount(), total, [&](int64_t i) {
      const int input = static_cast<int>(i);
      std::memcpy(flat + offsets[i], call.input(input), call.size(input) * sizeof(float));
    });
  }
};

/** The reverse of {@link PackFlat}. See layers/ops/unpackFlat.ts. */
class UnpackFlat {
 public:
  explicit UnpackFlat(const Attributes& attributes) : shapes_(shapesIn(attributes.integers("shapes"))) {}

  void run(Call& call) {
    const int count = static_cast<int>(shapes_.size());
    std::vector<const float*> from;
    std::vector<float*> to;
    const float* next = call.input(0);
    for (int i = 0; i < count; next += sizeOf(shapes_[i++])) {
      from.push_back(next);
      to.push_back(call.output(i, shapes_[i]));
    }
    parallelFor(count, call.size(0),
                [&](int64_t i) { std::memcpy(to[i], from[i], sizeOf(shapes_[i]) * sizeof(float)); });
  }

 private:
  const std::vector<std::vector<int64_t>> shapes_;
};

}  // namespace

std::string registerFlat() {
  const std::string failure =
      registerOp<PackFlat>({"TfjsLoraPackFlat", {"x: N * float"}, {"flat: float"}, {"N: int >= 1"}});
  if (!failure.empty()) return failure;
  return registerOp<UnpackFlat>(
      {"TfjsLoraUnpackFlat", {"flat: float"}, {"y: N * float"}, {"N: int >= 1", "shapes: list(int)"}});
}

}  // namespace tfjs_lora
