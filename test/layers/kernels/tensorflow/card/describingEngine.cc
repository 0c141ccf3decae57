// An engine for the CPU that computes nothing and describes its arguments, to test whether the ops of a card pass on
// TensorFlow's tensors. As an addon it registers the ops; `described()` returns the text of all calls since it was last
// called.
#include <node_api.h>

#include <algorithm>
#include <deque>
#include <cstdlib>
#include <sstream>

#include "engine.h"
#include "ops.h"
#include "stream.h"

namespace {

std::ostringstream text;

const char* orNone(const void* pointer) { return pointer ? "" : "none"; }

void describe(const tfjs_lora::cuda::Matrix& m) {
  text << "kind " << m.kind << " [" << m.rows << ", " << m.cols << "] word " << *static_cast<const int32_t*>(m.data);
  if (m.blockSize) text << " blocks of " << m.blockSize << ", " << m.nestedBlockSize;
  if (m.absmax) text << " absmax " << m.absmax[0];
  if (m.absmaxCodes) {
    text << " code " << int{m.absmaxCodes[0]} << " nested " << m.nestedAbsmax[0] << " map " << m.map[255] << " offset "
         << m.offset;
  }
  if (m.scales) text << " scale " << m.scales[0];
}

void describe(const tfjs_lora::cuda::Projection& p) {
  describe(p.weight);
  if (p.rank) text << " rank " << p.rank << " scaling " << p.scaling << " a " << p.a[0] << " b " << p.b[0];
  text << "\n";
}

void describe(const tfjs_lora::cuda::Stack& s) {
  text << s.batch << " x " << s.length << " x " << s.hidden << ", heads " << s.heads << " / " << s.keyValueHeads << " of "
       << s.headDim << ", " << s.intermediate << ", epsilon " << s.epsilon << ", tables " << s.cos[s.headDim / 2] << " "
       << s.sin[s.headDim / 2] << (s.tablesPerSequence ? " each" : "") << ", segments " << orNone(s.segments);
  if (s.segments) std::for_each(s.segments, s.segments + s.batch * s.length, [](float each) { text << each; });
  constexpr const char* kWays[] = {"", ", checkpointed", ", checkpointed on the host"};
  text << kWays[static_cast<int>(s.checkpointing)] << "\n";
  for (const auto& block : s.blocks) {
    text << "norms " << block.inputNorm[0] << " " << block.postNorm[0] << "\n";
    for (const auto* p : {&block.q, &block.k, &block.v, &block.o, &block.gate, &block.up, &block.down}) {
      describe(*p);
    }
  }
}

napi_value described(napi_env env, napi_callback_info) {
  napi_value value;
  napi_create_string_utf8(env, text.str().c_str(), NAPI_AUTO_LENGTH, &value);
  text.str("");
  return value;
}

}  // namespace

