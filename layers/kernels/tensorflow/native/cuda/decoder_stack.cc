#include <algorithm>

#include "adapted_weight.h"
#include "attention.h"
#include "device.h"

namespace tfjs_lora::cuda {
namespace {

constexpr int kThreads = 256;
/**
 * The feed-forward part takes a chunk of rows at a time, a multiple of the step, whose gates take at most this many
 * bytes.
 */
constexpr int64_t kChunkStep = 1024, kChunkBytes = 136 << 20;

/** The four products of a block; queries, keys and values are one product, and so are gate and up. */
struct BlockWeights {
  AdaptedWeight qkv, o, gateUp, down;

  explicit BlockWeights(const Block& b) : qkv({&b.q, &b.k, &b.v}), o({&b.o}), gateUp({&b.gate, &b.up}), down({&b.down}) {}
};

/** Width of each kind of row, with room for the adapters of any block. */
struct Widths {
  int64_t normed = 0, qkv = 0, attended = 0, gateUp = 0, product = 0, slope = 0;

  explicit Widths(const Stack& s) {
    for (const Block& block : s.blocks) {
      const BlockWeights w(block);
      const auto widen = [](int64_t& width, int64_t to) { width = std::max(width, to); };
      widen(normed, s.hidden + std::max(w.qkv.slots(), w.gateUp.slots()));
      widen(qkv, w.qkv.rows() + w.qkv.slots());
      widen(attended, w.o.cols() + w.o.slots());
      widen(gateUp, w.gateUp.rows() + w.gateUp.slots());
      widen(product, s.intermediate + w.down.slots());
      widen(slope, s.hidden + std::max(w.o.slots(), w.down.slots()));
    }
  }
};

/** What a block keeps for backward; if the stack is checkpointed, only `x`. */
struct Kept {
  Rows x, qkv, attended;
  float* logSums = nullptr;
  Rows h, gateUp;
};

size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

/** Lays out the parts of a memory one after the other; without a memory it only counts their bytes. */
class Places {
 public:
  explicit Places(void* memory) : memory_(static_cast<char*>(memory)) {}

  Rows rows(int64_t count, int64_t width) { return {static_cast<Half*>(take(count * width * sizeof(Half))), width}; }
  float* floats(int64_t count) { return static_cast<float*>(take(count * sizeof(float))); }
  size_t bytes() const { return bytes_; }

 private:
  void* take(size_t bytes) {
    void* place = memory_ + bytes_;
    bytes_ += aligned(bytes);
    return place;
  }

  char* memory_;
  size_t bytes_ = 0;
};

Kept keptOf(const Stack& s, const Widths& widths, Places& places) {
  const int64_t n = s.batch * s.length;
  Kept kept;
  kept.x = places.rows(n, s.hidden);
  if (s.checkpointing != Checkpointing::none) return kept;
  kept.qkv = places.rows(n, widths.qkv);
  kept.attended = places.rows(n, widths.attended);
  kept.logSums = places.floats(s.batch * s.heads * s.length);
  kept.h = places.rows(n, s.hidden);
  kept.gateUp = places.rows(n, widths.gateUp);
  return kept;
}

/** A pass over all blocks of a stack, forward or backward. */
class Pass {
 public:
  Pass(Device& device, Stream stream, const Stack& stack, const Allocate& allocate)
      : s_(stack),
        allocate_(allocate),
        widths_(stack),
        n_(stack.batch * stack.length),
        c_{device, stream, allocate(Products::kWorkspaceBytes)},
        host_(device.hostMemory) {
    size_t bytes = 0;
    for (const Block& block : s_.blocks) {
      const BlockWeights w(block);
      bytes = std::max({bytes, aligned(w.qkv.bytes()) + w.o.bytes(), aligned(w.gateUp.bytes()) + w.down.bytes()});
    }
    weights_ = static_cast<char*>(allocate(bytes));
  }
  Pass(const Pass&) = delete;
  /** Copies of blocks' inputs may still run when their memory on the card is given out again, also after a failure. */
  ~Pass() {
    try {
      if (isOnHost_) host_.wait(c_.stream);
    } catch (const std::exception&) {  // the card reports it again at its next call
    }
  }

