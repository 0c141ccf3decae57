#pragma once
#include "arguments.h"
#include "bfloat16.cuh"

// What the kernels of attention take, and which keys a query sees.
//
// A row of `qkv` is a token: its heads' queries, then keys, then values, of DIM each. The logarithm of a query's sum is to base 2.

constexpr float kHidden = -1e30f;

template <int DIM>
__device__ __forceinline__ const u16* partOf(const Attention& a, int batch, int head) {
  return a.qkv + (i64)batch * a.length * a.stride + head * DIM;
}

/** Whether a query sees a key: both exist, the key comes not later, and it is of the same segment. */
__device__ __forceinline__ bool isSeen(int query, int key, const Attention& a, const float* querySegment,
                                       const float* keySegment) {
  if (key > query || key >= a.length || query >= a.length) return false;
  return !a.segments || (*querySegment == *keySegment && *keySegment != 0.f);
}

/** A score becomes its weight, and the gradient of the weight that of the score, not yet scaled. */
__device__ __forceinline__ void weigh(float& score, float& gradient, float scale, float logSum, float along) {
  score = exp2Of(score * scale - logSum);
  gradient = score * (gradient - along);
}
