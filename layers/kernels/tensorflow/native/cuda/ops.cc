// The ops of a graphics card: they pass TensorFlow's tensors to the engine. See engine.h for what it computes.
#include "ops.h"

#include <map>
#include <memory>
#include <mutex>

#include "card_call.h"
#include "engine.h"

#ifndef TFJS_LORA_CARD_DEVICE  // CPU in a test with an engine of its own
#define TFJS_LORA_CARD_DEVICE "GPU"
#endif

namespace tfjs_lora {
namespace {

std::string kernelFolder, cacheFolder;

/** Returns the card that runs the op. */
cuda::Device& deviceOf(const CardCall& call) {
  void* stream = call.stream();
  if (stream == nullptr) throw std::runtime_error("expected an op on a graphics card, got one on the processor");
  return cuda::deviceOf(stream, kernelFolder, cacheFolder);
}

cuda::Allocate allocatorOf(CardCall& call) {
  return [&call](size_t bytes) { return call.allocate(bytes); };
}

/** Reads the elements of a list in turn. */
template <class T>
class Reader {
 public:
  explicit Reader(const std::vector<T>& values) : values_(values) {}

  T next() { return values_.at(at_++); }

 private:
  const std::vector<T>& values_;
  size_t at_ = 0;
};

/** Reads the inputs of an op in turn. */
class Inputs {
 public:
  Inputs(const CardCall& call, int first) : call_(call), at_(first) {}

  template <class T = float>
  const T* next() {
    if (at_ >= call_.inputCount()) throw std::runtime_error("expected more tensors, got " + std::to_string(at_));
    return call_.input<T>(at_++);
  }

  /** @throws std::runtime_error if some are left */
  void end() const {
    if (at_ != call_.inputCount()) {
      throw std::runtime_error("expected " + std::to_string(at_) + " tensors, got " + std::to_string(call_.inputCount()));
    }
  }

 private:
  const CardCall& call_;
  int at_;
};

/**
 * Reads `[kind, rows, cols, block size, nested block size]`, `[offset]`, and tensors in the order of
 * layers/ops/quantizedMatrix.ts.
 */
cuda::Matrix readMatrix(Reader<int64_t>& plan, Reader<float>& numbers, Inputs& inputs) {
  using Matrix = cuda::Matrix;
  Matrix matrix = {};
  matrix.kind = static_cast<Matrix::Kind>(plan.next());
  matrix.rows = plan.next();
  matrix.cols = plan.next();
  matrix.blockSize = static_cast<int>(plan.next());
  matrix.nestedBlockSize = static_cast<int>(plan.next());
  matrix.offset = numbers.next();
  matrix.data = inputs.next();
  if (matrix.kind == Matrix::int8) {
    matrix.scales = inputs.next();
  } else if (matrix.kind != Matrix::nf4 && matrix.kind != Matrix::fp4) {
    return matrix;
  } else if (matrix.nestedBlockSize == 0) {
    matrix.absmax = inputs.next();
  } else {
    matrix.absmaxCodes = inputs.next<uint8_t>();
    matrix.nestedAbsmax = inputs.next();
    matrix.map = inputs.next();
  }
  return matrix;
}

/** Reads a matrix, then `[rank]`, `[scaling]`, and A and B unless the rank is 0. */
cuda::Projection readProjection(Reader<int64_t>& plan, Reader<float>& numbers, Inputs& inputs) {
  cuda::Projection projection = {};
  projection.weight = readMatrix(plan, numbers, inputs);
  projection.rank = static_cast<int>(plan.next());
  projection.scaling = numbers.next();
  if (projection.rank == 0) return projection;
  projection.a = inputs.next();
  projection.b = inputs.next();
  return projection;
}

/** The projections of a block in the order of plans, tensors and gradients. */
constexpr cuda::Projection cuda::Block::*kProjections[] = {&cuda::Block::q,    &cuda::Block::k,  &cuda::Block::v,
                                                           &cuda::Block::o,    &cuda::Block::gate, &cuda::Block::up,
                                                           &cuda::Block::down};

/** The shared part of a stack's ops. `plan` and `numbers`: see {@link read}, and ../../card/decoderStack.ts. */
class DecoderStackOp {
 public:
  explicit DecoderStackOp(const Attributes& attributes)
      : plan_(attributes.integers("plan")), numbers_(attributes.numbers("numbers")) {}