  void forward(const float* x, float* y, void* saved) {
    const int64_t count = s_.blocks.size();
    const bool areInputsKept = saved && !isOnHost_;
    areAllKept_ = areInputsKept && s_.checkpointing == Checkpointing::none;
    makeBuffers();
    const std::vector<Kept> kept = keptAt(saved);
    const Rows spare[] = {rows(s_.hidden), areInputsKept ? Rows{} : rows(s_.hidden)};
    const auto inputOf = [&](int64_t i) {
      return areInputsKept && i < count ? kept[i].x : spare[areInputsKept ? 0 : i % 2];
    };
    launch("elementwise:toBFloat16", n_ * s_.hidden / 8, x, inputOf(0).data, inputOf(0).stride, n_, width(s_.hidden));
    for (int64_t i = 0; i < count; i++) {
      const Block& block = s_.blocks[i];
      BlockWeights weights(block);
      Kept k = areAllKept_ ? kept[i] : own_;
      k.x = inputOf(i);
      if (saved && isOnHost_) {
        host_.wait(c_.stream);  // waits until the previous input is copied from the place that this block writes to
        host_.store(c_.stream, kept[i].x.data, k.x.data, n_ * s_.hidden * sizeof(Half));
      }
      attend(block, weights, k);
      feedForward(block, weights, k, inputOf(i + 1));
    }
    const Rows last = inputOf(count);
    launch("elementwise:toFloat32", n_ * s_.hidden / 8, last.data, last.stride, y, n_, width(s_.hidden));
  }

  void backward(const void* saved, const float* dy, float* dx) {
    areAllKept_ = s_.checkpointing == Checkpointing::none;
    isBackward_ = true;
    makeBuffers();
    const std::vector<Kept> kept = keptAt(const_cast<void*>(saved));
    const Rows fetched[] = {isOnHost_ ? rows(s_.hidden) : Rows{}, isOnHost_ ? rows(s_.hidden) : Rows{}};
    const auto fetch = [&](int64_t i) {
      if (isOnHost_ && i >= 0) {
        host_.fetch(c_.stream, fetched[i % 2].data, kept[i].x.data, n_ * s_.hidden * sizeof(Half));
      }
    };
    const Rows d = rows(widths_.slope);
    const int64_t last = static_cast<int64_t>(s_.blocks.size()) - 1;
    fetch(last);
    launch("elementwise:toBFloat16", n_ * s_.hidden / 8, dy, d.data, d.stride, n_, width(s_.hidden));
    for (int64_t i = last; i >= 0; i--) {
      const Block& block = s_.blocks[i];
      BlockWeights weights(block);
      Kept k = areAllKept_ ? kept[i] : own_;
      k.x = isOnHost_ ? fetched[i % 2] : kept[i].x;
      if (isOnHost_) host_.wait(c_.stream);
      fetch(i - 1);  // while this block is computed, into the place of the one after it
      if (!areAllKept_) attend(block, weights, k);
      feedForwardGrad(block, weights, k, d);
      attendGrad(block, weights, k, d, i > 0 || dx);
    }
    if (dx) launch("elementwise:toFloat32", n_ * s_.hidden / 8, d.data, d.stride, dx, n_, width(s_.hidden));
  }

 private:
  Rows rows(int64_t width) { return rows(width, n_); }
  Rows rows(int64_t width, int64_t count) {
    return {static_cast<Half*>(allocate_(count * width * sizeof(Half))), width};
  }
  int64_t chunkRows() const {
    const int64_t fitting = kChunkBytes / (widths_.gateUp * static_cast<int64_t>(sizeof(Half)));
    return std::min(n_, std::max(kChunkStep, fitting / kChunkStep * kChunkStep));
  }
  float* floats(int64_t count) { return static_cast<float*>(allocate_(count * sizeof(float))); }
  static int width(int64_t width) { return static_cast<int>(width); }

