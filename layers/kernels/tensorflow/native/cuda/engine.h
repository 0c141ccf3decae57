// The CUDA engine computes parts of a training step on an NVIDIA card, without TensorFlow and without CUDA's headers.
// Pointers are to the card's memory; everything runs in order on one stream, and calls return before it is done.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace tfjs_lora::cuda {

using Stream = void*;

/** Allocates memory on the card for one call. The memory may be given out again when the call has returned. */
using Allocate = std::function<void*(size_t bytes)>;

class Device;

/**
 * Returns the card that `stream` belongs to, with its kernels compiled. Each card of the process is opened once.
 *
 * @param kernels folder with the sources of the kernels, `*.cu`
 * @param cache folder for compiled kernels; empty for none
 * @throws std::runtime_error that names the library or the feature that is missing
 */
Device& deviceOf(Stream stream, const std::string& kernels, const std::string& cache);

/** A frozen weight `[rows, cols]`, stored row by row. */
struct Matrix {
  enum Kind { bfloat16, float16, float32, nf4, fp4, int8 };
  Kind kind;
  int64_t rows, cols;
  /** 16-bit and float32 values, 4-bit codes (the first of a byte in its high half), or int8 codes. */
  const void* data;
  /** 4 bits: number of values that share a scale. */
  int blockSize = 0;
  /** 4 bits: number of scales that share a scale of their own; 0 if scales are float32. */
  int nestedBlockSize = 0;
  /** 4 bits: one float32 per block, if `nestedBlockSize` is 0. */
  const float* absmax = nullptr;
  /** 4 bits: scale of block i = `map[absmaxCodes[i]] * nestedAbsmax[i / nestedBlockSize] + offset`. */
  const uint8_t* absmaxCodes = nullptr;
  const float* map = nullptr;
  const float* nestedAbsmax = nullptr;
  float offset = 0;
  /** int8: one scale per row, for codes divided by 127. */
  const float* scales = nullptr;
};

/** A weight with its low-rank adapter, of rank 0 if it has none. */
struct Projection {
  Matrix weight;
  int rank = 0;
  float scaling = 0;
  /** `[rank, cols]` and `[rows, rank]` float32. */
  const float *a = nullptr, *b = nullptr;
  /** Memory for the gradients of `a` and `b` in backward. */
  float *da = nullptr, *db = nullptr;
};

struct Block {
  /** `[hidden]` float32. */
  const float *inputNorm, *postNorm;
  Projection q, k, v, o, gate, up, down;
};

/** What blocks save: everything, or only their inputs, from which backward computes the rest again. */
enum class Checkpointing {
  none,
  onCard,
  /** The inputs are in host memory, and only two of them on the card at any time. */
  onHost
};

/** Decoder blocks of one shape. Heads have 64 or 128 elements. */
struct Stack {
  int64_t batch, length, hidden, heads, keyValueHeads, headDim, intermediate;
  float epsilon;
  /** `[1 or batch, length, headDim / 2]` float32. */
  const float *cos, *sin;
  bool tablesPerSequence;
  /** `[batch, length]` float32: a token sees those with its own number; none sees 0. Null: each row is one sequence. */
  const float* segments;
  Checkpointing checkpointing;
  std::vector<Block> blocks;
};

/** @returns an empty text if the engine computes stacks of this shape; otherwise the reason why not */
std::string refusal(const Stack&);

/** Returns the bytes that {@link forward} keeps for {@link backward}, on the card or in {@link takeHostMemory}. */
size_t savedBytes(const Stack&);

/** Returns host memory that the card copies to while it computes. */
void* takeHostMemory(Device&, Stream, size_t bytes);
/**
 * Gives it back, even while copies still run, for a later {@link takeHostMemory} or until stacks are saved on the card.
 */
void giveHostMemory(Device&, void* memory);

/**
 * @param x `[batch · length, hidden]` float32
 * @param y as `x`
 * @param saved memory of {@link savedBytes}; null if there is no backward
 */
void forward(Device&, Stream, const Stack&, const float* x, float* y, void* saved, const Allocate&);

/**
 * Writes the gradients of all adapters.
 *
 * @param dy `[batch · length, hidden]` float32
 * @param dx as `dy`; null if not wanted
 */
void backward(Device&, Stream, const Stack&, const void* saved, const float* dy, float* dx, const Allocate&);

/** Keys and values of earlier positions, `[batch, keyValueHeads, capacity, headDim]` float32, of each block. */
struct Caches {
  int64_t past, capacity;
  std::vector<float*> keys, values;
  /** Length of the rows of the stack's `segments`, which may include later positions. */
  int64_t segmentStride;
};

/** @returns an empty text if {@link decode} computes it; otherwise the reason why not */
std::string refusal(const Stack&, const Caches&);

