#pragma once
#include "types.h"

// What kernels are given by value: one text for the kernels and for what starts them.

struct Attention {
  const u16* qkv;
  i64 stride;
  /** `[batch, length]`, null where all tokens of a sequence see those before; see Stack in engine.h. */
  const float* segments;
  int length, heads, keyValueHeads;
  /** Of the scores, times log2(e). */
  float scale;
};

struct AttentionGrad {
  const u16* dy;
  i64 dyStride;
  const float *logSums, *along;
  /** Laid out as `qkv`. */
  u16* dQkv;
  i64 dStride;
  /** Of the scores. */
  float scale;
};

/** Weights that one product of a few rows takes at most, and rows of them that a warp has at once. */
constexpr int kMaxParts = 3, kRowsPerWarp = 2;
/** Numbers of each input row that are in shared memory at once, by how many rows there are. */
constexpr int chunkOf(int batch) { return batch == 1 ? 4096 : 2048; }
/** Threads that attend to a span of positions, and heads of a group that share each key and value that is read. */
constexpr int kAttendThreads = 256, kHeadsAtOnce = 4;

/** Numbers in shared memory that attention to a span needs: the queries of a group, their scores, and sums of each warp. */
constexpr int sharedToAttend(int dim, int span, int perGroup, int threads) {
  return perGroup * (dim + span) + threads / 32 * kHeadsAtOnce * dim;
}

enum Kind { kBFloat16, kFloat16, kFloat32, kNF4, kFP4, kInt8 };

/** A weight of a product, and where its results go. */
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
  /** Its first column in `y`, and in `low`. */
  int column, slot;
};

struct Product {
  Part parts[kMaxParts];
  int count, cols, batch;
  const float* x;
  /** Where the input is normalized first; else null. */
  const float* norm;
  float epsilon;
  /** `[batch, width]` and `[batch, slots]`. */
  float *y, *low;
  int width, slots;
};

/** What a product gave with its low-rank path. */
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
  /** `[batch, segmentStride]`, null where there are none. */
  const float* segments;
  int segmentStride, past, capacity, heads, keyValueHeads, dim, span;
  float scale;
  /** Of each head and span of positions: the largest score, the sum and the `dim` sums of values; `[batch, heads, spans, dim + 2]`. */
  float* parts;
};

/** Threads of a block of a chain's pass, and sequences of a chain at most. */
constexpr int kPassThreads = 512, kMaxChained = 4;

/** What the input of a stage's product is made of. */
enum Source { kEmbedding, kSum, kSpans, kGated, kPlain };
/** What comes between a stage's product and the next stage. */
enum Between { kNothing, kAttention, kGate, kChoice };

/** A product of a pass, and what is beside it. */
struct Stage {
  /** Without `x`. */
  Product product;
  Source source;
  Between next;
  /** `kSum`: what is added to `residual`. `kGated`: gate and up. */
  Result inputs[2];
  /** `kGate`: gate and up. `kChoice`: the head's. */
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
  /** A block's each. */
  const Decode* attentions;
  /** `[vocabulary, cols]` of the first stage's; a 16-bit kind or float32. */
  const void* table;
  Kind tableKind;
  /** Blocks of threads that have come to a barrier; 0 between passes. */
  u32* arrived;
  /** 16 bytes for each block of threads and sequence. */
  void* choices;
  /** `[batch]`: the pass before chose these, this one's go there too. */
  float* choice;
  /** `[batch]` in the processor's memory: where it waits for the choice. */
  float* answer;
  int past, spans, span;
  /** Whether `tokens` are taken instead of `choice`. */
  int isGiven;
  int tokens[kMaxChained];
  /** Rows of the tables, by sequence. */
  int positions[kMaxChained];
};

/** Numbers of one variable that a block of threads updates, and those that share a scale in 8 bits: one a thread. */
constexpr int kPerBlock = 4096, kStateBlock = 256;

/** What 8-bit codes stand for, and the code of each of 65,536 even steps from −1 to 1. */
struct Map8Bit {
  float values[256];
  u8 codes[65536];
};

struct Variable {
  const float *value, *gradient;
  float* nextValue;
  /** Running means, each float32 or codes and then scales. */
  const void* states[4];
  void* nextStates[4];
  i64 size;
  /** The first block of threads that is this variable's. */
  i64 firstBlock;
};
