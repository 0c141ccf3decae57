#include "decode.h"

#include <algorithm>
#include <cmath>

#include "device.h"

namespace tfjs_lora::cuda {
namespace {

/** The most sequences in one call, and the threads of a block in kernels that take any number. */
constexpr int kMaxRows = 8, kThreads = 256;
/** Number of positions that a block of threads attends to; other blocks take the rest. */
constexpr int kSpan = 128;

int logarithmOf(int powerOfTwo) {
  int log = 0;
  while (powerOfTwo >> (log + 1)) log++;
  return log;
}

/** Computes one position of a few sequences through all blocks. */
class Step {
 public:
  Step(Device& device, Stream stream, const Stack& stack, const Caches& caches, const Allocate& allocate)
      : device_(device), stream_(stream), s_(stack), caches_(caches), n_(static_cast<int>(stack.batch)) {
    const int64_t qkv = (s_.heads + 2 * s_.keyValueHeads) * s_.headDim;
    int slots = 1;
    for (const Block& b : s_.blocks) {
      slots = std::max({slots, b.q.rank + b.k.rank + b.v.rank, b.o.rank, b.gate.rank + b.up.rank, b.down.rank});
    }
    const auto floats = [&](int64_t count) { return static_cast<float*>(allocate(n_ * count * sizeof(float))); };
    result_ = floats(std::max({qkv, 2 * s_.intermediate, s_.hidden}));
    low_ = floats(slots);
    attended_ = floats(s_.heads * s_.headDim);
    gated_ = floats(s_.intermediate);
    spans_ = static_cast<int>((caches.past + kSpan) / kSpan);
    parts_ = floats(s_.heads * spans_ * (s_.headDim + 2));
    h_ = floats(s_.hidden);
  }

  void run(const float* x, float* y) {
    for (size_t i = 0; i < s_.blocks.size(); i++) {
      const Block& block = s_.blocks[i];
      const float* input = i == 0 ? x : y;
      attend(i, multiply({&block.q, &block.k, &block.v}, input, block.inputNorm));
      add(input, multiply({&block.o}, attended_, nullptr)[0], h_);
      const std::vector<Result> both = multiply({&block.gate, &block.up}, h_, block.postNorm);
      launch("decode:gateResults", {gridFor(s_.intermediate, kThreads).x, n_}, kThreads, 0, both[0], both[1], gated_,
             static_cast<int>(s_.intermediate));
      add(h_, multiply({&block.down}, gated_, nullptr)[0], y);
    }
  }

 private:
  /** Multiplies one input, which is normalized first if there is a norm. */
  std::vector<Result> multiply(const std::vector<const Projection*>& projections, const float* x, const float* norm) {
    std::vector<Result> results;
    Product p = productOf(projections, n_, {result_, low_}, norm, s_.epsilon, results);
    p.x = x;
    int64_t groups = 0;
    for (const Projection* each : projections) {
      groups += (each->weight.rows + kRowsPerWarp - 1) / kRowsPerWarp + (each->rank + kRowsPerWarp - 1) / kRowsPerWarp;
    }
    const int rows = n_ == 1 ? 1 : n_ == 2 ? 2 : n_ <= 4 ? 4 : 8;
    const std::string name = "decode:multiplyRows" + std::to_string(rows);
    launch(name.c_str(), gridFor(groups * 32, kThreads), kThreads, rows * chunkOf(rows) * sizeof(float), p);
    return results;
  }

  template <class... Arguments>
  void launch(const char* name, Grid grid, int threads, size_t shared, Arguments... arguments) {
    device_.kernels.launchAhead(stream_, name, grid, threads, shared, arguments...);
  }

  void attend(size_t layer, const std::vector<Result>& queryKeyValue) {
    const int dim = static_cast<int>(s_.headDim), perGroup = static_cast<int>(s_.heads / s_.keyValueHeads);
    Decode d = attentionOf(s_, caches_, layer, queryKeyValue, parts_);
    d.past = static_cast<int>(caches_.past);
    d.span = kSpan;
    const size_t shared = sizeof(float) * sharedToAttend(dim, kSpan, perGroup, kAttendThreads);
    launch("decode:attendOne", {spans_, s_.keyValueHeads, n_}, kAttendThreads, shared, d);
    launch("decode:joinSpans", {s_.heads, n_}, dim, 0, parts_, spans_, attended_, static_cast<int>(s_.heads), dim);
  }

