#include "ops.h"

#include "parallel.h"
#include "rotate.h"

namespace tfjs_lora {
namespace {

/** x `[B, H, T, D]`, cos and sin `[B or 1, 1, T, D/2]` → y as x. `back` inverts the rotation, for the gradient. */
class RotaryEmbedding {
 public:
  explicit RotaryEmbedding(const Attributes& attributes) : sign_(attributes.flag("back") ? -1.0f : 1.0f) {}

  void run(Call& call) {
    const int64_t heads = call.dim(0, 1), length = call.dim(0, 2), dim = call.dim(0, 3);
    const int64_t perBatch = call.dim(1, 0) == 1 ? 0 : length * dim / 2;
    const float *x = call.input(0), *cos = call.input(1), *sin = call.input(2);
    float* y = call.output(0, call.shape(0));
    parallelRanges(call.dim(0, 0) * heads * length, 2 * dim, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        const int64_t at = row / (heads * length) * perBatch + row % length * dim / 2;
        rotate(x + row * dim, cos + at, sin + at, sign_, dim, y + row * dim);
      }
    });
  }

 private:
  float sign_;
};

}  // namespace

std::string registerRotaryEmbedding() {
  return registerOp<RotaryEmbedding>(
      {"TfjsLoraRotaryEmbedding", {"x: float", "cos: float", "sin: float"}, {"y: float"}, {"back: bool"}});
}

}  // namespace tfjs_lora
