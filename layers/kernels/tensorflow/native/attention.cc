#include "ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "hidden.h"
#include "parallel.h"
#include "tile_product.h"

namespace tfjs_lora {
namespace {

/** Number of queries and of keys in a tile of scores: 9 KB, and whole register tiles of 6 by 16. */
constexpr int64_t kTile = 48;

/** B sequences, K key-value heads of size D, each for G query heads; T queries, the last of S positions. */
struct Sizes {
  int64_t batch, groups, perGroup, length, sourceLength, dim;

  /** @param query, key numbers of the inputs `query [B, H, T, D]` and `key [B, K, S, D]` */
  Sizes(const Call& call, int query, int key)
      : batch(call.dim(query, 0)),
        groups(call.dim(key, 1)),
        perGroup(call.dim(query, 1) / call.dim(key, 1)),
        length(call.dim(query, 2)),
        sourceLength(call.dim(key, 2)),
        dim(call.dim(query, 3)) {}

  int64_t past() const { return sourceLength - length; }
  int64_t heads() const { return groups * perGroup; }
};

int64_t blocksOf(int64_t size) { return (size + kTile - 1) / kTile; }

/** What scores are computed with. */
struct Scoring {
  float scale, softCap;
  bool isCausal;
  int64_t window;

  explicit Scoring(const Attributes& attributes)
      : scale(attributes.number("scale")),
        softCap(attributes.number("soft_cap")),
        isCausal(attributes.flag("causal")),
        window(attributes.integer("window")) {}

  /** Bounds plain scores; those that are multiplied by `scale` later are then within ±softCap. */
  void bound(float* scores, int64_t count) const {
    if (softCap == 0) return;
    for (int64_t j = 0; j < count; j++) scores[j] = softCap / scale * std::tanh(scores[j] * scale / softCap);
  }

  /** Multiplies what slopes are above `pull` by how fast the bounded scores grow with the plain ones. */
  void slope(const float* scores, int64_t count, float pull, float* slopes) const {
    if (softCap == 0) return;
    for (int64_t j = 0; j < count; j++) {
      const float share = scores[j] * scale / softCap;
      slopes[j] = pull + (slopes[j] - pull) * (1 - share * share);
    }
  }
};

/** Which keys the queries of one sequence see. */
class Mask {
 public:
  /** @param segments the sequence's segments, `[S]`, or null */
  Mask(const Scoring& scoring, const int32_t* segments, const Sizes& sizes)
      : isCausal_(scoring.isCausal),
        window_(scoring.isCausal ? scoring.window : 0),
        segments_(segments),
        past_(sizes.past()),
        sourceLength_(sizes.sourceLength) {}

  /** The first key that queries from `begin` on may see. */
  int64_t first(int64_t begin) const { return window_ > 0 ? std::max<int64_t>(0, past_ + begin + 1 - window_) : 0; }

  /** The keys before this one are all that queries before `end` see. */
  int64_t visible(int64_t end) const { return isCausal_ ? past_ + end : sourceLength_; }

  /** Whether no query of `[begin, end)` sees a key of `[from, to)`. */
  bool hidesAll(int64_t begin, int64_t end, int64_t from, int64_t to) const {
    if (from >= visible(end) || to <= first(begin)) return true;
    if (!segments_) return false;
    const auto [leastQuery, mostQuery] = rangeOf(past_ + begin, past_ + end);
    const auto [leastKey, mostKey] = rangeOf(from, to);
    return mostQuery < 0 || mostKey < 0 || mostQuery < leastKey || mostKey < leastQuery;
  }

  /** Hides scores of query `t` and `count` keys from `from` on; those up to the next multiple of 8 too. */
  void apply(int64_t t, int64_t from, int64_t count, float* scores) const {
    int64_t shown = std::min(count, isCausal_ ? std::max<int64_t>(0, past_ + t + 1 - from) : count);
    if (segments_) {
      const int32_t own = segments_[past_ + t];
      for (int64_t j = 0; j < shown; j++) {
        if (segments_[from + j] != own || own == 0) scores[j] = kHidden;
      }
    }
    const int64_t before = std::min(count, std::max<int64_t>(0, first(t) - from));
    for (int64_t j = 0; j < before; j++) scores[j] = kHidden;
    for (int64_t j = shown; j < padded(count); j++) scores[j] = kHidden;
  }

