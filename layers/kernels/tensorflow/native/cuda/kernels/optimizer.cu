#include "arguments.h"
#include "bfloat16.cuh"

// Updates all variables in one launch: each has a row of a table, and every block of threads takes 4096 numbers of one
// variable.

__device__ __forceinline__ int variableOf(const Variable* table, int count, i64 block) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table[middle].firstBlock <= block) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Returns the factor that clips gradients to the largest norm, as in PyTorch; 1 if there is no norm. */
__device__ __forceinline__ float clippingOf(const float* norm, const float* most) {
  if (!norm) return 1.f;
  const float factor = (float)((double)*most / ((double)*norm + 1e-6));
  return factor < 1.f ? factor : 1.f;
}

/** The factors are described in layers/kernels/tensorflow/native/adamw_updates.cc. */
extern "C" __global__ void adamW(const Variable* table, int count, const float* factors, const float* norm,
                                 const float* most) {
  const float clipping = clippingOf(norm, most);
  const Variable v = table[variableOf(table, count, blockIdx.x)];
  const float beta1 = factors[0], rest1 = factors[1], beta2 = factors[2], rest2 = factors[3], correction = factors[4],
              epsilon = factors[5], decay = factors[6], rate = factors[7];
  const float *means = (const float*)v.states[0], *variances = (const float*)v.states[1];
  float *nextMeans = (float*)v.nextStates[0], *nextVariances = (float*)v.nextStates[1];
  const i64 begin = (blockIdx.x - v.firstBlock) * kPerBlock, end = min(begin + kPerBlock, v.size);
  for (i64 at = begin + threadIdx.x; at < end; at += blockDim.x) {
    const float g = __fmul_rn(v.gradient[at], clipping);
    const float mean = beta1 * means[at] + rest1 * g, variance = beta2 * variances[at] + rest2 * (g * g);
    nextMeans[at] = mean;
    nextVariances[at] = variance;
    v.nextValue[at] = decay * v.value[at] - rate * (mean / (sqrtf(variance) * correction + epsilon));
  }
}

// The other kernels round where bitsandbytes does, so that the codes are the same: see layers/kernels/steps.

/** Moves a weight by the rate, against the sign of `sum`. 0 stays 0, NaN stays NaN. */
__device__ __forceinline__ float moved(float value, float sum, float keep, float rate) {
  return __fsub_rn(__fmul_rn(value, keep), sum > 0.f ? rate : sum < 0.f ? -rate : sum);
}

/** Factors: beta1, 1 − beta1, beta2, 1 − beta2, 1 − rate · decay, rate. */
extern "C" __global__ void lion(const Variable* table, int count, const float* factors, const float* norm,
                                const float* most) {
  const float clipping = clippingOf(norm, most);
  const Variable v = table[variableOf(table, count, blockIdx.x)];
  const float beta1 = factors[0], rest1 = factors[1], beta2 = factors[2], rest2 = factors[3], keep = factors[4],
              rate = factors[5];
  const float* momenta = (const float*)v.states[0];
  float* nextMomenta = (float*)v.nextStates[0];
  const i64 begin = (blockIdx.x - v.firstBlock) * kPerBlock, end = min(begin + kPerBlock, v.size);
  for (i64 at = begin + threadIdx.x; at < end; at += blockDim.x) {
    const float m = momenta[at], g = __fmul_rn(v.gradient[at], clipping);
    v.nextValue[at] = moved(v.value[at], __fmaf_rn(rest1, g, __fmul_rn(m, beta1)), keep, rate);
    nextMomenta[at] = __fmaf_rn(rest2, g, __fmul_rn(m, beta2));
  }
}

/** An 8-bit state of one variable. A block of threads takes `kStateBlock` numbers at a time, which share a scale. */
struct State8Bit {
  const u8* codes;
  const float* scales;
  u8* nextCodes;
  float* nextScales;
  /** The codes' values, in shared memory. */
  const float* values;
  const u8* codesOfSteps;

  __device__ State8Bit(const Variable& v, int first, const float* values, const Map8Bit& map)
      : codes((const u8*)v.states[first]),
        scales((const float*)v.states[first + 1]),
        nextCodes((u8*)v.nextStates[first]),
        nextScales((float*)v.nextStates[first + 1]),
        values(values),
        codesOfSteps(map.codes) {}

  __device__ float load(i64 at) const { return __fmul_rn(values[codes[at]], scales[at / kStateBlock]); }

  /** Called by all threads of the block; bytes after the last number, up to a whole word, become 0. */
  __device__ void store(i64 at, i64 size, float x, float* shared) {
    const float largest = blockMax(at < size ? fabsf(x) : 0.f, shared);
    if (threadIdx.x == 0) nextScales[at / kStateBlock] = largest;
    if (at >= (size + 3) / 4 * 4) return;
    u8 code = 0;
    if (at < size && largest != 0.f) {
      float normal = __fmul_rn(x, __frcp_rn(largest));  // NaN if the scale is too small to be inverted
      if (normal > 1.f) normal = 1.f;
      else if (normal < -1.f) normal = -1.f;
      code = codesOfSteps[(int)__fmaf_rn(__fmul_rn(__fadd_rn(normal, 1.f), 0.5f), 65535.f, 0.5f)];
    }
    nextCodes[at] = code;
  }
};

