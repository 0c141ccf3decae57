#pragma once
#include "bfloat16.cuh"

// 4- and 8-bit numbers, as bitsandbytes reads them.

/** float32 nearest to 1/127, by which bitsandbytes multiplies. */
constexpr float kOneOf127 = 0.007874015718698502f;

__constant__ float kNF4Values[16] = {-1.f,
                                     -0.6961928009986877f,
                                     -0.5250730514526367f,
                                     -0.39491748809814453f,
                                     -0.28444138169288635f,
                                     -0.18477343022823334f,
                                     -0.09105003625154495f,
                                     0.f,
                                     0.07958029955625534f,
                                     0.16093020141124725f,
                                     0.24611230194568634f,
                                     0.33791524171829224f,
                                     0.44070982933044434f,
                                     0.5626170039176941f,
                                     0.7229568362236023f,
                                     1.f};
/** Twelfths: bitsandbytes divides 0.0625, 2, 3, 4, 6, 8 and 12 by 12. */
__constant__ float kFP4Values[16] = {0.f,  0.0625f / 12,  8.f / 12,  1.f,  4.f / 12,  6.f / 12,  2.f / 12,  3.f / 12,
                                     -0.f, -0.0625f / 12, -8.f / 12, -1.f, -4.f / 12, -6.f / 12, -2.f / 12, -3.f / 12};

/**
 * Returns the scale of a block of values; `absmaxCodes` is null if `absmax` holds the scales. See Matrix in engine.h.
 */
__device__ __forceinline__ float fourBitScale(const float* absmax, const u8* absmaxCodes, const float* map, float offset,
                                              i64 block, i64 nestedBlock) {
  if (!absmaxCodes) return absmax[block];
  return __fadd_rn(__fmul_rn(map[absmaxCodes[block]], absmax[nestedBlock]), offset);
}

/** Returns the eight values of a word of codes; the first of a byte is in its high half. */
__device__ __forceinline__ Eight fourBitValues(u32 word, const float* table, float scale) {
  Eight x;
  for (int i = 0; i < 4; i++) {
    x.of[2 * i] = table[word >> (8 * i + 4) & 15] * scale;
    x.of[2 * i + 1] = table[word >> (8 * i) & 15] * scale;
  }
  return x;
}