 private:
  /** The smallest and the largest of the segments except 0; {INT32_MAX, -1} if there are none. */
  std::pair<int32_t, int32_t> rangeOf(int64_t begin, int64_t end) const {
    int32_t least = INT32_MAX, most = -1;
    for (int64_t i = begin; i < end; i++) {
      if (segments_[i] == 0) continue;
      least = std::min(least, segments_[i]);
      most = std::max(most, segments_[i]);
    }
    return {least, most};
  }

  bool isCausal_;
  int64_t window_;
  const int32_t* segments_;
  int64_t past_, sourceLength_;
};

/** Memory of a thread, grown as needed. */
float* scratch(int64_t size) {
  thread_local std::vector<float> memory;
  if (static_cast<int64_t>(memory.size()) < size) memory.resize(size);
  return memory.data();
}

/** Writes `count` rows of D as `[D, kTile]`, with zeros after the last. */
void transposeTile(const float* rows, int64_t count, int64_t dim, float* to) {
  for (int64_t d = 0; d < dim; d++) {
    for (int64_t j = 0; j < count; j++) to[d * kTile + j] = rows[j * dim + d];
    std::memset(to + d * kTile + count, 0, (kTile - count) * sizeof(float));
  }
}

/**
 * query `[B, H, T, D]`, key and value `[B, K, S, D]`, segments none or `[B, S]` → y as query, and the logarithm of the
 * sum of each query's exponentials, `[B, H, T]`. Only the scores of a tile exist at a time: Dao et al. 2022.
 */
class Attention {
 public:
  explicit Attention(const Attributes& attributes) : scoring_(attributes) {}

  void run(Call& call) {
    const Sizes sizes(call, 0, 1);
    const int64_t length = sizes.length, heads = sizes.batch * sizes.groups;  // of the keys
    const float *query = call.input(0), *key = call.input(1), *value = call.input(2);
    const int32_t* segments = call.inputCount() > 3 ? call.input<int32_t>(3) : nullptr;
    float* y = call.output(0, call.shape(0));
    float* sums = call.output(1, {sizes.batch, sizes.heads(), length});
    const int64_t blocks = blocksOf(length);
    const int64_t work = sizes.batch * sizes.heads() * length * sizes.sourceLength * 4;
    parallelFor(heads * blocks, work, [&](int64_t part) {
      const int64_t head = part % heads, begin = (blocks - 1 - part / heads) * kTile;  // the longest blocks come first
      const int64_t row = head * sizes.perGroup * length, source = head * sizes.sourceLength;
      const Mask mask(scoring_, segments ? segments + head / sizes.groups * sizes.sourceLength : nullptr, sizes);
      attend(query + row * sizes.dim, key + source * sizes.dim, value + source * sizes.dim, mask, sizes, begin,
             y + row * sizes.dim, sums + row);
    });
  }

