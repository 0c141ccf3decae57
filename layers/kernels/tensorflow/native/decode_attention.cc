#include "ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "hidden.h"
#include "parallel.h"
#include "rotate.h"
#include "tile_product.h"

namespace tfjs_lora {
namespace {

/**
 * One position of generation: query `[B, H·D]`, key and value `[B, K·D]`, cos and sin `[B or 1, 1, 1, D/2]`, the caches
 * `[B, K, capacity, D]`, past `[]`, segments none or `[B, past + 1 or more]` → the attended values, `[B, H·D]`, and the
 * caches, written at `past` in their own memory.
 */
class DecodeAttention {
 public:
  explicit DecodeAttention(const Attributes& attributes)
      : scale_(attributes.number("scale")),
        softCap_(attributes.number("soft_cap")),
        window_(attributes.integer("window")) {}

  void run(Call& call) {
    const int64_t batch = call.dim(5, 0), groups = call.dim(5, 1), capacity = call.dim(5, 2), dim = call.dim(5, 3);
    const int64_t perGroup = call.dim(0, 1) / (groups * dim), past = *call.input<int32_t>(7);
    const int64_t angles = call.dim(3, 0) == 1 ? 0 : dim / 2;  // of the next sequence
    const int32_t* segments = call.inputCount() > 8 ? call.input<int32_t>(8) : nullptr;
    const int64_t segmentsRow = segments ? call.dim(8, 1) : 0;
    const float *query = call.input(0), *key = call.input(1), *value = call.input(2);
    const float *cos = call.input(3), *sin = call.input(4);
    float *keys = call.input(5), *values = call.input(6);
    float* attended = call.output(0, call.shape(0));
    const int64_t first = window_ > 0 ? std::max<int64_t>(0, past + 1 - window_) : 0;  // the first key that is seen
    const int64_t work = batch * groups * (past + 1) * dim * (perGroup + 1);
    parallelFor(batch * groups, work, [&](int64_t head) {
      const int64_t sequence = head / groups, angle = sequence * angles;
      float *ownKeys = keys + head * capacity * dim, *ownValues = values + head * capacity * dim;
      rotate(key + head * dim, cos + angle, sin + angle, 1, dim, ownKeys + past * dim);
      std::memcpy(ownValues + past * dim, value + head * dim, dim * sizeof(float));
      thread_local std::vector<float> memory;
      const int64_t row = padded(past + 1);
      memory.resize(perGroup * (dim + row));
      float *turned = memory.data(), *scores = turned + perGroup * dim;  // [G, D], [G, row]
      const int64_t at = head * perGroup * dim;
      for (int64_t g = 0; g < perGroup; g++) {
        rotate(query + at + g * dim, cos + angle, sin + angle, 1, dim, turned + g * dim);
      }
      const int32_t* own = segments ? segments + sequence * segmentsRow : nullptr;
      for (int64_t j = 0; j <= past; j++) {
        const bool isHidden = j < first || (own && (own[j] != own[past] || own[j] == 0));
        for (int64_t g = 0; g < perGroup; g++) {
          scores[g * row + j] = isHidden ? kHidden : bounded(scale_ * dot(turned + g * dim, ownKeys + j * dim, dim));
        }
      }
      for (int64_t g = 0; g < perGroup; g++) softmax(scores + g * row, past + 1);
      tileProduct(perGroup, dim, past + 1, {scores, row, 1}, ownValues, dim, false, attended + at, dim);
    });
    call.pass(5, 1);
    call.pass(6, 2);
  }

 private:
  static void softmax(float* scores, int64_t count) {
    const float largest = std::max(kLowest, *std::max_element(scores, scores + count));
    float total = 0;
    forEachVec(0, count, [&](auto at) { at.store(scores, exp(at.load(scores) - largest)); });
    for (int64_t j = 0; j < count; j++) total += scores[j];
    const float factor = total > 0 ? 1 / total : 0;  // a query that sees nothing gets 0
    for (int64_t j = 0; j < count; j++) scores[j] *= factor;
  }

  float bounded(float score) const { return softCap_ > 0 ? softCap_ * std::tanh(score / softCap_) : score; }

  float scale_, softCap_;
  int64_t window_;
};

}  // namespace

std::string registerDecodeAttention() {
  return registerOp<DecodeAttention>({"TfjsLoraDecodeAttention",
                                      {"query: float", "key: float", "value: float", "cos: float", "sin: float",
                                       "keys: float", "values: float", "past: int32", "segments: N * int32"},
                                      {"attended: float", "next_keys: float", "next_values: float"},
                                      {"N: int >= 0", "scale: float", "window: int = 0", "soft_cap: float = 0"}});
}

}  // namespace tfjs_lora
