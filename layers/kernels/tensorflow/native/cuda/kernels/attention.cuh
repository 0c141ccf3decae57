#pragma once
#include "arguments.h"
#include "bfloat16.cuh"

// The arguments of the attention kernels, and which keys a query sees.
//
// A row of `qkv` is a token: its heads' queries, then keys, then values, of DIM each. The logarithm of a query's sum
// has base 2.

constexpr float kHidden = -1e30f;

template <int DIM>
__device__ __forceinline__ const u16* partOf(const Attention& a, int batch, int head) {
  return a.qkv + (i64)batch * a.length * a.stride + head * DIM;
}

/** Whether a query sees a key: both exist, the key is not later, and it is in the same segment. */
__device__ __forceinline__ bool isSeen(int query, int key, const Attention& a, const float* querySegment,
                                       const float* keySegment) {
  if (key > query || key >= a.length || query >= a.length) return false;
  return !a.segments || (*querySegment == *keySegment && *keySegment != 0.f);
}

/** Turns a score into its weight, and the weight's gradient into that of the score before scaling. */
__device__ __forceinline__ void weigh(float& score, float& gradient, float scale, float logSum, float along) {
  score = exp2Of(score * scale - logSum);
  gradient = score * (gradient - along);
}
