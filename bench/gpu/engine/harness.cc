// The CUDA engine for Python's ctypes, as check.py calls it. The engine's memory comes from one buffer of the caller.
#include <cstdio>
#include <stdexcept>

#include "../../../layers/kernels/tensorflow/native/cuda/attention.h"
#include "../../../layers/kernels/tensorflow/native/cuda/engine.h"

using namespace tfjs_lora::cuda;

namespace {

std::string kernelsFolder, cacheFolder;

/** Hands out parts of a buffer, one after the other. */
struct Arena {
  char* memory;
  size_t size, used = 0;
  Allocate allocate = [this](size_t bytes) -> void* {
    void* place = memory + used;
    used += (bytes + 255) / 256 * 256;
    if (used > size) throw std::runtime_error("the arena is full");
    return place;
  };
};

/** Reads numbers one after the other. */
template <class T>
struct Reader {
  const T* at;
  T next() { return *at++; }
};

/** The description of a stack, read one number at a time. */
struct Description {
  Reader<int64_t> plan;
  Reader<double> numbers;
  Reader<uint64_t> pointers;

  float* floats() { return reinterpret_cast<float*>(pointers.next()); }

  Projection projection() {
    Projection each{};
    Matrix& m = each.weight;
    m.kind = static_cast<Matrix::Kind>(plan.next());
    m.rows = plan.next();
    m.cols = plan.next();
    m.blockSize = plan.next();
    m.nestedBlockSize = plan.next();
    each.rank = plan.next();
    m.offset = numbers.next();
    each.scaling = numbers.next();
    m.data = floats();
    m.absmax = floats();
    m.absmaxCodes = reinterpret_cast<uint8_t*>(pointers.next());
    m.map = floats();
    m.nestedAbsmax = floats();
    m.scales = floats();
    each.a = floats();
    each.b = floats();
    each.da = floats();
    each.db = floats();
    return each;
  }
};

Stack stackOf(const int64_t* plan, const double* numbers, const uint64_t* pointers) {
  Description d{{plan}, {numbers}, {pointers}};
  Stack s{};
  for (int64_t* each : {&s.batch, &s.length, &s.hidden, &s.heads, &s.keyValueHeads, &s.headDim, &s.intermediate}) {
    *each = d.plan.next();
  }
  s.tablesPerSequence = d.plan.next();
  s.checkpointing = static_cast<Checkpointing>(d.plan.next());
  s.blocks.resize(d.plan.next());
  s.epsilon = d.numbers.next();
  s.cos = d.floats();
  s.sin = d.floats();
  s.segments = d.floats();
  for (Block& b : s.blocks) {
    b.inputNorm = d.floats();
    b.postNorm = d.floats();
    for (Projection* each : {&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down}) *each = d.projection();
  }
  return s;
}

/** `caches` has the keys and then the values of each block. */
Caches cachesOf(const Stack& s, const uint64_t* caches, int64_t past, int64_t capacity) {
  Caches c{past, capacity, {}, {}, capacity};
  for (size_t i = 0; i < s.blocks.size(); i++) {
    c.keys.push_back(reinterpret_cast<float*>(caches[2 * i]));
    c.values.push_back(reinterpret_cast<float*>(caches[2 * i + 1]));
  }
  return c;
}

/** Returns the used bytes of the buffer, or −1 after a failure, which is printed. */
template <class Body>
int64_t guarded(void* memory, int64_t size, Body body) {
  Arena arena{static_cast<char*>(memory), static_cast<size_t>(size)};
  try {
    body(arena.allocate);
    return arena.used;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "engine: %s\n", error.what());
    return -1;
  }
}

Device& deviceFor(Stream stream) { return deviceOf(stream, kernelsFolder, cacheFolder); }

}  // namespace