  /** Starts a kernel with a thread per item. */
  template <class... Arguments>
  void launch(const char* name, int64_t items, Arguments... arguments) {
    c_.device.kernels.launch(c_.stream, name, gridFor(items, kThreads), kThreads, 0, arguments...);
  }

  /** Returns where forward saves each block's results; empty without a memory for them. */
  std::vector<Kept> keptAt(void* saved) const {
    Places places(saved);
    std::vector<Kept> kept;
    for (size_t i = 0; saved && i < s_.blocks.size(); i++) kept.push_back(keptOf(s_, widths_, places));
    return kept;
  }

  /** Allocates memory for layouts that are never in use at the same time: each takes its parts of it. */
  template <class... Layouts>
  void overlay(Layouts... layouts) {
    const auto bytesOf = [](auto layout) {
      Places counted(nullptr);
      layout(counted);
      return counted.bytes();
    };
    void* memory = allocate_(std::max({bytesOf(layouts)...}));
    const auto place = [&](auto layout) {
      Places places(memory);
      layout(places);
    };
    (place(layouts), ...);
  }

  void makeBuffers() {
    const int64_t logSums = s_.batch * s_.heads * s_.length;
    const auto inFeedForward = [&](Places& places) {
      normedH_ = places.rows(chunkRows(), widths_.normed);
      product_ = places.rows(chunkRows(), widths_.product);
      if (!areAllKept_) own_.h = places.rows(n_, s_.hidden);
      if (!areAllKept_ || isBackward_) chunkGateUp_ = places.rows(chunkRows(), widths_.gateUp);
    };
    normed_ = rows(widths_.normed);
    if (!areAllKept_) {
      own_.qkv = rows(widths_.qkv);
      own_.attended = rows(widths_.attended);
      own_.logSums = floats(logSums);
    }
    if (!isBackward_) return overlay(inFeedForward);
    overlay(inFeedForward, [&](Places& places) { dQkv_ = places.rows(n_, widths_.qkv); });
    along_ = floats(logSums);
    temporary_ = rows(std::max(s_.hidden, s_.heads * s_.headDim));
    int64_t firstSums = 0, secondSums = 0;
    for (const Block& block : s_.blocks) {
      const BlockWeights w(block);
      firstSums = std::max({firstSums, w.qkv.gradientSize(), w.gateUp.gradientSize()});
      secondSums = std::max({secondSums, w.o.gradientSize(), w.down.gradientSize()});
    }
    firstSums_ = floats(firstSums);
    secondSums_ = floats(secondSums);
  }

  void assemble(AdaptedWeight& first, AdaptedWeight& second) {
    first.assemble(c_.device, c_.stream, weights_);
    second.assemble(c_.device, c_.stream, weights_ + aligned(first.bytes()));
  }

  void normalize(int64_t count, Rows x, const float* weight, Rows y) {
    c_.device.kernels.launch(c_.stream, "elementwise:rmsNorm", {count}, kThreads, 0, x.data, x.stride, weight, y.data,
                             y.stride, width(s_.hidden), s_.epsilon);
  }

  /** Adds to d the gradient of a norm's input. */
  void normalizeGrad(int64_t count, Rows dy, Rows x, const float* weight, Rows d) {
    c_.device.kernels.launch(c_.stream, "elementwise:rmsNormGrad", {count}, kThreads, 0, dy.data, dy.stride, x.data, x.stride,
                             weight, d.data, d.stride, d.data, d.stride, width(s_.hidden), s_.epsilon);
  }

