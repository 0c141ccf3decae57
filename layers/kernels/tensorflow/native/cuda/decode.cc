#include <algorithm>
#include <array>
#include <cmath>

#include "device.h"
#include "kernel_arguments.h"

namespace tfjs_lora::cuda {
namespace {

/** Sequences at once, and threads of a block where kernels leave their number open. */
constexpr int kMaxRows = 8, kThreads = 256;
/** Positions that a block of threads attends to; as many more are other blocks'. */
constexpr int kSpan = 128;

int logarithmOf(int powerOfTwo) {
  int log = 0;
  while (powerOfTwo >> (log + 1)) log++;
  return log;
}

/** One position of a few sequences through all blocks. */
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
      const auto [q, k, v] = multiply<3>({&block.q, &block.k, &block.v}, input, block.inputNorm);
      attend(i, q, k, v);
      const auto [o] = multiply<1>({&block.o}, attended_, nullptr);
      add(input, o, h_);
      const auto [gate, up] = multiply<2>({&block.gate, &block.up}, h_, block.postNorm);
      launch("decode:gateResults", {gridFor(s_.intermediate, kThreads).x, n_}, kThreads, 0, gate, up,
                             gated_, static_cast<int>(s_.intermediate));
      const auto [down] = multiply<1>({&block.down}, gated_, nullptr);
      add(h_, down, y);
    }
  }

 private:
  /** Products of one input, which is normalized first where there is a norm. */
  template <int COUNT>
  std::array<Result, COUNT> multiply(const std::array<const Projection*, COUNT>& projections, const float* x,
                                     const float* norm) {
    Product p = {};
    std::array<Result, COUNT> results;
    int64_t groups = 0;
    for (int i = 0; i < COUNT; i++) {
      const Projection& each = *projections[i];
      const Matrix& m = each.weight;
      const bool isNested = m.nestedBlockSize > 0;
      p.parts[i] = {static_cast<Kind>(m.kind), static_cast<int>(m.rows), each.rank, m.data, isNested ? m.nestedAbsmax : m.absmax,
                    isNested ? m.absmaxCodes : nullptr, m.map, m.scales, each.a, m.offset,
                    logarithmOf(m.blockSize), logarithmOf(m.nestedBlockSize),
                    p.width, p.slots};
      results[i] = {result_, low_, each.b, 0, 0, p.slots, each.rank, each.scaling};
      results[i].y += p.width;
      p.width += static_cast<int>(m.rows);
      p.slots += each.rank;
      groups += (m.rows + kRowsPerWarp - 1) / kRowsPerWarp + (each.rank + kRowsPerWarp - 1) / kRowsPerWarp;
    }
    for (Result& each : results) {
      each.width = p.width;
      each.slots = p.slots;
    }
    p.count = COUNT;
    p.cols = static_cast<int>(projections[0]->weight.cols);
    p.batch = n_;
    p.x = x;
    p.norm = norm;
    p.epsilon = s_.epsilon;
    p.y = result_;
    p.low = low_;
    const int rows = n_ == 1 ? 1 : n_ == 2 ? 2 : n_ <= 4 ? 4 : 8;
    const std::string name = "decode:multiplyRows" + std::to_string(rows);
    const size_t shared = rows * chunkOf(rows) * sizeof(float);
    launch(name.c_str(), gridFor(groups * 32, kThreads), kThreads, shared, p);
    return results;
  }

  template <class... Arguments>
  void launch(const char* name, Grid grid, int threads, size_t shared, Arguments... arguments) {
    device_.kernels.launchAhead(stream_, name, grid, threads, shared, arguments...);
  }

  void attend(size_t layer, const Result& q, const Result& k, const Result& v) {
    const int dim = static_cast<int>(s_.headDim), perGroup = static_cast<int>(s_.heads / s_.keyValueHeads);
    const Decode d = {q,
                               k,
                               v,
                               s_.cos,
                               s_.sin,
                               static_cast<int>(s_.tablesPerSequence),
                               caches_.keys[layer],
                               caches_.values[layer],
                               s_.segments,
                               static_cast<int>(caches_.segmentStride),
                               static_cast<int>(caches_.past),
                               static_cast<int>(caches_.capacity),
                               static_cast<int>(s_.heads),
                               static_cast<int>(s_.keyValueHeads),
                               dim,
                               kSpan,
                               static_cast<float>(1 / std::sqrt(static_cast<double>(dim))),
                               parts_};
    const size_t shared = sizeof(float) * (perGroup * (dim + kSpan) + kAttendThreads / 32 * kHeadsAtOnce * dim);
    launch("decode:attendOne", {spans_, s_.keyValueHeads, n_}, kAttendThreads, shared, d);
    launch("decode:joinSpans", {s_.heads, n_}, dim, 0, parts_, spans_, attended_,
                           static_cast<int>(s_.heads), dim);
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

std::string refusal(const Stack& s, const Caches&) {
  for (const Block& b : s.blocks) {
    for (const Projection* p : {&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down}) {
      const Matrix& m = p->weight;
      if ((m.blockSize & (m.blockSize - 1)) != 0 || (m.nestedBlockSize & (m.nestedBlockSize - 1)) != 0) {
        return "blocks of values whose number is no power of 2";
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
