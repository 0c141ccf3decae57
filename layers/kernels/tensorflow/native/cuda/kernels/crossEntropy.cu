#include "bfloat16.cuh"

/**
 * Replaces logits `[rows, width]` by their softmax, less 1 at the label: the gradient of each row's loss. A row without
 * a label (negative) becomes zeros and has no loss. A block of threads per row.
 *
 * @param losses `[rows]` float32
 */
extern "C" __global__ void crossEntropy(u16* logits, i64 stride, const float* labels, float* losses, int width) {
  __shared__ float shared[32];
  u16* row = logits + (i64)blockIdx.x * stride;
  const int label = (int)labels[blockIdx.x];
  const int whole = width / 8 * 8;  // the rest is less than a vector
  if (label < 0) {
    for (int at = 8 * threadIdx.x; at < whole; at += 8 * blockDim.x) store8(row + at, Eight{});
    for (int at = whole + threadIdx.x; at < width; at += blockDim.x) row[at] = 0;
    if (threadIdx.x == 0) losses[blockIdx.x] = 0.f;
    return;
  }
  const float own = label < width ? widen(row[label]) : 0.f;
  float most = -1e30f;
  for (int at = 8 * threadIdx.x; at < whole; at += 8 * blockDim.x) {
    const Eight x = load8(row + at);
    for (int i = 0; i < 8; i++) most = fmaxf(most, x.of[i]);
  }
  for (int at = whole + threadIdx.x; at < width; at += blockDim.x) most = fmaxf(most, widen(row[at]));
  most = blockMax(most, shared);
  float sum = 0.f;
  for (int at = 8 * threadIdx.x; at < whole; at += 8 * blockDim.x) {
    const Eight x = load8(row + at);
    for (int i = 0; i < 8; i++) sum += exp2Of((x.of[i] - most) * kLog2E);
  }
  for (int at = whole + threadIdx.x; at < width; at += blockDim.x) sum += exp2Of((widen(row[at]) - most) * kLog2E);
  sum = blockSum(sum, shared);
  const float inverse = 1.f / sum;
  const auto slope = [&](float x, int at) { return exp2Of((x - most) * kLog2E) * inverse - (at == label ? 1.f : 0.f); };
  for (int at = 8 * threadIdx.x; at < whole; at += 8 * blockDim.x) {
    Eight x = load8(row + at);
    for (int i = 0; i < 8; i++) x.of[i] = slope(x.of[i], at + i);
    store8(row + at, x);
  }
  for (int at = whole + threadIdx.x; at < width; at += blockDim.x) row[at] = narrow(slope(widen(row[at]), at));
  if (threadIdx.x == 0) losses[blockIdx.x] = logf(sum) + most - own;
}

/** Sums `[count]` with one block of threads, in the same order each time. */
extern "C" __global__ void total(const float* x, i64 count, float* sum) {
  __shared__ float shared[32];
  float own = 0.f;
  for (i64 at = threadIdx.x; at < count; at += blockDim.x) own += x[at];
  own = blockSum(own, shared);
  if (threadIdx.x == 0) *sum = own;
}