namespace tfjs_lora {

void* streamOf(TF_OpKernelContext*) {
  static int stream;
  return &stream;
}

MemoryUse memoryUseOf(TF_OpKernelContext*, bool) { return {3 << 20, 5 << 20}; }

namespace cuda {

class Device {};

Device& deviceOf(Stream, const std::string&, const std::string&) {
  static Device device;
  return device;
}

std::string refusal(const Stack& s) { return s.headDim == 128 ? "no heads of 128 here" : ""; }
std::string refusal(const Stack&, const Caches&) { return ""; }
size_t savedBytes(const Stack& s) { return 10 * s.blocks.size(); }

void* takeHostMemory(Device&, Stream, size_t bytes) {
  text << "takes " << bytes << " bytes of the host\n";
  return std::aligned_alloc(64, 64 * (bytes / 64 + 1));
}
void giveHostMemory(Device&, void* memory) {
  text << "gives them back\n";
  std::free(memory);
}

void forward(Device&, Stream, const Stack& s, const float* x, float* y, void* saved, const Allocate& allocate) {
  describe(s);
  text << "forward" << (saved ? ", saves" : "") << (allocate(100) ? "" : ", no memory") << "\n";
  std::copy(x, x + s.batch * s.length * s.hidden, y);
  if (saved) std::fill_n(static_cast<char*>(saved), savedBytes(s), 7);
}

/** The gradients are numbers from 1 on, in the order of projections. */
void backward(Device&, Stream, const Stack& s, const void* saved, const float* dy, float* dx, const Allocate&) {
  describe(s);
  text << "backward from " << int{static_cast<const char*>(saved)[0]} << (dx ? " to the input" : "") << "\n";
  float next = 1;
  for (const auto& b : s.blocks) {
    for (const auto* p : {&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down}) {
      if (!p->rank) continue;
      std::fill_n(p->da, p->rank * p->weight.cols, next++);
      std::fill_n(p->db, p->rank * p->weight.rows, next++);
    }
  }
  if (dx) std::copy(dy, dy + s.batch * s.length * s.hidden, dx);
}

void decode(Device&, Stream, const Stack& s, const Caches& c, const float* x, float* y, const Allocate&) {
  describe(s);
  text << "decode after " << c.past << " of " << c.capacity << "\n";
  std::copy(x, x + s.batch * s.hidden, y);
}

std::string refusal(const Device&, const Stack& s, const Caches&, const Ends&) { return s.batch > 2 ? "three" : ""; }

/** Chooses the number after each token. */
struct TokenChain::State {
  int64_t batch;
  std::vector<float> last;
  std::deque<std::vector<float>> unread;
};
TokenChain::TokenChain(Device&, Stream, const Stack& s, const Caches& c, const Ends& ends, const Allocate& allocate)
    : state_(new State{s.batch, std::vector<float>(s.batch), {}}) {
  describe(s);
  text << "caches of " << c.capacity << " value " << c.values.back()[0] << ", norm " << ends.norm[0] << ", table ";
  describe(ends.table);
  text << ", head ";
  describe(ends.head);
  if (!allocate(100)) text << "no memory\n";
}
TokenChain::~TokenChain() { text << "ended with " << state_->unread.size() << " unread\n"; }
void TokenChain::run(int64_t past, const int32_t* positions, const int32_t* tokens) {
  text << "run after " << past << " at";
  for (int64_t i = 0; i < state_->batch; i++) text << " " << positions[i];
  if (tokens) std::copy_n(tokens, state_->batch, state_->last.begin());
  text << (tokens ? " given" : "");
  for (float& each : state_->last) text << " " << each++;
  text << "\n";
  state_->unread.push_back(state_->last);
}
void TokenChain::read(float* choices) {
  std::copy_n(state_->unread.front().begin(), state_->batch, choices);
  state_->unread.pop_front();
}

void linearCrossEntropy(Device&, Stream, const Matrix& weight, int64_t rows, const float*, const float* labels,
                        bool ofEachRow, float* loss, float* gradient, const Allocate&) {
  describe(weight);
  text << (ofEachRow ? " losses of " : " loss of ") << rows << ":";
  std::for_each(labels, labels + rows, [](float label) { text << " " << label; });
  text << (gradient ? " with gradient\n" : "\n");
  std::fill_n(loss, ofEachRow ? rows : 1, 5.f);
  if (gradient) std::fill_n(gradient, rows * weight.cols, 0.25f);
}

void greedyChoice(Device&, Stream, int64_t rows, int64_t width, const float* logits, float* choice) {
  for (int64_t i = 0; i < rows; i++) {
    const float* row = logits + i * width;
    choice[i] = static_cast<float>(std::max_element(row, row + width) - row);
  }
}
/** Next values are 2, and next states 3, 4 … */
void update(Device&, Stream, Rule rule, const std::vector<UpdatedVariable>& variables, const float* factors, const void* maps,
            const Clipping& clipping, const Allocate&) {
  text << "rule " << static_cast<int>(rule) << " factors " << factors[0] << " " << factors[5];
  if (maps) text << " map " << static_cast<const float*>(maps)[255];
  if (clipping.norm) text << " norm " << *clipping.norm << " of at most " << *clipping.most;
  for (const auto& v : variables) {
    text << "\n" << v.size << " of " << v.value[0] << " gradient " << v.gradient[0] << " states";
    *v.nextValue = 2;
    for (int k = 0; k < stateCount(rule); k++) {
      text << " " << *static_cast<const int32_t*>(v.states[k]);
      *static_cast<int32_t*>(v.nextStates[k]) = 3 + k;
    }
  }
  text << "\n";
}
void globalNorm(Device&, Stream, const std::vector<std::pair<const float*, int64_t>>&, float*, const Allocate&) {}
void copyAll(Device&, Stream, const std::vector<Copied>&, const Allocate&) {}
void rmsNorm(Device&, Stream, int64_t, int64_t, const float*, const float*, float, float*, float*) {}
void rmsNormGrad(Device&, Stream, int64_t, int64_t, const float*, const float*, const float*, const float*, float*) {}

}  // namespace cuda
}  // namespace tfjs_lora

extern "C" NAPI_MODULE_EXPORT napi_value napi_register_module_v1(napi_env env, napi_value exports) {
  text.precision(9);
  static const std::string failure = tfjs_lora::registerCardOps();
  if (!failure.empty()) napi_throw_error(env, nullptr, failure.c_str());
  napi_value function;
  napi_create_function(env, "described", NAPI_AUTO_LENGTH, described, nullptr, &function);
  napi_set_named_property(env, exports, "described", function);
  return exports;
}
