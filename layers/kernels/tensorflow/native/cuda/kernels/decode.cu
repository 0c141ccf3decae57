#include "arguments.h"
#include "decode.cuh"

// One token of each of a few sequences through decoder blocks, with a kernel for each part of them.

/**
 * Lets the next kernel begin before this one has ended. Until {@link waitForInputs}, that kernel reads only memory that
 * no kernel writes.
 */
__device__ __forceinline__ void letNextBegin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ void waitForInputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/**
 * Multiplies `batch` rows of x, at most BATCH. Grid: enough warps, in blocks of 256 threads, for all rows of weights,
 * then those of A, kRowsPerWarp each.
 */
template <int BATCH>
__device__ __forceinline__ void multiplyRows(const Product& p) {
  constexpr int CHUNK = chunkOf(BATCH);
  extern __shared__ float shared[];  // [BATCH][CHUNK]
  __shared__ float tables[2][16], sums[32];
  letNextBegin();
  if (threadIdx.x < 32) tables[threadIdx.x / 16][threadIdx.x % 16] = (threadIdx.x < 16 ? kNF4Values : kFP4Values)[threadIdx.x % 16];
  // The rows of this warp.
  const int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
  int group = warp, part = -1;
  bool isA = false;
  for (int i = 0; i < 2 * p.count && part < 0; i++) {
    const Part& each = p.parts[i % p.count];
    const int rows = i < p.count ? each.rows : each.rank, groups = (rows + kRowsPerWarp - 1) / kRowsPerWarp;
    if (group < groups) {
      part = i % p.count;
      isA = i >= p.count;
    } else {
      group -= groups;
    }
  }
  const Part& own = p.parts[part < 0 ? 0 : part];
  const int first = group * kRowsPerWarp, rows = part < 0 ? 0 : min(kRowsPerWarp, (isA ? own.rank : own.rows) - first);
  if (rows > 0 && !isA) {  // load the weights while the input is not ready yet
    withRows(own, isA, p.cols, tables, [&](const auto& source) {
      const char* from = (const char*)source.address(first * p.cols);
      const char* to = (const char*)source.address((first + rows) * p.cols);
      for (from += 128 * lane; from < to; from += 128 * 32) asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
    });
  }
  waitForInputs();
  float result[kRowsPerWarp][BATCH] = {}, squares[BATCH] = {};
  for (int begin = 0; begin < p.cols; begin += CHUNK) {
    const int count = min(CHUNK, p.cols - begin);
    if (begin > 0) __syncthreads();
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
#pragma unroll 4
      for (int at = 4 * threadIdx.x; at < count; at += 4 * 256) {
        float4 x = *reinterpret_cast<const float4*>(p.x + (i64)min(b, p.batch - 1) * p.cols + begin + at);
        if (p.norm) {
          const float4 w = *reinterpret_cast<const float4*>(p.norm + begin + at);
          squares[b] += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
          x = make_float4(x.x * w.x, x.y * w.y, x.z * w.z, x.w * w.w);
        }
        *reinterpret_cast<float4*>(shared + b * CHUNK + at) = x;
      }
    }
    __syncthreads();
    if (rows <= 0) continue;
    withRows(own, isA, p.cols, tables, [&](const auto& source) {
      addProducts<kRowsPerWarp, 4>(result, source, first, rows, p.cols, begin, count,
                                   [&](int b, int at) { return load8(shared + b * CHUNK + at); });
    });
  }
#pragma unroll
  for (int b = 0; b < BATCH; b++) {
    const float root = p.norm ? rsqrtf(blockSum(squares[b], sums) / p.cols + p.epsilon) : 1.f;
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; r++) {
      float sum = result[r][b] * root;
      for (int step = 16; step > 0; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
      if (lane != 0 || r >= rows || b >= p.batch) continue;
      if (isA) p.low[b * p.slots + own.slot + first + r] = sum;
      else p.y[(i64)b * p.width + own.column + first + r] = sum;
    }
  }
}

extern "C" __global__ void __launch_bounds__(256) multiplyRows1(Product p) { multiplyRows<1>(p); }
extern "C" __global__ void __launch_bounds__(256) multiplyRows2(Product p) { multiplyRows<2>(p); }
extern "C" __global__ void __launch_bounds__(256) multiplyRows4(Product p) { multiplyRows<4>(p); }
extern "C" __global__ void __launch_bounds__(256) multiplyRows8(Product p) { multiplyRows<8>(p); }

/** y = x + result, `[batch, width]`. A thread per number. */
extern "C" __global__ void addResult(const float* x, Result r, float* y, int width) {
  letNextBegin();
  waitForInputs();
  const int at = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (at < width) y[(i64)row * width + at] = x[(i64)row * width + at] + resultAt(r, row, at);
}

/** y = silu(gate) · up, `[batch, width]`. A thread per number. */
extern "C" __global__ void gateResults(Result gate, Result up, float* y, int width) {
  letNextBegin();
  waitForInputs();
  const int at = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (at >= width) return;
  y[(i64)row * width + at] = gated(resultAt(gate, row, at), resultAt(up, row, at));
}

/** Grid: spans, key-value heads, batch. */
extern "C" __global__ void __launch_bounds__(kAttendThreads) attendOne(Decode d) {
  letNextBegin();
  extern __shared__ float memory[];
  const int row = blockIdx.z, own = d.perSequence ? row * (d.dim / 2) : 0, number = blockIdx.x;
  const Span span = {d.past, number * d.span, d.span, number, (int)gridDim.x, (int)blockIdx.y, row, d.cos + own, d.sin + own};
  waitForInputs();
  attend<kAttendThreads>(d, span, memory);
}

/** Joins the spans: y `[batch, heads · dim]`. Grid: heads, batch; a thread per number of the head. */
extern "C" __global__ void joinSpans(const float* parts, int spans, float* y, int heads, int dim) {
  letNextBegin();
  waitForInputs();
  const i64 head = (i64)blockIdx.y * heads + blockIdx.x;
  y[head * dim + threadIdx.x] = joinedAt(parts + head * spans * (dim + 2), spans, dim, threadIdx.x);
}

/** A block of 1024 threads per row. */
extern "C" __global__ void greedyChoice(const float* logits, int width, float* choice) {
  __shared__ Choice ofWarps[32];
  const float* row = logits + (i64)blockIdx.x * width;
  Choice own = Choice::none();
  for (int at = threadIdx.x; at < width; at += blockDim.x) own.add(row[at], at);
  own.joinWarp();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (lane == 0) ofWarps[warp] = own;
  __syncthreads();
  if (warp > 0) return;
  own = ofWarps[lane];
  own.joinWarp();
  if (lane == 0) choice[blockIdx.x] = own.number();
}