 private:
  /** One block of queries of all heads of a group. */
  void attend(const float* query, const float* key, const float* value, const Mask& mask, const Sizes& sizes,
              int64_t begin, float* y, float* sums) const {
    const int64_t dim = sizes.dim, length = sizes.length, perGroup = sizes.perGroup;
    const int64_t end = std::min(length, begin + kTile), rows = end - begin;
    float* keys = scratch(kTile * dim + kTile * kTile + 2 * perGroup * kTile);
    float* scores = keys + kTile * dim;
    float* largest = scores + kTile * kTile;  // [G, kTile]
    float* total = largest + perGroup * kTile;
    std::fill(largest, largest + perGroup * kTile, kLowest);
    std::fill(total, total + perGroup * kTile, 0.0f);
    for (int64_t g = 0; g < perGroup; g++) std::fill_n(y + (g * length + begin) * dim, rows * dim, 0.0f);
    const int64_t visible = mask.visible(end);
    for (int64_t from = mask.first(begin) / kTile * kTile; from < visible; from += kTile) {
      const int64_t count = std::min(kTile, visible - from);
      if (mask.hidesAll(begin, end, from, from + count)) continue;
      transposeTile(key + from * dim, count, dim, keys);
      for (int64_t g = 0; g < perGroup; g++) {
        const int64_t row = g * length + begin;
        tileProduct(rows, padded(count), dim, {query + row * dim, dim, 1}, keys, kTile, false, scores, kTile);
        for (int64_t i = 0; i < rows; i++) {
          float* own = scores + i * kTile;
          scoring_.bound(own, count);
          mask.apply(begin + i, from, count, own);
          addExponentials(own, padded(count), largest[g * kTile + i], total[g * kTile + i], y + (row + i) * dim, dim);
        }
        tileProduct(rows, dim, count, {scores, kTile, 1}, value + from * dim, dim, true, y + row * dim, dim);
      }
    }
    for (int64_t g = 0; g < perGroup; g++) {
      for (int64_t i = 0; i < rows; i++) {
        const float sum = total[g * kTile + i];
        const int64_t row = g * length + begin + i;
        scaleRow(y + row * dim, dim, sum > 0 ? 1 / sum : 0);
        sums[row] = sum > 0 ? largest[g * kTile + i] + std::log(sum) : 0;
      }
    }
  }

  /**
   * Turns scores into exponentials relative to the largest so far; earlier sums relative to a smaller one are scaled
   * down.
   */
  void addExponentials(float* scores, int64_t count, float& largest, float& total, float* y, int64_t dim) const {
    Vec most = splat(kLowest);
    for (int64_t j = 0; j < count; j += kLanes) most = larger(most, load(scores + j) * scoring_.scale);
    const float next = std::max(largest, largestOf(most));
    Vec sum = {};
    for (int64_t j = 0; j < count; j += kLanes) {
      const Vec weight = exp(load(scores + j) * scoring_.scale - next);
      store(scores + j, weight);
      sum += weight;
    }
    if (next > largest) {
      const float factor = exp(splat(largest - next))[0];
      total *= factor;
      scaleRow(y, dim, factor);
    }
    total += sumOf(sum);
    largest = next;
  }

  static void scaleRow(float* row, int64_t dim, float factor) {
    for (int64_t d = 0; d < dim; d += kLanes) store(row + d, load(row + d) * factor);
  }

  Scoring scoring_;
};

/** dy, query, key, value, y, the logarithms of {@link Attention}, segments → the gradients of query, key and value. */
class AttentionGrad {
 public:
  explicit AttentionGrad(const Attributes& attributes) : scoring_(attributes) {}

  void run(Call& call) {
    const Sizes sizes(call, 1, 2);
    const float *dy = call.input(0), *query = call.input(1), *key = call.input(2), *value = call.input(3);
    const float *y = call.input(4), *sums = call.input(5);
    const int32_t* segments = call.inputCount() > 6 ? call.input<int32_t>(6) : nullptr;
    float* dQuery = call.output(0, call.shape(1));
    float* dKey = call.output(1, call.shape(2));
    float* dValue = call.output(2, call.shape(3));
    const int64_t work = sizes.batch * sizes.heads() * sizes.length * sizes.sourceLength * 10;
    parallelFor(sizes.batch * sizes.groups, work, [&](int64_t head) {
      const int64_t sourceLength = sizes.sourceLength;
      const int64_t row = head * sizes.perGroup * sizes.length, from = row * sizes.dim;
      const int64_t source = head * sourceLength * sizes.dim;
      const Mask mask(scoring_, segments ? segments + head / sizes.groups * sourceLength : nullptr, sizes);
      const Group group{dy + from,    query + from,  y + from,      sums + row,     key + source,
                        value + source, dQuery + from, dKey + source, dValue + source};
      backward(group, mask, sizes);
    });
  }