  void add(const float* x, const Result& result, float* y) {
    launch("decode:addResult", {gridFor(s_.hidden, kThreads).x, n_}, kThreads, 0, x, result, y,
           static_cast<int>(s_.hidden));
  }

  Device& device_;
  Stream stream_;
  const Stack& s_;
  const Caches& caches_;
  const int n_;
  float *result_, *low_, *attended_, *gated_, *parts_, *h_;
  int spans_;
};

}  // namespace

Product productOf(const std::vector<const Projection*>& projections, int batch, ProductResults to, const float* norm,
                  float epsilon, std::vector<Result>& results) {
  Product p = {};
  p.count = static_cast<int>(projections.size());
  results.clear();
  for (int i = 0; i < p.count; i++) {
    const Projection& each = *projections[i];
    const Matrix& m = each.weight;
    const bool isNested = m.nestedBlockSize > 0;
    p.parts[i] = {static_cast<Kind>(m.kind), static_cast<int>(m.rows), each.rank, m.data, isNested ? m.nestedAbsmax : m.absmax,
                  isNested ? m.absmaxCodes : nullptr, m.map, m.scales, each.a, m.offset,
                  logarithmOf(m.blockSize), logarithmOf(m.nestedBlockSize), p.width, p.slots};
    results.push_back({to.y + p.width, to.low, each.b, 0, 0, p.slots, each.rank, each.scaling});
    p.width += static_cast<int>(m.rows);
    p.slots += each.rank;
  }
  for (Result& each : results) {
    each.width = p.width;
    each.slots = p.slots;
  }
  p.cols = static_cast<int>(projections[0]->weight.cols);
  p.batch = batch;
  p.norm = norm;
  p.epsilon = epsilon;
  p.y = to.y;
  p.low = to.low;
  return p;
}

Decode attentionOf(const Stack& s, const Caches& caches, size_t i, const std::vector<Result>& queryKeyValue, float* parts) {
  Decode d = {};
  d.query = queryKeyValue[0];
  d.key = queryKeyValue[1];
  d.value = queryKeyValue[2];
  d.cos = s.cos;
  d.sin = s.sin;
  d.perSequence = s.tablesPerSequence;
  d.keys = caches.keys[i];
  d.values = caches.values[i];
  d.segments = s.segments;
  d.segmentStride = static_cast<int>(caches.segmentStride);
  d.capacity = static_cast<int>(caches.capacity);
  d.heads = static_cast<int>(s.heads);
  d.keyValueHeads = static_cast<int>(s.keyValueHeads);
  d.dim = static_cast<int>(s.headDim);
  d.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(s.headDim)));
  d.parts = parts;
  return d;
}

std::string refusal(const Stack& s, const Caches&) {
  for (const Block& b : s.blocks) {
    for (const Projection* p : {&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down}) {
      const Matrix& m = p->weight;
      if ((m.blockSize & (m.blockSize - 1)) != 0 || (m.nestedBlockSize & (m.nestedBlockSize - 1)) != 0) {
        return "a block size that is not a power of 2";
      }
      if (m.rows * m.cols > INT32_MAX) return "a weight of more than 2^31 values";
    }
  }
  if (s.length != 1 || s.batch > kMaxRows) return "more than " + std::to_string(kMaxRows) + " new tokens";
  return refusal(s);
}

void decode(Device& device, Stream stream, const Stack& stack, const Caches& caches, const float* x, float* y,
            const Allocate& allocate) {
  const InContextOf context(stream);
  Step(device, stream, stack, caches, allocate).run(x, y);
}

void greedyChoice(Device& device, Stream stream, int64_t rows, int64_t width, const float* logits, float* choice) {
  constexpr int kRowThreads = 1024;
  const InContextOf context(stream);
  device.kernels.launch(stream, "decode:greedyChoice", {rows}, kRowThreads, 0, logits, static_cast<int>(width), choice);
}

}  // namespace tfjs_lora::cuda