 protected:
  /**
   * @param x number of an input of the shape of the stack's, `[batch, length, hidden]`
   * @param tables number of the input `cos`, which `sin`, `segments` and the blocks' tensors follow
   * @param others tensors between `segments` and those of the blocks
   */
  cuda::Stack read(const CardCall& call, int x, int tables, int others = 0) const {
    Reader<int64_t> plan(plan_);
    Reader<float> numbers(numbers_);
    Inputs inputs(call, tables + 3 + others);
    cuda::Stack stack = readBlocks(call, tables, plan, numbers, inputs);
    stack.batch = call.dim(x, 0);
    stack.length = call.dim(x, 1);
    stack.hidden = call.dim(x, 2);
    inputs.end();
    const std::string refusal = cuda::refusal(stack);
    if (!refusal.empty()) throw std::runtime_error(refusal);
    return stack;
  }

  /** {@link read} without the sizes of x. */
  static cuda::Stack readBlocks(const CardCall& call, int tables, Reader<int64_t>& plan, Reader<float>& numbers, Inputs& inputs) {
    cuda::Stack stack = {};
    stack.heads = plan.next();
    stack.keyValueHeads = plan.next();
    stack.headDim = plan.next();
    stack.intermediate = plan.next();
    stack.checkpointing = static_cast<cuda::Checkpointing>(plan.next());
    stack.epsilon = numbers.next();
    stack.cos = call.input(tables);
    stack.sin = call.input(tables + 1);
    stack.tablesPerSequence = call.dim(tables, 0) > 1;
    stack.segments = call.size(tables + 2) == 0 ? nullptr : call.input(tables + 2);
    stack.blocks.resize(plan.next());
    for (cuda::Block& block : stack.blocks) {
      block.inputNorm = inputs.next();
      block.postNorm = inputs.next();
      for (auto projection : kProjections) block.*projection = readProjection(plan, numbers, inputs);
    }
    return stack;
  }

  /** Reads the keys, then the values of all blocks, from input `first` on; `tables` as in {@link read}. */
  cuda::Caches readCaches(const CardCall& call, int first, int tables) const {
    const int blocks = blockCount();
    cuda::Caches caches = {};
    caches.capacity = call.dim(first, 2);
    caches.segmentStride = call.size(tables + 2) == 0 ? 0 : call.dim(tables + 2, 1);
    for (int i = 0; i < blocks; i++) {
      caches.keys.push_back(call.input(first + i));
      caches.values.push_back(call.input(first + blocks + i));
    }
    return caches;
  }

  /** Number of blocks in the stack. */
  int blockCount() const { return static_cast<int>(plan_.at(kBlockCount)); }

  const std::vector<int64_t> plan_;
  const std::vector<float> numbers_;

 private:
  static constexpr int kBlockCount = 5;
};

/** x, tables and tensors → y, and what backward needs, on the card or on the host; empty unless it `is_recorded`. */
class DecoderStack : DecoderStackOp {
 public:
  explicit DecoderStack(const Attributes& attributes)
      : DecoderStackOp(attributes), isRecorded_(attributes.flag("is_recorded")) {}

  void run(CardCall& call) {
    const cuda::Stack stack = read(call, 0, 1);
    const size_t bytes = isRecorded_ ? cuda::savedBytes(stack) : 0;
    const bool isOnHost = isRecorded_ && stack.checkpointing == cuda::Checkpointing::onHost;
    float* y = call.output(0, call.shape(0));
    void* saved = call.output(1, {isOnHost ? 0 : wordsOf(bytes)});
    if (isOnHost) saved = hostOutput(call, bytes);
    else call.output(2, {0});
    cuda::forward(deviceOf(call), call.stream(), stack, call.input(0), y, isRecorded_ ? saved : nullptr,
                  allocatorOf(call));
  }