/**
 * Factors: beta1, 1 − beta1, beta2, 1 − beta2, root of the variance's correction, epsilon, 1 − rate · decay, −corrected
 * rate.
 */
extern "C" __global__ void adamW8bit(const Variable* table, int count, const float* factors, const float* norm,
                                     const float* most, const Map8Bit* maps) {
  const float clipping = clippingOf(norm, most);
  __shared__ float shared[32], signedValues[256], unsignedValues[256];
  signedValues[threadIdx.x] = maps[0].values[threadIdx.x];
  unsignedValues[threadIdx.x] = maps[1].values[threadIdx.x];
  __syncthreads();
  const Variable v = table[variableOf(table, count, blockIdx.x)];
  const float beta1 = factors[0], rest1 = factors[1], beta2 = factors[2], rest2 = factors[3], correction = factors[4],
              epsilon = factors[5], keep = factors[6], move = factors[7];
  State8Bit means(v, 0, signedValues, maps[0]), variances(v, 2, unsignedValues, maps[1]);
  const i64 begin = (blockIdx.x - v.firstBlock) * kPerBlock, end = min(begin + kPerBlock, v.size);
  for (i64 first = begin; first < end; first += kStateBlock) {
    const i64 at = first + threadIdx.x;
    float mean = 0.f, variance = 0.f;
    if (at < v.size) {
      const float g = __fmul_rn(v.gradient[at], clipping);
      mean = __fmaf_rn(rest1, g, __fmul_rn(means.load(at), beta1));
      variance = __fmaf_rn(__fmul_rn(rest2, g), g, __fmul_rn(variances.load(at), beta2));
      const float root = __fadd_rn(__fdiv_rn(__fsqrt_rn(variance), correction), epsilon);
      v.nextValue[at] = __fadd_rn(__fmul_rn(v.value[at], keep), __fdiv_rn(__fmul_rn(move, mean), root));
    }
    means.store(at, v.size, mean, shared);
    variances.store(at, v.size, variance, shared);
  }
}

/** The factors are those of {@link lion}. */
extern "C" __global__ void lion8bit(const Variable* table, int count, const float* factors, const float* norm,
                                    const float* most, const Map8Bit* maps) {
  const float clipping = clippingOf(norm, most);
  __shared__ float shared[32], values[256];
  values[threadIdx.x] = maps[0].values[threadIdx.x];
  __syncthreads();
  const Variable v = table[variableOf(table, count, blockIdx.x)];
  const float beta1 = factors[0], rest1 = factors[1], beta2 = factors[2], rest2 = factors[3], keep = factors[4],
              rate = factors[5];
  State8Bit momenta(v, 0, values, maps[0]);
  const i64 begin = (blockIdx.x - v.firstBlock) * kPerBlock, end = min(begin + kPerBlock, v.size);
  for (i64 first = begin; first < end; first += kStateBlock) {
    const i64 at = first + threadIdx.x;
    float next = 0.f;
    if (at < v.size) {
      const float m = momenta.load(at), g = __fmul_rn(v.gradient[at], clipping);
      v.nextValue[at] = moved(v.value[at], __fadd_rn(__fmul_rn(m, beta1), __fmul_rn(g, rest1)), keep, rate);
      next = __fmaf_rn(rest2, g, __fmul_rn(m, beta2));
    }
    momenta.store(at, v.size, next, shared);
  }
}

/** Copies the numbers of `value` to `nextValue`. */
extern "C" __global__ void copy(const Variable* table, int count) {
  const Variable v = table[variableOf(table, count, blockIdx.x)];
  const i64 begin = (blockIdx.x - v.firstBlock) * kPerBlock, end = min(begin + kPerBlock, v.size);
  for (i64 at = begin + threadIdx.x; at < end; at += blockDim.x) v.nextValue[at] = v.value[at];
}

/** Computes the sum of the squares of each block's numbers, of `gradient`. */
extern "C" __global__ void squares(const Variable* table, int count, float* sums) {
  __shared__ float shared[32];
  const Variable v = table[variableOf(table, count, blockIdx.x)];
  const i64 begin = (blockIdx.x - v.firstBlock) * kPerBlock, end = min(begin + kPerBlock, v.size);
  float sum = 0.f;
  for (i64 at = begin + threadIdx.x; at < end; at += blockDim.x) sum += v.gradient[at] * v.gradient[at];
  sum = blockSum(sum, shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

/** Computes the root of the sum of `[count]` with one block of threads. */
extern "C" __global__ void rootOfTotal(const float* sums, i64 count, float* root) {
  __shared__ float shared[32];
  float own = 0.f;
  for (i64 at = threadIdx.x; at < count; at += blockDim.x) own += sums[at];
  own = blockSum(own, shared);
  if (threadIdx.x == 0) *root = sqrtf(own);
}
