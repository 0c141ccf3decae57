#include <algorithm>
#include <deque>
#include <stdexcept>

#include "decode.h"
#include "device.h"

namespace tfjs_lora::cuda {
namespace {

/** The most shared memory that the kernel's own variables take. */
constexpr size_t kOwnSharedBytes = 8 << 10;
constexpr int kNotReady = 600;  // CUresult
static_assert(kMaxChained <= Answers::kSize);

/** How positions are divided among blocks of threads. */
struct Spans {
  int count, size;
};

Spans spansOf(const Stack& s, int64_t positions, int multiprocessors) {
  constexpr int64_t kLeast = 32, kMost = 1024;
  const int64_t wanted = std::max<int64_t>(1, multiprocessors / (s.keyValueHeads * s.batch));
  const int64_t size = std::clamp(((positions + wanted - 1) / wanted + 31) / 32 * 32, kLeast, kMost);
  return {static_cast<int>((positions + size - 1) / size), static_cast<int>(size)};
}

/** Returns the number of sequences that the kernel is compiled for. */
int sequencesOf(const Stack& s) { return s.batch <= 2 ? static_cast<int>(s.batch) : kMaxChained; }

size_t sharedBytesOf(const Stack& s, int64_t capacity, int multiprocessors) {
  const int64_t input = sequencesOf(s) * std::max({s.hidden, s.heads * s.headDim, s.intermediate});
  const int64_t attention = sharedToAttend(static_cast<int>(s.headDim), spansOf(s, capacity, multiprocessors).size,
                                           static_cast<int>(s.heads / s.keyValueHeads), kPassThreads);
  return sizeof(float) * std::max(input, attention);
}

}  // namespace

std::string refusal(const Device& device, const Stack& s, const Caches& caches, const Ends& ends) {
  if (const std::string why = refusal(s, caches); !why.empty()) return why;
  if (s.batch > kMaxChained) return "more than " + std::to_string(kMaxChained) + " sequences";
  if (ends.table.kind > Matrix::float32) return "a quantized embedding";
  if (ends.table.cols != s.hidden || ends.head.weight.cols != s.hidden) return "an embedding or a head of another width";
  const Kernels& kernels = device.kernels;
  if (sharedBytesOf(s, caches.capacity, kernels.multiprocessors()) + kOwnSharedBytes > kernels.sharedBytes()) {
    return "a width for which the card's shared memory is too small";
  }
  return "";
}

struct TokenChain::State {
  Device& device;
  Stream stream;
  Stack stack;
  int64_t capacity;
  size_t sharedBytes;
  std::string kernel;
  Pass pass;
  std::deque<volatile uint32_t*> unread;
};

TokenChain::TokenChain(Device& device, Stream stream, const Stack& s, const Caches& caches, const Ends& ends,
                       const Allocate& allocate)
    : state_(new State{device, stream, s, caches.capacity, 0, "", {}, {}}) {
  const InContextOf context(stream);
  const int n = static_cast<int>(s.batch), blocksOfThreads = device.kernels.multiprocessors();
  const auto floats = [&](int64_t count) { return static_cast<float*>(allocate(count * sizeof(float))); };
  const Projection& head = ends.head;
  int slots = head.rank;
  bool isGateAdapted = false;
  for (const Block& b : s.blocks) {
    slots = std::max({slots, b.q.rank + b.k.rank + b.v.rank, b.o.rank, b.gate.rank + b.up.rank, b.down.rank});
    isGateAdapted = isGateAdapted || b.gate.rank + b.up.rank > 0;
  }
  // The next stage still reads what a stage writes, so there are two of each, used in turn.
  const int64_t widest = std::max({(s.heads + 2 * s.keyValueHeads) * s.headDim, 2 * s.intermediate,
                                   head.rank > 0 ? head.weight.rows : 0});
  const ProductResults one = {floats(n * widest), floats(n * slots)}, other = {floats(n * s.hidden), floats(n * slots)};
  float* const hidden[] = {floats(n * s.hidden), floats(n * s.hidden)};
  float* const gated = isGateAdapted ? floats(n * s.intermediate) : nullptr;
  const Spans most = spansOf(s, caches.capacity, blocksOfThreads);
  const int64_t spans = std::max<int64_t>(most.count, blocksOfThreads);
  float* const parts = floats(n * s.heads * spans * (s.headDim + 2));

  std::vector<Stage> stages;
  std::vector<Decode> attentions;
  std::vector<Result> results;
  Result down = {};
  const auto add = [&](const std::vector<const Projection*>& projections, ProductResults to, const float* norm, Source source,
                       Between next) -> Stage& {
    Stage stage = {};
    stage.product = productOf(projections, n, to, norm, s.epsilon, results);
    stage.source = source;
    stage.next = next;
    stages.push_back(stage);
    return stages.back();
  };
  for (size_t i = 0; i < s.blocks.size(); i++) {
    const Block& b = s.blocks[i];
    Stage& qkv = add({&b.q, &b.k, &b.v}, one, b.inputNorm, i == 0 ? kEmbedding : kSum, kAttention);
    if (i > 0) qkv.inputs[0] = down;
    qkv.residual = hidden[1];
    qkv.nextResidual = hidden[0];
    attentions.push_back(attentionOf(s, caches, i, results, parts));
    add({&b.o}, other, nullptr, kSpans, kNothing);
    const Result o = results[0];
    const bool isAdapted = b.gate.rank + b.up.rank > 0;  // if so, their part is computed once, not by each block of threads
    Stage& gateUp = add({&b.gate, &b.up}, one, b.postNorm, kSum, isAdapted ? kGate : kNothing);
    gateUp.inputs[0] = o;
    std::copy_n(results.data(), 2, gateUp.outputs);
    gateUp.residual = hidden[0];
    gateUp.nextResidual = hidden[1];
    gateUp.plain = gated;
    const std::vector<Result> both = results;
    Stage& last = add({&b.down}, other, nullptr, isAdapted ? kPlain : kGated, kNothing);
    std::copy_n(both.data(), 2, last.inputs);
    last.plain = gated;
    down = results[0];
  }
  Stage& choice = add({&head}, one, ends.norm, kSum, kChoice);
  choice.inputs[0] = down;
  choice.outputs[0] = results[0];
  choice.residual = hidden[1];
  choice.nextResidual = hidden[0];

  Pass& pass = state_->pass;
  const size_t stageBytes = stages.size() * sizeof(Stage), attentionBytes = attentions.size() * sizeof(Decode);
  std::vector<char> constants(stageBytes + attentionBytes + sizeof(u32), 0);
  std::copy_n(reinterpret_cast<const char*>(stages.data()), stageBytes, constants.data());
  std::copy_n(reinterpret_cast<const char*>(attentions.data()), attentionBytes, constants.data() + stageBytes);
  char* const onCard = static_cast<char*>(allocate(constants.size()));
  check(driver().MemcpyHtoDAsync(reinterpret_cast<uint64_t>(onCard), constants.data(), constants.size(), stream),
        "cuMemcpyHtoDAsync");
  pass.stages = reinterpret_cast<Stage*>(onCard);
  pass.stageCount = static_cast<int>(stages.size());
  pass.attentions = reinterpret_cast<Decode*>(onCard + stageBytes);
  pass.arrived = reinterpret_cast<u32*>(onCard + stageBytes + attentionBytes);
  pass.table = ends.table.data;
  pass.tableKind = static_cast<Kind>(ends.table.kind);
  pass.choices = allocate(16 * kMaxChained * blocksOfThreads);
  pass.choice = floats(n);
  state_->sharedBytes = sharedBytesOf(s, caches.capacity, blocksOfThreads);
  state_->kernel = "tokenChain:runPass" + std::to_string(sequencesOf(s));
}

TokenChain::~TokenChain() {  // the memory of its passes is given back after this
  void* context = nullptr;
  if (driver().StreamGetCtx(state_->stream, &context) != 0 || driver().CtxPushCurrent(context) != 0) return;
  driver().StreamSynchronize(state_->stream);  // a failure is the next call's too
  driver().CtxPopCurrent(&context);
}

void TokenChain::run(int64_t past, const int32_t* positions, const int32_t* tokens) {
  State& state = *state_;
  const InContextOf context(state.stream);
  Kernels& kernels = state.device.kernels;
  const Spans spans = spansOf(state.stack, past + 1, kernels.multiprocessors());
  Pass pass = state.pass;
  pass.past = static_cast<int>(past);
  pass.spans = spans.count;
  pass.span = spans.size;
  pass.isGiven = tokens != nullptr;
  for (int i = 0; i < static_cast<int>(state.stack.batch); i++) {
    pass.positions[i] = positions[i];
    pass.tokens[i] = tokens ? tokens[i] : 0;
  }
  volatile uint32_t* const answer = state.device.answers.next();
  pass.answer = const_cast<float*>(reinterpret_cast<volatile float*>(answer));
  kernels.launchTogether(state.stream, state.kernel.c_str(), {kernels.multiprocessors()}, kPassThreads, state.sharedBytes, pass);
  state.unread.push_back(answer);
}

void TokenChain::read(float* choices) {
  State& state = *state_;
  if (state.unread.empty()) throw std::runtime_error("expected a pass that runs, got none");
  volatile uint32_t* const answer = state.unread.front();
  state.unread.pop_front();
  const int n = static_cast<int>(state.stack.batch);
  const auto isThere = [&] { return std::all_of(answer, answer + n, [](uint32_t each) { return each != Answers::kNone; }); };
  for (int turn = 1; !isThere(); turn++) {
    if (turn % 4096 != 0) continue;
    const int status = driver().StreamQuery(state.stream);
    if (status == kNotReady) continue;
    check(status, "a pass of a chain");
    if (!isThere()) throw std::runtime_error("expected a pass to choose tokens, got none");
  }
  for (int i = 0; i < n; i++) {
    const uint32_t bits = answer[i];
    std::copy_n(reinterpret_cast<const char*>(&bits), sizeof bits, reinterpret_cast<char*>(&choices[i]));
  }
}

}  // namespace tfjs_lora::cuda