 private:
  static int64_t wordsOf(size_t bytes) { return static_cast<int64_t>((bytes + sizeof(float) - 1) / sizeof(float)); }

  static void* hostOutput(CardCall& call, size_t bytes) {
    cuda::Device& device = deviceOf(call);
    void* memory = cuda::takeHostMemory(device, call.stream(), bytes);
    const auto giveBack = [](void* memory, size_t, void* device) {
      cuda::giveHostMemory(*static_cast<cuda::Device*>(device), memory);
    };
    call.give(2, wordsOf(bytes), memory, giveBack, &device);
    return memory;
  }

  const bool isRecorded_;
};

/**
 * dy, what forward saved on card and host, tables and tensors → dx, empty if not wanted, and gradients of each A and B
 * in turn.
 */
class DecoderStackGrad : DecoderStackOp {
 public:
  explicit DecoderStackGrad(const Attributes& attributes)
      : DecoderStackOp(attributes), wantsInput_(attributes.flag("wants_input")) {}

  void run(CardCall& call) {
    cuda::Stack stack = read(call, 0, 3);
    float* dx = call.output(0, wantsInput_ ? call.shape(0) : std::vector<int64_t>{0});
    int output = 1;
    for (cuda::Block& block : stack.blocks) {
      for (auto each : kProjections) {
        cuda::Projection& projection = block.*each;
        if (projection.rank == 0) continue;
        projection.da = call.output(output++, {projection.rank, projection.weight.cols});
        projection.db = call.output(output++, {projection.weight.rows, projection.rank});
      }
    }
    const void* saved = call.input(stack.checkpointing == cuda::Checkpointing::onHost ? 2 : 1);
    cuda::backward(deviceOf(call), call.stream(), stack, saved, call.input(0), wantsInput_ ? dx : nullptr,
                   allocatorOf(call));
  }

 private:
  const bool wantsInput_;
};

/**
 * x `[batch, 1, hidden]`, tables, and keys, values and tensors of all blocks → y. The new position is written into the
 * caches' own memory. `past`, an integer, is in host memory.
 */
class DecodeStack : DecoderStackOp {
 public:
  explicit DecodeStack(const Attributes& attributes) : DecoderStackOp(attributes) {}

  void run(CardCall& call) {
    constexpr int kX = 1, kTables = 2, kCaches = kTables + 3;
    const cuda::Stack stack = read(call, kX, kTables, 2 * blockCount());
    cuda::Caches caches = readCaches(call, kCaches, kTables);
    caches.past = *call.input<int32_t>(0);
    const std::string refusal = cuda::refusal(stack, caches);
    if (!refusal.empty()) throw std::runtime_error(refusal);
    cuda::decode(deviceOf(call), call.stream(), stack, caches, call.input(kX), call.output(0, call.shape(kX)),
                 allocatorOf(call));
  }
};

/** A chain of passes with everything it reads, from its start to its end. */
struct StartedChain {
  KeptTensors tensors;
  std::unique_ptr<cuda::TokenChain> chain;
  int64_t batch, capacity, positions, vocabulary;
};

/** The started chains by their numbers, which are never reused. */
class StartedChains {
 public:
  int add(std::shared_ptr<StartedChain> chain) {
    const std::lock_guard<std::mutex> lock(mutex_);
    chains_[++last_] = std::move(chain);
    return last_;
  }

  std::shared_ptr<StartedChain> at(int number) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = chains_.find(number);
    if (found == chains_.end()) throw std::runtime_error("expected a chain that was started, got " + std::to_string(number));
    return found->second;
  }

  void remove(int number) {
    const std::lock_guard<std::mutex> lock(mutex_);
    chains_.erase(number);
  }

