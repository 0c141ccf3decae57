#pragma once
#include "types.h"

// The arguments that kernels take by value, shared by the kernels and the code that starts them.

struct Attention {
  const u16* qkv;
  i64 stride;
  /** `[batch, length]`, null if each token sees all earlier ones of its sequence; see Stack in engine.h. */
  const float* segments;
  int length, heads, keyValueHeads;
  /** Scale of the scores, times log2(e). */
  float scale;
};

struct AttentionGrad {
  const u16* dy;
  i64 dyStride;
  const float *logSums, *along;
  /** Laid out as `qkv`. */
  u16* dQkv;
  i64 dStride;
  /** Scale of the scores. */
  float scale;
};

/** The most weights that one product of a few rows takes, and the number of their rows that a warp takes together. */
constexpr int kMaxParts = 3, kRowsPerWarp = 2;
/** Returns how many numbers of each input row are in shared memory at the same time, for a number of rows. */
constexpr int chunkOf(int batch) { return batch == 1 ? 4096 : 2048; }
/** Threads that attend to a span of positions, and heads of a group that share each key and value that is read. */
constexpr int kAttendThreads = 256, kHeadsAtOnce = 4;

/**
 * Returns how many numbers attention to a span needs in shared memory: a group's queries, their scores, and sums of
 * each warp.
 */
constexpr int sharedToAttend(int dim, int span, int perGroup, int threads) {
  return perGroup * (dim + span) + threads / 32 * kHeadsAtOnce * dim;
}

enum Kind { kBFloat16, kFloat16, kFloat32, kNF4, kFP4, kInt8 };

/** A weight of a product, and the place of its results. */
struct Part {
  Kind kind;
  int rows, rank;
  const void* data;
  const float* absmax;
  const u8* absmaxCodes;
  const float* map;
  const float* scales;
  const float* a;
  float offset;
  /** Logarithms to base 2. */
  int blockSize, nestedBlockSize;
  /** The weight's first column in `y`, and in `low`. */
  int column, slot;
};

struct Product {
  Part parts[kMaxParts];
  int count, cols, batch;
  const float* x;
  /** The norm of the input, or null. */
  const float* norm;
  float epsilon;
  /** `[batch, width]` and `[batch, slots]`. */
  float *y, *low;
  int width, slots;
};

/** A product's result with its low-rank path. */
struct Result {
  const float *y, *low, *b;
  int width, slots, slot, rank;
  float scaling;
};

struct Decode {
  Result query, key, value;
  const float *cos, *sin;
  int perSequence;
  /** `[batch, keyValueHeads, capacity, dim]` */
  float *keys, *values;
  /** `[batch, segmentStride]`, or null. */
  const float* segments;
  int segmentStride, past, capacity, heads, keyValueHeads, dim, span;
  float scale;
  /**
   * `[batch, heads, spans, dim + 2]`: for each head and span of positions the largest score, the sum and the `dim` sums
   * of values.
   */
  float* parts;
};

/** Threads of a block in a chain's pass, and the most sequences of a chain. */
constexpr int kPassThreads = 512, kMaxChained = 4;

/** What the input of a stage's product is made from. */
enum Source { kEmbedding, kSum, kSpans, kGated, kPlain };
/** What comes between a stage's product and the next stage. */
enum Between { kNothing, kAttention, kGate, kChoice };

/** A product of a pass, with its input and what follows it. */
struct Stage {
  /** The product without `x`. */
  Product product;
  Source source;
  Between next;
  /** `kSum`: the results added to `residual`. `kGated`: gate and up. */
  Result inputs[2];
  /** `kGate`: gate and up. `kChoice`: the head's result. */
  Result outputs[2];
  /** The residual path, `[batch, cols]`: read by `kSum`, and written by it and `kEmbedding`. */
  const float* residual;
  float* nextResidual;
  /** `[batch, cols]`: read by `kPlain`, and written by a `kGate` that follows. */
  float* plain;
};

/** One new position of each sequence of a chain, from its token to the choice of the next. */
struct Pass {
  const Stage* stages;
  int stageCount;
  /** Attention of each decoder block. */
  const Decode* attentions;
  /** `[vocabulary, cols]` with the first stage's cols; a 16-bit kind or float32. */
  const void* table;
  Kind tableKind;
  /** Number of blocks of threads that have reached a barrier; 0 between passes. */
  u32* arrived;
  /** 16 bytes for each block of threads and sequence. */
  void* choices;
  /** `[batch]`: the choices of the pass before, which this pass replaces by its own. */
  float* choice;
  /** `[batch]` in host memory, where the host waits for the choices. */
  float* answer;
  int past, spans, span;
  /** Whether `tokens` are taken instead of `choice`. */
  int isGiven;
  int tokens[kMaxChained];
  /** The sequences' rows in the tables. */
  int positions[kMaxChained];
};

/** Numbers of a variable that a block of threads updates, and numbers that share a scale in 8 bits: one per thread. */
constexpr int kPerBlock = 4096, kStateBlock = 256;

/** The values of 8-bit codes, and the code of each of 65,536 even steps from −1 to 1. */
struct Map8Bit {
  float values[256];
  u8 codes[65536];
};

struct Variable {
  const float *value, *gradient;
  float* nextValue;
  /** Running means, each float32, or codes followed by scales. */
  const void* states[4];
  void* nextStates[4];
  i64 size;
  /** The first block of threads of this variable. */
  i64 firstBlock;
};