extern "C" {

void engineFolders(const char* kernels, const char* cache) {
  kernelsFolder = kernels;
  cacheFolder = cache;
}

int64_t engineSavedBytes(const int64_t* plan, const double* numbers, const uint64_t* pointers) {
  const Stack s = stackOf(plan, numbers, pointers);
  if (const std::string why = refusal(s); !why.empty()) {
    std::fprintf(stderr, "engine refuses: %s\n", why.c_str());
    return -1;
  }
  return savedBytes(s);
}

void* engineTakeHostMemory(int64_t bytes, Stream stream) { return takeHostMemory(deviceFor(stream), stream, bytes); }

void engineGiveHostMemory(void* memory, Stream stream) { giveHostMemory(deviceFor(stream), memory); }

int64_t engineForward(const int64_t* plan, const double* numbers, const uint64_t* pointers, const float* x, float* y,
                      void* saved, void* memory, int64_t size, Stream stream) {
  return guarded(memory, size, [&](const Allocate& allocate) {
    forward(deviceFor(stream), stream, stackOf(plan, numbers, pointers), x, y, saved, allocate);
  });
}

int64_t engineBackward(const int64_t* plan, const double* numbers, const uint64_t* pointers, const void* saved,
                       const float* dy, float* dx, void* memory, int64_t size, Stream stream) {
  return guarded(memory, size, [&](const Allocate& allocate) {
    backward(deviceFor(stream), stream, stackOf(plan, numbers, pointers), saved, dy, dx, allocate);
  });
}

int64_t engineDecode(const int64_t* plan, const double* numbers, const uint64_t* pointers, const uint64_t* caches, int64_t past,
                     int64_t capacity, const float* x, float* y, void* memory, int64_t size, Stream stream) {
  return guarded(memory, size, [&](const Allocate& allocate) {
    const Stack s = stackOf(plan, numbers, pointers);
    const Caches c = cachesOf(s, caches, past, capacity);
    if (const std::string why = refusal(s, c); !why.empty()) throw std::runtime_error(why);
    decode(deviceFor(stream), stream, s, c, x, y, allocate);
  });
}

/**
 * Starts a chain for the functions below, or returns null after a failure. `ends` has the table and the head, as
 * projections, and the norm.
 */
TokenChain* engineChain(const int64_t* plan, const double* numbers, const uint64_t* pointers, const uint64_t* caches,
                        int64_t capacity, const int64_t* endsPlan, const double* endsNumbers, const uint64_t* endsPointers,
                        void* memory, int64_t size, Stream stream) {
  TokenChain* made = nullptr;
  guarded(memory, size, [&](const Allocate& allocate) {
    const Stack s = stackOf(plan, numbers, pointers);
    const Caches c = cachesOf(s, caches, 0, capacity);
    Description d{{endsPlan}, {endsNumbers}, {endsPointers}};
    Ends ends{};
    ends.table = d.projection().weight;
    ends.head = d.projection();
    ends.norm = d.floats();
    Device& device = deviceFor(stream);
    if (const std::string why = refusal(device, s, c, ends); !why.empty()) throw std::runtime_error(why);
    const InContextOf context(stream);
    made = new TokenChain(device, stream, s, c, ends, allocate);
  });
  return made;
}

int64_t engineChainRun(TokenChain* chain, int64_t past, const int32_t* positions, const int32_t* tokens) {
  return guarded(nullptr, 0, [&](const Allocate&) { chain->run(past, positions, tokens); });
}

int64_t engineChainRead(TokenChain* chain, float* choices) {
  return guarded(nullptr, 0, [&](const Allocate&) { chain->read(choices); });
}

void engineChainEnd(TokenChain* chain) { delete chain; }

int64_t engineAttention(int64_t batch, int64_t length, int64_t heads, int64_t keyValueHeads, int64_t dim,
                        const float* segments, void* qkv, void* y, float* logSums, const void* dy, float* along, void* dQkv,
                        Stream stream) {
  return guarded(nullptr, 0, [&](const Allocate&) {
    const InContextOf context(stream);
    const int64_t width = (heads + 2 * keyValueHeads) * dim;
    const AttentionCall call{batch, length, heads, keyValueHeads, dim, segments, {static_cast<Half*>(qkv), width}};
    const Rows result{static_cast<Half*>(y), heads * dim};
    if (!dy) return attention(deviceFor(stream), stream, call, result, logSums);
    attentionGrad(deviceFor(stream), stream, call, result, logSums, {static_cast<Half*>(const_cast<void*>(dy)), heads * dim},
                  along, {static_cast<Half*>(dQkv), width});
  });
}

int64_t engineCrossEntropy(const void* weight, int64_t vocabulary, int64_t width, int64_t rows, const float* hidden,
                           const float* labels, float* loss, float* gradient, void* memory, int64_t size, Stream stream) {
  return guarded(memory, size, [&](const Allocate& allocate) {
    Matrix m{};
    m.kind = Matrix::bfloat16;
    m.rows = vocabulary;
    m.cols = width;
    m.data = weight;
    linearCrossEntropy(deviceFor(stream), stream, m, rows, hidden, labels, false, loss, gradient, allocate);
  });
}

/** `pointers` has each variable's value, gradient and states, and the addresses of the next value and states. */
int64_t engineUpdate(int64_t rule, int64_t count, const int64_t* sizes, const uint64_t* pointers, const float* factors,
                     const void* maps, float* norm, const float* most, void* memory, int64_t size, Stream stream) {
  return guarded(memory, size, [&](const Allocate& allocate) {
    const int states = stateCount(static_cast<Rule>(rule));
    std::vector<UpdatedVariable> variables;
    std::vector<std::pair<const float*, int64_t>> gradients;
    Reader<uint64_t> p{pointers};
    const auto next = [&] { return reinterpret_cast<float*>(p.next()); };
    for (int64_t i = 0; i < count; i++) {
      UpdatedVariable v{sizes[i], next(), next(), nullptr, {}, {}};
      for (int k = 0; k < states; k++) v.states[k] = next();
      v.nextValue = next();
      for (int k = 0; k < states; k++) v.nextStates[k] = next();
      variables.push_back(v);
      gradients.push_back({v.gradient, v.size});
    }
    globalNorm(deviceFor(stream), stream, gradients, norm, allocate);
    const Clipping clipping{most ? norm : nullptr, most};
    update(deviceFor(stream), stream, static_cast<Rule>(rule), variables, factors, maps, clipping, allocate);
  });
}
}