 private:
  mutable std::mutex mutex_;
  std::map<int, std::shared_ptr<StartedChain>> chains_;
  int last_ = 0;
};

/** Never destroyed, because TensorFlow may be destroyed first when a process ends. */
StartedChains& startedChains = *new StartedChains;

/**
 * Tables `[1, 1, positions, headDim / 2]`, keys, values and tensors of all blocks, then the last norm, the embedding
 * and the head → the number of a chain, on the host; 0 if there is none for these inputs. Passes write to the caches'
 * memory.
 */
class StartChain : DecoderStackOp {
 public:
  explicit StartChain(const Attributes& attributes) : DecoderStackOp(attributes) {}

  void run(CardCall& call) {
    constexpr int kTables = 0, kCaches = kTables + 3;
    Reader<int64_t> plan(plan_);
    Reader<float> numbers(numbers_);
    Inputs inputs(call, kCaches + 2 * blockCount());
    cuda::Stack stack = readBlocks(call, kTables, plan, numbers, inputs);
    cuda::Ends ends = {};
    ends.norm = inputs.next();
    ends.table = readMatrix(plan, numbers, inputs);
    ends.head = readProjection(plan, numbers, inputs);
    inputs.end();
    stack.batch = call.dim(kCaches, 0);
    stack.length = 1;
    stack.hidden = ends.table.cols;
    const cuda::Caches caches = readCaches(call, kCaches, kTables);
    float* number = call.output(0, {});
    *number = 0;
    cuda::Device& device = deviceOf(call);
    if (!cuda::refusal(device, stack, caches, ends).empty()) return;
    auto started = std::make_shared<StartedChain>();
    started->batch = stack.batch;
    started->capacity = caches.capacity;
    started->positions = call.dim(kTables, 2);
    started->vocabulary = ends.table.rows;
    started->chain = std::make_unique<cuda::TokenChain>(device, call.stream(), stack, caches, ends, allocatorOf(call));
    call.keep(started->tensors);
    *number = static_cast<float>(startedChains.add(std::move(started)));
  }
};

/**
 * `[chain, past, whether tokens are given, a position for each sequence, a token for each]`, on the host: starts a
 * pass.
 */
class RunChain {
 public:
  explicit RunChain(const Attributes&) {}

  void run(CardCall& call) {
    const int32_t* request = call.input<int32_t>(0);
    const auto started = startedChains.at(request[0]);
    const int64_t batch = started->batch;
    if (call.size(0) != kHead + 2 * batch) {
      throw std::runtime_error("expected " + std::to_string(kHead + 2 * batch) + " numbers, got " + std::to_string(call.size(0)));
    }
    const int32_t *positions = request + kHead, *tokens = positions + batch;
    assertBelow("past", request[1], started->capacity);
    for (int64_t i = 0; i < batch; i++) {
      assertBelow("a position", positions[i], started->positions);
      assertBelow("a token", tokens[i], started->vocabulary);
    }
    started->chain->run(request[1], positions, request[2] ? tokens : nullptr);
  }

 private:
  static constexpr int kHead = 3;

  static void assertBelow(const char* what, int64_t value, int64_t end) {
    if (value >= 0 && value < end) return;
    throw std::runtime_error(std::string(what) + ": expected a number below " + std::to_string(end) + ", got " +
                             std::to_string(value));
  }
};

/** A chain's number, on the host → the choices of its earliest pass not read yet, on the host, after waiting for it. */
class ReadChain {
 public:
  explicit ReadChain(const Attributes&) {}

  void run(CardCall& call) {
    const auto started = startedChains.at(*call.input<int32_t>(0));
    started->chain->read(call.output(0, {started->batch}));
  }
};

/** Ends the chain with this number, which is on the host. */
class EndChain {
 public:
  explicit EndChain(const Attributes&) {}