 private:
  /** Memory of a key-value head and of its query heads. */
  struct Group {
    const float *dy, *query, *y, *sums, *key, *value;
    float *dQuery, *dKey, *dValue;
  };

  void backward(const Group& group, const Mask& mask, const Sizes& sizes) const {
    const int64_t dim = sizes.dim, length = sizes.length, sourceLength = sizes.sourceLength;
    const int64_t rows = sizes.perGroup * length;
    float* keys = scratch(2 * kTile * dim + 2 * kTile * kTile + rows);
    float* values = keys + kTile * dim;
    float* weights = values + kTile * dim;
    float* slopes = weights + kTile * kTile;
    float* along = slopes + kTile * kTile;  // dy · y of each query
    std::fill_n(group.dQuery, rows * dim, 0.0f);
    std::fill_n(group.dKey, sourceLength * dim, 0.0f);
    std::fill_n(group.dValue, sourceLength * dim, 0.0f);
    for (int64_t row = 0; row < rows; row++) along[row] = dot(group.dy + row * dim, group.y + row * dim, dim);
    for (int64_t from = 0; from < sourceLength; from += kTile) {
      const int64_t count = std::min(kTile, sourceLength - from);
      transposeTile(group.key + from * dim, count, dim, keys);
      transposeTile(group.value + from * dim, count, dim, values);
      for (int64_t begin = 0; begin < length; begin += kTile) {
        const int64_t end = std::min(length, begin + kTile);
        if (mask.hidesAll(begin, end, from, from + count)) continue;
        for (int64_t g = 0; g < sizes.perGroup; g++) {
          const int64_t row = g * length + begin, at = row * dim, queries = end - begin;
          tileProduct(queries, padded(count), dim, {group.query + at, dim, 1}, keys, kTile, false, weights, kTile);
          tileProduct(queries, padded(count), dim, {group.dy + at, dim, 1}, values, kTile, false, slopes, kTile);
          for (int64_t i = 0; i < queries; i++) {
            float *weight = weights + i * kTile, *slope = slopes + i * kTile;
            const float sum = group.sums[row + i], pull = along[row + i];
            scoring_.bound(weight, count);
            scoring_.slope(weight, count, pull, slope);
            mask.apply(begin + i, from, count, weight);
            for (int64_t j = 0; j < padded(count); j += kLanes) {
              const Vec w = exp(load(weight + j) * scoring_.scale - sum);
              store(weight + j, w);
              store(slope + j, w * (load(slope + j) - pull) * scoring_.scale);
            }
          }
          const int64_t place = from * dim;
          tileProduct(count, dim, queries, {weights, 1, kTile}, group.dy + at, dim, true, group.dValue + place, dim);
          tileProduct(count, dim, queries, {slopes, 1, kTile}, group.query + at, dim, true, group.dKey + place, dim);
          tileProduct(queries, dim, count, {slopes, kTile, 1}, group.key + place, dim, true, group.dQuery + at, dim);
        }
      }
    }
  }

  Scoring scoring_;
};

}  // namespace

std::string registerAttention() {
  const std::string failure =
      registerOp<Attention>({"TfjsLoraAttention",
                             {"query: float", "key: float", "value: float", "segments: N * int32"},
                             {"y: float", "sums: float"},
                             {"N: int >= 0", "scale: float", "causal: bool", "window: int = 0", "soft_cap: float = 0"}});
  if (!failure.empty()) return failure;
  return registerOp<AttentionGrad>({"TfjsLoraAttentionGrad",
                                    {"dy: float", "query: float", "key: float", "value: float", "y: float",
                                     "sums: float", "segments: N * int32"},
                                    {"d_query: float", "d_key: float", "d_value: float"},
                                    {"N: int >= 0", "scale: float", "causal: bool", "window: int = 0", "soft_cap: float = 0"}});
}

}  // namespace tfjs_lora