  /** Rotates queries and keys; sign −1 inverts the rotation. */
  void rotate(Rows qkv, float sign) {
    const int64_t heads = s_.heads + s_.keyValueHeads;
    launch("elementwise:rotate", n_ * heads * s_.headDim / 16, qkv.data, qkv.stride, s_.cos, s_.sin, sign, n_,
           width(s_.length), width(heads), width(s_.headDim), static_cast<int>(s_.tablesPerSequence));
  }

  AttentionCall attentionOf(Rows qkv) const {
    return {s_.batch, s_.length, s_.heads, s_.keyValueHeads, s_.headDim, s_.segments, qkv};
  }

  /** x → normed → qkv → attended → h, the sum of x and attention's output. */
  void attend(const Block& block, BlockWeights& weights, const Kept& k) {
    assemble(weights.qkv, weights.o);
    normalize(n_, k.x, block.inputNorm, normed_);
    weights.qkv.addLow(c_, n_, normed_);
    weights.qkv.forward(c_, n_, normed_, k.qkv);
    rotate(k.qkv, 1);
    attention(c_.device, c_.stream, attentionOf(k.qkv), k.attended, k.logSums);
    weights.o.addLow(c_, n_, k.attended);
    weights.o.forward(c_, n_, k.attended, k.h, k.x);
  }

  /** For rows from `row` on: h → normedH → gateUp → product. */
  Rows gated(const Block& block, const BlockWeights& weights, const Kept& k, int64_t row, int64_t count, bool isKnown) {
    const Rows gateUp = areAllKept_ ? k.gateUp.from(row) : chunkGateUp_;
    normalize(count, k.h.from(row), block.postNorm, normedH_);
    weights.gateUp.addLow(c_, count, normedH_);
    if (!isKnown) weights.gateUp.forward(c_, count, normedH_, gateUp);
    launch("elementwise:swiGLU", count * s_.intermediate / 8, gateUp.data, gateUp.stride, product_.data, product_.stride,
           count, width(s_.intermediate));
    weights.down.addLow(c_, count, product_);
    return gateUp;
  }

  template <class Body>
  void forEachChunk(Body body) {
    for (int64_t row = 0; row < n_; row += chunkRows()) body(row, std::min(chunkRows(), n_ - row));
  }

  void feedForward(const Block& block, BlockWeights& weights, const Kept& k, Rows y) {
    assemble(weights.gateUp, weights.down);
    forEachChunk([&](int64_t row, int64_t count) {
      gated(block, weights, k, row, count, false);
      weights.down.forward(c_, count, product_, y.from(row), k.h.from(row));
    });
  }

  /** Turns d, the gradient of the block's output, into that of h. */
  void feedForwardGrad(const Block& block, BlockWeights& weights, const Kept& k, Rows d) {
    assemble(weights.gateUp, weights.down);
    forEachChunk([&](int64_t row, int64_t count) {
      const Rows gateUp = gated(block, weights, k, row, count, areAllKept_), own = d.from(row);
      weights.down.addLowSlope(c_, count, own);
      weights.down.addGradients(c_, count, product_, own, secondSums_, row == 0);
      weights.down.backward(c_, count, own, product_);  // the product is not read again
      launch("elementwise:swiGLUGrad", count * s_.intermediate / 8, product_.data, product_.stride, gateUp.data,
             gateUp.stride, chunkGateUp_.data, chunkGateUp_.stride, count, width(s_.intermediate));
      weights.gateUp.addLowSlope(c_, count, chunkGateUp_);
      weights.gateUp.addGradients(c_, count, normedH_, chunkGateUp_, firstSums_, row == 0);
      weights.gateUp.backward(c_, count, chunkGateUp_, temporary_);
      normalizeGrad(count, temporary_, k.h.from(row), block.postNorm, own);
    });
    weights.gateUp.giveGradients(c_, firstSums_);
    weights.down.giveGradients(c_, secondSums_);
  }