  void run(CardCall& call) { startedChains.remove(*call.input<int32_t>(0)); }
};

/** logits `[rows, width]` → the choice of each row; see layers/ops/greedyChoice.ts. */
class GreedyChoice {
 public:
  explicit GreedyChoice(const Attributes&) {}

  void run(CardCall& call) {
    const int64_t rows = call.dim(0, 0);
    cuda::greedyChoice(deviceOf(call), call.stream(), rows, call.dim(0, 1), call.input(0), call.output(0, {rows}));
  }
};

/**
 * hidden `[rows, cols]`, labels `[rows]`, a weight's tensors → the sum of losses or each row's, and the gradient of hidden
 * if wanted.
 */
class LinearCrossEntropy {
 public:
  explicit LinearCrossEntropy(const Attributes& attributes)
      : plan_(attributes.integers("plan")),
        numbers_(attributes.numbers("numbers")),
        wantsGradient_(attributes.flag("wants_gradient")),
        ofEachRow_(attributes.flag("of_each_row")) {}

  void run(CardCall& call) {
    Reader<int64_t> plan(plan_);
    Reader<float> numbers(numbers_);
    Inputs inputs(call, 2);
    const cuda::Matrix weight = readMatrix(plan, numbers, inputs);
    inputs.end();
    const int64_t rows = call.dim(0, 0);
    float* loss = call.output(0, ofEachRow_ ? std::vector<int64_t>{rows} : std::vector<int64_t>{});
    float* gradient = call.output(1, wantsGradient_ ? call.shape(0) : std::vector<int64_t>{0});
    cuda::linearCrossEntropy(deviceOf(call), call.stream(), weight, rows, call.input(0), call.input(1), ofEachRow_, loss,
                             wantsGradient_ ? gradient : nullptr, allocatorOf(call));
  }

 private:
  const std::vector<int64_t> plan_;
  const std::vector<float> numbers_;
  const bool wantsGradient_, ofEachRow_;
};

/** Values of all variables, all gradients, each state of all → the next values and states in the same order. */
void update(CardCall& call, cuda::Rule rule, int count, const float* factors, const void* maps,
            const cuda::Clipping& clipping) {
  const int states = cuda::stateCount(rule);
  std::vector<cuda::UpdatedVariable> variables;
  for (int i = 0; i < count; i++) {
    cuda::UpdatedVariable v = {call.size(i), call.input(i), call.input(count + i), call.output(i, call.shape(i)), {}, {}};
    for (int k = 0; k < states; k++) {
      const int input = (2 + k) * count + i;
      v.states[k] = call.input(input);
      v.nextStates[k] = call.output((1 + k) * count + i, call.shape(input));
    }
    variables.push_back(v);
  }
  cuda::update(deviceOf(call), call.stream(), rule, variables, factors, maps, clipping, allocatorOf(call));
}

/** The same as in ../adamw_updates.cc. */
class AdamWUpdates {
 public:
  explicit AdamWUpdates(const Attributes&) {}

  void run(CardCall& call) {
    const int count = (call.inputCount() - 1) / 4;
    update(call, cuda::Rule::adamW, count, call.input(4 * count), nullptr, {});
  }
};

/**
 * {@link update} with the rule of this number; 8-bit codes are in words. The last inputs are factors followed by the
 * largest norm of the gradients, 8-bit maps, and the gradients' norm, each without elements if there is none.
 */
class OptimizerUpdates {
 public:
  explicit OptimizerUpdates(const Attributes& attributes)
      : rule_(static_cast<cuda::Rule>(attributes.integers("rule").at(0))) {}

  void run(CardCall& call) {
    constexpr int kOthers = 3;
    const int factors = call.inputCount() - kOthers;
    const auto given = [&](int i) { return call.size(i) == 0 ? nullptr : call.input(i); };
    const float* most = call.input(factors) + call.size(factors) - 1;
    update(call, rule_, factors / (2 + cuda::stateCount(rule_)), call.input(factors), given(factors + 1),
           {given(factors + 2), most});
  }

