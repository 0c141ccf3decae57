// 16-bit numbers, two to a word, and vectors of eight; the run-time compiler does not have CUDA's headers.
#pragma once
#include "types.h"

__device__ __forceinline__ float lowHalf(u32 word) { return __uint_as_float(word << 16); }
__device__ __forceinline__ float highHalf(u32 word) { return __uint_as_float(word & 0xffff0000u); }
__device__ __forceinline__ float widen(u16 x) { return __uint_as_float((u32)x << 16); }

/** Packs two numbers, rounded to nearest, ties to even; `low` is the first in memory. */
__device__ __forceinline__ u32 pack(float low, float high) {
  u32 word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
__device__ __forceinline__ u16 narrow(float x) { return (u16)pack(x, 0.f); }

__device__ __forceinline__ float widenHalf(u16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
  return y;
}

/** Numbers that are read and written together. */
template <int count>
struct Numbers {
  float of[count];
};
using Eight = Numbers<8>;

__device__ __forceinline__ Eight eightOf(const uint4& words) {
  return {{lowHalf(words.x), highHalf(words.x), lowHalf(words.y), highHalf(words.y), lowHalf(words.z), highHalf(words.z),
           lowHalf(words.w), highHalf(words.w)}};
}

__device__ __forceinline__ Eight load8(const u16* from) { return eightOf(*reinterpret_cast<const uint4*>(from)); }

__device__ __forceinline__ Eight load8(const float* from) {
  const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

__device__ __forceinline__ void store8(u16* to, const Eight& x) {
  *reinterpret_cast<uint4*>(to) =
      make_uint4(pack(x.of[0], x.of[1]), pack(x.of[2], x.of[3]), pack(x.of[4], x.of[5]), pack(x.of[6], x.of[7]));
}

__device__ __forceinline__ void store8(float* to, const Eight& x) {
  reinterpret_cast<float4*>(to)[0] = make_float4(x.of[0], x.of[1], x.of[2], x.of[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(x.of[4], x.of[5], x.of[6], x.of[7]);
}

/** Loads one number, at any address, or eight, at a multiple of 16 bytes. */
template <int count, class T>
__device__ __forceinline__ Numbers<count> load(const T* from) {
  if constexpr (count == 8) return load8(from);
  else return {{*from}};
}

__device__ __forceinline__ void store(u16* to, const Eight& x) { store8(to, x); }
__device__ __forceinline__ void store(float* to, const Numbers<1>& x) { *to = x.of[0]; }

/** Computes 2 to the x, within 2⁻²². */
__device__ __forceinline__ float exp2Of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

constexpr float kLog2E = 1.4426950408889634f;

/**
 * Sums over a block of threads, in the same order each time; every thread gets the sum. `shared` holds one float per
 * warp.
 */
__device__ __forceinline__ float blockSum(float x, float* shared) {
  for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(0xffffffffu, x, step);
  const int warps = blockDim.x / 32;
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0.f;
  for (int warp = 0; warp < warps; warp++) sum += shared[warp];
  return sum;
}

__device__ __forceinline__ float blockMax(float x, float* shared) {
  for (int step = 16; step > 0; step >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  const int warps = blockDim.x / 32;
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  float most = shared[0];
  for (int warp = 1; warp < warps; warp++) most = fmaxf(most, shared[warp]);
  return most;
}