/**
 * Computes one new position of each sequence, which sees those in the caches and is added to them. The stack's length
 * is 1; its `segments` are those of all positions.
 *
 * @param x `[batch, hidden]` float32
 * @param y as `x`
 */
void decode(Device&, Stream, const Stack&, const Caches&, const float* x, float* y, const Allocate&);

/** The parts of a model before and after its blocks. */
struct Ends {
  /** The embedding, a 16-bit kind or float32. */
  Matrix table;
  /** `[hidden]` float32. */
  const float* norm;
  Projection head;
};

/** @returns an empty text if there may be a {@link TokenChain}; otherwise the reason why not */
std::string refusal(const Device&, const Stack&, const Caches&, const Ends&);

/**
 * Passes of one new position of each sequence, from a token to the next one chosen by {@link greedyChoice}, each with
 * one start of a kernel. A pass may take the tokens that the pass before it chose, before the host has read them.
 */
class TokenChain {
 public:
  /**
   * @param stack length 1; its tables `[positions, headDim / 2]` cover all positions to come
   * @param caches without `past`
   * @param allocate memory that must last as long as the chain
   */
  TokenChain(Device&, Stream, const Stack&, const Caches&, const Ends&, const Allocate& allocate);
  /** Waits for passes that still run. */
  ~TokenChain();

  /**
   * @param past number of positions in the caches
   * @param positions each sequence's row in the tables
   * @param tokens each sequence's token; null for those that the pass before chose
   */
  void run(int64_t past, const int32_t* positions, const int32_t* tokens);

  /** Waits for the earliest pass that was not read yet. @param choices one for each sequence */
  void read(float* choices);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/**
 * logits `[rows, width]` float32 → the index of each row's largest, the first of equals; −1 − i if logit i is the first
 * not finite.
 */
void greedyChoice(Device&, Stream, int64_t rows, int64_t width, const float* logits, float* choice);

/**
 * Computes `−log softmax(hidden · Wᵀ)[label]` of each row, or the sum over rows, with the logits of only some rows at a
 * time.
 *
 * @param hidden `[rows, weight.cols]` float32
 * @param labels `[rows]` float32, exact integers; negative ones do not count
 * @param loss float32, `[rows]` if it is of each row, else a scalar
 * @param gradient gradient of each row's loss with respect to the row, as `hidden`; null if not wanted
 */
void linearCrossEntropy(Device&, Stream, const Matrix& weight, int64_t rows, const float* hidden, const float* labels,
                        bool ofEachRow, float* loss, float* gradient, const Allocate&);

/** An optimizer's rule. 8-bit states round as in bitsandbytes, see layers/kernels/steps. */
enum class Rule { adamW, adamW8bit, lion, lion8bit };

/** Returns the number of a variable's states; an 8-bit state is its codes and its scales. */
constexpr int stateCount(Rule rule) { return rule == Rule::lion ? 1 : rule == Rule::adamW8bit ? 4 : 2; }

/**
 * A variable of {@link update}: float32 of `size`, with the states of the rule. The new ones may overwrite the old
 * ones.
 */
struct UpdatedVariable {
  int64_t size;
  const float *value, *gradient;
  float* nextValue;
  std::array<const void*, 4> states;
  std::array<void*, 4> nextStates;
};

/** Multiplies gradients by `min(1, most / (norm + 1e-6))`, unless `norm` is null. Both are on the card. */
struct Clipping {
  const float *norm, *most;
};

/**
 * Updates all variables in one launch.
 *
 * @param factors on the card: for AdamW the eight of ../adamw_updates.cc, otherwise those of kernels/optimizer.cu
 * @param maps 8-bit maps on the card: two `Map8Bit` of kernels/arguments.h, for signed and for unsigned numbers
 */
void update(Device&, Stream, Rule, const std::vector<UpdatedVariable>&, const float* factors, const void* maps,
            const Clipping&, const Allocate&);

/** Computes the root of the sum of all squares. */
void globalNorm(Device&, Stream, const std::vector<std::pair<const float*, int64_t>>&, float* norm, const Allocate&);

/** Numbers to copy from one place on the card to another. */
struct Copied {
  const float* from;
  float* to;
  int64_t size;
};

/** Copies between any number of places in one launch. */
void copyAll(Device&, Stream, const std::vector<Copied>&, const Allocate&);

/** x `[rows, width]` → y as x, inverse root `[rows]`; all float32. */
void rmsNorm(Device&, Stream, int64_t rows, int64_t width, const float* x, const float* weight, float epsilon, float* y,
             float* inverse);
/** Computes dx, as x. */
void rmsNormGrad(Device&, Stream, int64_t rows, int64_t width, const float* dy, const float* x, const float* weight,
                 const float* inverse, float* dx);

}  // namespace tfjs_lora::cuda