 private:
  const cuda::Rule rule_;
};

/** The same as in ../adamw_updates.cc. */
class GlobalNorm {
 public:
  explicit GlobalNorm(const Attributes&) {}

  void run(CardCall& call) {
    std::vector<std::pair<const float*, int64_t>> tensors;
    for (int i = 0; i < call.inputCount(); i++) tensors.emplace_back(call.input(i), call.size(i));
    cuda::globalNorm(deviceOf(call), call.stream(), tensors, call.output(0, {}), allocatorOf(call));
  }
};

/** The same as in ../flat.cc. */
class PackFlat {
 public:
  explicit PackFlat(const Attributes&) {}

  void run(CardCall& call) {
    std::vector<cuda::Copied> parts;
    int64_t total = 0;
    for (int i = 0; i < call.inputCount(); i++) total += call.size(i);
    float* to = call.output(0, {total});
    for (int i = 0; i < call.inputCount(); to += call.size(i++)) parts.push_back({call.input(i), to, call.size(i)});
    cuda::copyAll(deviceOf(call), call.stream(), parts, allocatorOf(call));
  }
};

/** The same as in ../flat.cc. */
class UnpackFlat {
 public:
  explicit UnpackFlat(const Attributes& attributes) : shapes_(shapesIn(attributes.integers("shapes"))) {}

  void run(CardCall& call) {
    std::vector<cuda::Copied> parts;
    const float* from = call.input(0);
    for (size_t i = 0; i < shapes_.size(); from += parts[i++].size)
      parts.push_back({from, call.output(static_cast<int>(i), shapes_[i]), sizeOf(shapes_[i])});
    cuda::copyAll(deviceOf(call), call.stream(), parts, allocatorOf(call));
  }

 private:
  const std::vector<std::vector<int64_t>> shapes_;
};

/** The same as in ../rms_norm.cc. */
class RMSNorm {
 public:
  explicit RMSNorm(const Attributes& attributes) : epsilon_(attributes.number("epsilon")) {}

  void run(CardCall& call) {
    const int64_t width = call.dim(0, -1);
    std::vector<int64_t> perRow = call.shape(0);
    perRow.back() = 1;
    float* y = call.output(0, call.shape(0));
    float* inverse = call.output(1, perRow);
    cuda::rmsNorm(deviceOf(call), call.stream(), call.size(0) / width, width, call.input(0), call.input(1), epsilon_, y,
                  inverse);
  }

 private:
  const float epsilon_;
};

/** The same as in ../rms_norm.cc. */
class RMSNormGrad {
 public:
  explicit RMSNormGrad(const Attributes&) {}

  void run(CardCall& call) {
    const int64_t width = call.dim(1, -1);
    float* dx = call.output(0, call.shape(1));
    cuda::rmsNormGrad(deviceOf(call), call.stream(), call.size(1) / width, width, call.input(0), call.input(1),
                      call.input(2), call.input(3), dx);
  }
};

/** The memory of the pool in use, and its peak; `restart` starts a new peak. In MiB, on the host. */
class MemoryUseOp {
 public:
  explicit MemoryUseOp(const Attributes& attributes) : restart_(attributes.flag("restart")) {}

  void run(CardCall& call) {
    const MemoryUse use = call.memoryUse(restart_);
    float* output = call.output(0, {2});
    output[0] = static_cast<float>(use.inUse / (1 << 20));
    output[1] = static_cast<float>(use.peak / (1 << 20));
  }

 private:
  const bool restart_;
};

/** Declares an op that CPUs do not have, and registers it. */
template <class Op>
std::string registerCardOp(const Signature& signature, const std::vector<const char*>& onHost = {}) {
  const std::string failure = declareOp(signature);
  return failure.empty() ? registerKernel<Op, CardCall>(signature.name, TFJS_LORA_CARD_DEVICE, onHost) : failure;
}

}  // namespace

void useCardFolders(const std::string& kernels, const std::string& cache) {
  kernelFolder = kernels;
  cacheFolder = cache;
}