  /** Turns d, the gradient of h, into that of the block's input, if wanted. */
  void attendGrad(const Block& block, BlockWeights& weights, const Kept& k, Rows d, bool isWanted) {
    assemble(weights.qkv, weights.o);
    if (areAllKept_) {
      normalize(n_, k.x, block.inputNorm, normed_);
      weights.qkv.addLow(c_, n_, normed_);
    }
    weights.o.addLowSlope(c_, n_, d);
    weights.o.addGradients(c_, n_, k.attended, d, secondSums_, true);
    weights.o.backward(c_, n_, d, temporary_);
    attentionGrad(c_.device, c_.stream, attentionOf(k.qkv), k.attended, k.logSums, temporary_, along_, dQkv_);
    rotate(dQkv_, -1);
    weights.qkv.addLowSlope(c_, n_, dQkv_);
    weights.qkv.addGradients(c_, n_, normed_, dQkv_, firstSums_, true);
    if (isWanted) {
      weights.qkv.backward(c_, n_, dQkv_, temporary_);
      normalizeGrad(n_, temporary_, k.x, block.inputNorm, d);
    }
    weights.qkv.giveGradients(c_, firstSums_);
    weights.o.giveGradients(c_, secondSums_);
  }

  const Stack& s_;
  const Allocate& allocate_;
  const Widths widths_;
  const int64_t n_;
  const AdaptedWeight::Context c_;
  /** Memory in which the weights of half a block are assembled. */
  char* weights_;
  HostMemory& host_;
  const bool isOnHost_ = s_.checkpointing == Checkpointing::onHost;
  bool areAllKept_ = false, isBackward_ = false;
  /** Results that a block does not keep; the rows of `normedH_`, `product_` and `chunkGateUp_` are those of a chunk. */
  Rows normed_, normedH_, product_, chunkGateUp_;
  Kept own_;
  /**
   * For backward. The sums are for the gradients of the adapters: of queries, keys and values or gate and up, and of
   * the others.
   */
  float *along_ = nullptr, *firstSums_ = nullptr, *secondSums_ = nullptr;
  Rows dQkv_, temporary_;
};

std::string refusal(const Projection& p) {
  const Matrix& m = p.weight;
  if (m.cols % 16 != 0 || m.rows % 16 != 0) return "a weight whose sides are not multiples of 16";
  const bool isFourBit = m.kind == Matrix::nf4 || m.kind == Matrix::fp4;
  if (isFourBit && m.blockSize % 16 != 0) return "a block size that is not a multiple of 16";
  return "";
}

}  // namespace

std::string refusal(const Stack& s) {
  if (s.headDim != 64 && s.headDim != 128) return "heads of " + std::to_string(s.headDim) + ", neither 64 nor 128";
  for (const Block& b : s.blocks) {
    for (const Projection* p : {&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down}) {
      if (const std::string why = refusal(*p); !why.empty()) return why;
    }
  }
  return "";
}

size_t savedBytes(const Stack& s) {
  const Widths widths(s);
  Places places(nullptr);
  for (size_t i = 0; i < s.blocks.size(); i++) keptOf(s, widths, places);
  return places.bytes();
}

void* takeHostMemory(Device& device, Stream stream, size_t bytes) {
  const InContextOf context(stream);
  return device.hostMemory.take(bytes);
}

void giveHostMemory(Device& device, void* memory) { device.hostMemory.give(memory); }

void forward(Device& device, Stream stream, const Stack& stack, const float* x, float* y, void* saved,
             const Allocate& allocate) {
  const InContextOf context(stream);
  if (saved && stack.checkpointing != Checkpointing::onHost) device.hostMemory.freeSpare();
  Pass(device, stream, stack, allocate).forward(x, y, saved);
}

void backward(Device& device, Stream stream, const Stack& stack, const void* saved, const float* dy, float* dx,
              const Allocate& allocate) {
  const InContextOf context(stream);
  Pass(device, stream, stack, allocate).backward(saved, dy, dx);
}

}  // namespace tfjs_lora::cuda
