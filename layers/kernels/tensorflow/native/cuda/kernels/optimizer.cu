#include "arguments.h"
#include "bfloat16.cuh"

// All variables in one launch: each has a row of a table, and every block of threads takes 4096 numbers of one variable.

__device__ __forceinline__ int variableOf(const Variable* table, int count, i64 block) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table[middle].firstBlock <= block) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** See layers/kernels/tensorflow/native/adamw_updates.cc for the factors. */
extern "C" __global__ void adamW(const Variable* table, int count, const float* factors) {
  const Variable v = table[variableOf(table, count, blockIdx.x)];
  const float beta1 = factors[0], rest1 = factors[1], beta2 = factors[2], rest2 = factors[3], correction = factors[4],
              epsilon = factors[5], decay = factors[6], rate = factors[7];
  const i64 begin = (blockIdx.x - v.firstBlock) * kPerBlock, end = min(begin + kPerBlock, v.size);
  for (i64 at = begin + threadIdx.x; at < end; at += blockDim.x) {
    const float g = v.gradient[at];
    const float mean = beta1 * v.mean[at] + rest1 * g, variance = beta2 * v.variance[at] + rest2 * (g * g);
    v.nextMean[at] = mean;
    v.nextVariance[at] = variance;
    v.nextValue[at] = decay * v.value[at] - rate * (mean / (sqrtf(variance) * correction + epsilon));
  }
}

/** Sum of the squares of each block's numbers, of `gradient`. */
extern "C" __global__ void squares(const Variable* table, int count, float* sums) {
  __shared__ float shared[32];
  const Variable v = table[variableOf(table, count, blockIdx.x)];
  const i64 begin = (blockIdx.x - v.firstBlock) * kPerBlock, end = min(begin + kPerBlock, v.size);
  float sum = 0.f;
  for (i64 at = begin + threadIdx.x; at < end; at += blockDim.x) sum += v.gradient[at] * v.gradient[at];
  sum = blockSum(sum, shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

/** Root of the sum of `[count]`, by one block of threads. */
extern "C" __global__ void rootOfTotal(const float* sums, i64 count, float* root) {
  __shared__ float shared[32];
  float own = 0.f;
  for (i64 at = threadIdx.x; at < count; at += blockDim.x) own += sums[at];
  own = blockSum(own, shared);
  if (threadIdx.x == 0) *root = sqrtf(own);
}