std::string registerSharedCardOps() {
  for (const std::string& failure : {registerKernel<AdamWUpdates, CardCall>("TfjsLoraAdamWUpdates", "GPU"),
                                     registerKernel<GlobalNorm, CardCall>("TfjsLoraGlobalNorm", "GPU"),
                                     registerKernel<PackFlat, CardCall>("TfjsLoraPackFlat", "GPU"),
                                     registerKernel<UnpackFlat, CardCall>("TfjsLoraUnpackFlat", "GPU"),
                                     registerKernel<RMSNorm, CardCall>("TfjsLoraRMSNorm", "GPU"),
                                     registerKernel<RMSNormGrad, CardCall>("TfjsLoraRMSNormGrad", "GPU")}) {
    if (!failure.empty()) return failure;
  }
  return "";
}

std::string registerCardOps() {
  for (const std::string& failure :
       {registerCardOp<MemoryUseOp>({"TfjsLoraMemoryUse", {}, {"use: float"}, {"restart: bool"}}, {"use"}),
        registerCardOp<DecoderStack>({"TfjsLoraDecoderStack",
                                      {"x: float", "cos: float", "sin: float", "segments: float", "tensors: N * float"},
                                      {"y: float", "saved: float", "on_host: float"},
                                      {"plan: list(int)", "numbers: list(float)", "is_recorded: bool", "N: int >= 1"}},
                                     {"on_host"}),
        registerCardOp<DecoderStackGrad>(
            {"TfjsLoraDecoderStackGrad",
             {"dy: float", "saved: float", "on_host: float", "cos: float", "sin: float", "segments: float",
              "tensors: N * float"},
             {"dx: float", "gradients: M * float"},
             {"plan: list(int)", "numbers: list(float)", "wants_input: bool", "N: int >= 1", "M: int >= 0"}},
            {"on_host"}),
        registerCardOp<DecodeStack>({"TfjsLoraDecodeStack",
                                     {"past: int32", "x: float", "cos: float", "sin: float", "segments: float",
                                      "tensors: N * float"},
                                     {"y: float"},
                                     {"plan: list(int)", "numbers: list(float)", "N: int >= 1"}},
                                    {"past"}),
        registerCardOp<OptimizerUpdates>({"TfjsLoraOptimizerUpdates",
                                          {"values: N * float", "gradients: N * float", "states: M * float",
                                           "factors: float", "maps: float", "norm: float"},
                                          {"next_values: N * float", "next_states: M * float"},
                                          {"rule: list(int)", "N: int >= 1", "M: int >= 1"}}),
        registerCardOp<StartChain>(
            {"TfjsLoraStartChain",
             {"cos: float", "sin: float", "segments: float", "tensors: N * float"},
             {"chain: float"},
             {"plan: list(int)", "numbers: list(float)", "N: int >= 1"}},
            {"chain"}),
        registerCardOp<RunChain>({"TfjsLoraRunChain", {"request: int32"}, {}, {}}, {"request"}),
        registerCardOp<ReadChain>({"TfjsLoraReadChain", {"chain: int32"}, {"choices: float"}, {}}, {"chain", "choices"}),
        registerCardOp<EndChain>({"TfjsLoraEndChain", {"chain: int32"}, {}, {}}, {"chain"}),
        registerCardOp<GreedyChoice>({"TfjsLoraGreedyChoice", {"logits: float"}, {"choice: float"}, {}}),
        registerCardOp<LinearCrossEntropy>({"TfjsLoraLinearCrossEntropy",
                                            {"hidden: float", "labels: float", "tensors: N * float"},
                                            {"loss: float", "gradient: float"},
                                            {"plan: list(int)", "numbers: list(float)", "wants_gradient: bool",
                                             "of_each_row: bool", "N: int >= 1"}})}) {
    if (!failure.empty()) return failure;
  }
  return "";
}

}  // namespace tfjs_lora
