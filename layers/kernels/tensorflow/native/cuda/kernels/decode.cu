#include "arguments.h"
#include "bfloat16.cuh"
#include "fourBit.cuh"

// One token of each of a few sequences: products of a few rows read each weight once, as it is stored, and that is what they take
// their time for. All but weights is float32. Low-rank paths are in two steps: A is multiplied like more rows of the weights of its
// input; what reads the product adds B's part.

// How eight numbers of a row are read, as they are stored, and what they are.

struct BFloat16Rows {
  const u16* data;
  using Stored = uint4;
  __device__ __forceinline__ const void* address(u32 place) const { return data + place; }
  __device__ __forceinline__ Stored load(u32 place) const { return *reinterpret_cast<const uint4*>(data + place); }
  __device__ __forceinline__ Eight read(const Stored& words) const { return eightOf(words); }
};

struct Float32Rows {
  const float* data;
  using Stored = Eight;
  __device__ __forceinline__ const void* address(u32 place) const { return data + place; }
  __device__ __forceinline__ Stored load(u32 place) const { return load8(data + place); }
  __device__ __forceinline__ Eight read(const Stored& x) const { return x; }
};

struct FourBitRows {
  const Part& p;
  const float* table;
  struct Stored {
    u32 word;
    float scale;
  };
  __device__ __forceinline__ const void* address(u32 place) const { return (const u8*)p.data + place / 2; }
  __device__ __forceinline__ Stored load(u32 place) const {
    const u32 block = place >> p.blockSize;
    return {*reinterpret_cast<const u32*>((const u8*)p.data + place / 2),
            fourBitScale(p.absmax, p.absmaxCodes, p.map, p.offset, block, block >> p.nestedBlockSize)};
  }
  __device__ __forceinline__ Eight read(const Stored& stored) const {
    Eight x = fourBitValues(stored.word, table, stored.scale);
    for (int i = 0; i < 8; i += 2) {  // rounded as weights.cu rounds them
      const u32 both = pack(x.of[i], x.of[i + 1]);
      x.of[i] = lowHalf(both);
      x.of[i + 1] = highHalf(both);
    }
    return x;
  }
};

/** float16 and int8: seldom, so in one. */
struct OtherRows {
  const Part& p;
  int cols;
  using Stored = Eight;
  __device__ __forceinline__ const void* address(u32 place) const {
    return (const u8*)p.data + (p.kind == kFloat16 ? 2 * place : place);
  }
  __device__ __forceinline__ Stored load(u32 place) const {
    Eight x;
    if (p.kind == kFloat16) {
      for (int i = 0; i < 8; i++) x.of[i] = widenHalf(((const u16*)p.data)[place + i]);
    } else {
      const float scale = p.scales[place / cols] * kOneOf127;
      for (int i = 0; i < 8; i++) x.of[i] = ((const signed char*)p.data)[place + i] * scale;
    }
    return x;
  }
  __device__ __forceinline__ Eight read(const Stored& x) const { return x; }
};

/** Calls `body` with the weights of a part, or with its A, as what {@link addProducts} reads. */
template <class Body>
__device__ __forceinline__ void withRows(const Part& p, bool isA, int cols, const float (*tables)[16], Body body) {
  if (isA) body(Float32Rows{p.a});
  else if (p.kind == kBFloat16) body(BFloat16Rows{(const u16*)p.data});
  else if (p.kind == kNF4 || p.kind == kFP4) body(FourBitRows{p, tables[p.kind == kFP4]});
  else if (p.kind == kFloat32) body(Float32Rows{(const float*)p.data});
  else body(OtherRows{p, cols});
}

/** Adds what columns `[begin, begin + count)` of the rows from `first` on give with x, which is in shared memory. */
template <int BATCH, class Rows>
__device__ __forceinline__ void addProducts(float (&result)[kRowsPerWarp][BATCH], const Rows& source, u32 first, int rows, int cols,
                                            int begin, int count, const float* x) {
  constexpr int AHEAD = 4;  // so many are on their way at once
  const int lane = threadIdx.x % 32;
  for (int from = 8 * lane; from < count; from += 256 * AHEAD) {
    typename Rows::Stored stored[AHEAD][kRowsPerWarp];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      const int at = min(from + 256 * i, count - 8);
#pragma unroll
      for (int r = 0; r < kRowsPerWarp; r++) stored[i][r] = source.load((first + min(r, rows - 1)) * cols + begin + at);
    }
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      const int at = from + 256 * i;
      if (at >= count) break;
      Eight w[kRowsPerWarp];
#pragma unroll
      for (int r = 0; r < kRowsPerWarp; r++) w[r] = source.read(stored[i][r]);
#pragma unroll
      for (int b = 0; b < BATCH; b++) {
        const Eight in = load8(x + b * chunkOf(BATCH) + at);
#pragma unroll
        for (int r = 0; r < kRowsPerWarp; r++) {
#pragma unroll
          for (int j = 0; j < 8; j++) result[r][b] += w[r].of[j] * in.of[j];
        }
      }
    }
  }
}

/**
 * Where a kernel may begin before the one before it has ended: what it does until {@link waitForInputs} is to read what no
 * kernel writes.
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
 * For `batch` rows of x, at most BATCH. Grid: enough warps, in blocks of 256 threads, for all rows, those of weights and then those
 * of A, kRowsPerWarp each.
 */
template <int BATCH>
__device__ __forceinline__ void multiplyRows(const Product& p) {
  constexpr int CHUNK = chunkOf(BATCH);
  extern __shared__ float shared[];  // [BATCH][CHUNK]
  __shared__ float tables[2][16], sums[32];
  letNextBegin();
  if (threadIdx.x < 32) tables[threadIdx.x / 16][threadIdx.x % 16] = (threadIdx.x < 16 ? kNF4Values : kFP4Values)[threadIdx.x % 16];
  // Which rows are this warp's.
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
  if (rows > 0 && !isA) {  // the weights are on their way while the input is not there yet
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
      addProducts<BATCH>(result, source, first, rows, p.cols, begin, count, shared);
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

__device__ __forceinline__ float resultAt(const Result& r, int row, int column) {
  constexpr int AT_ONCE = 8;
  const float *low = r.low + row * r.slots + r.slot, *b = r.b + (i64)column * r.rank;
  const float y = r.y[(i64)row * r.width + column];
  float sum = 0.f;
  for (int from = 0; from < r.rank; from += AT_ONCE) {
    float left[AT_ONCE], right[AT_ONCE];
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
      const bool isThere = from + i < r.rank;
      left[i] = isThere ? low[from + i] : 0.f;
      right[i] = isThere ? b[from + i] : 0.f;
    }
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) sum += left[i] * right[i];
  }
  return y + r.scaling * sum;
}

/** y = x + result, `[batch, width]`. A thread takes a number. */
extern "C" __global__ void addResult(const float* x, Result r, float* y, int width) {
  letNextBegin();
  waitForInputs();
  const int at = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (at < width) y[(i64)row * width + at] = x[(i64)row * width + at] + resultAt(r, row, at);
}

/** y = silu(gate) · up, `[batch, width]`. A thread takes a number. */
extern "C" __global__ void gateResults(Result gate, Result up, float* y, int width) {
  letNextBegin();
  waitForInputs();
  const int at = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (at >= width) return;
  const float g = resultAt(gate, row, at);
  y[(i64)row * width + at] = g / (1.f + exp2Of(-g * kLog2E)) * resultAt(up, row, at);
}

/** A turned or plain vector of a head, from its product. A thread takes a number. */
__device__ __forceinline__ float headAt(const Result& r, int row, int head, int at, int dim, const float* cos, const float* sin) {
  const int column = head * dim + at;
  const float own = resultAt(r, row, column);
  if (!cos) return own;
  const int half = dim / 2, other = at < half ? column + half : column - half;
  const float twin = resultAt(r, row, other), c = cos[at % half], s = sin[at % half];
  return at < half ? own * c - twin * s : own * c + twin * s;
}

/**
 * A span of positions for all heads of a group. Grid: spans, key-value heads, batch. The span that holds the new position
 * computes its key and value, and writes them to the caches.
 */
extern "C" __global__ void __launch_bounds__(kAttendThreads) attendOne(Decode d) {
  letNextBegin();
  extern __shared__ float memory[];  // queries [perGroup][dim], scores [perGroup][span], sums [warps][heads at once][dim]
  const int group = blockIdx.y, row = blockIdx.z, perGroup = d.heads / d.keyValueHeads, dim = d.dim;
  const int begin = blockIdx.x * d.span, end = min(begin + d.span, d.past + 1), spans = gridDim.x;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  constexpr int WARPS = kAttendThreads / 32;
  float *queries = memory, *scores = queries + perGroup * dim, *sums = scores + perGroup * d.span;
  const i64 cache = ((i64)row * d.keyValueHeads + group) * d.capacity * dim;
  const float *cos = d.cos + (d.perSequence ? row * (dim / 2) : 0), *sin = d.sin + (d.perSequence ? row * (dim / 2) : 0);
  const float* segments = d.segments ? d.segments + (i64)row * d.segmentStride : nullptr;
  waitForInputs();
  const int news = end == d.past + 1 ? 2 * dim : 0;  // of the new position's key and value
  for (int i = threadIdx.x; i < perGroup * dim + news; i += kAttendThreads) {
    const int at = i % dim, which = i / dim;
    if (which < perGroup) queries[i] = headAt(d.query, row, group * perGroup + which, at, dim, cos, sin) * d.scale;
    else if (which == perGroup) d.keys[cache + (i64)d.past * dim + at] = headAt(d.key, row, group, at, dim, cos, sin);
    else d.values[cache + (i64)d.past * dim + at] = headAt(d.value, row, group, at, dim, nullptr, nullptr);
  }
  __syncthreads();  // what this block wrote to memory is there for it too
  for (int firstHead = 0; firstHead < perGroup; firstHead += kHeadsAtOnce) {
    const int heads = min(kHeadsAtOnce, perGroup - firstHead);
    // Scores: eight threads a key.
    const int lane8 = threadIdx.x % 8;
    for (int at = begin + threadIdx.x / 8; at < begin + d.span; at += kAttendThreads / 8) {
      const bool seen = at < end && (!segments || (segments[at] == segments[d.past] && segments[at] != 0.f));
      float own[kHeadsAtOnce] = {};
      if (seen) {
#pragma unroll 4
        for (int i = 4 * lane8; i < dim; i += 32) {
          const float4 k = *reinterpret_cast<const float4*>(d.keys + cache + (i64)at * dim + i);
#pragma unroll
          for (int h = 0; h < kHeadsAtOnce; h++) {
            const float4 q = *reinterpret_cast<const float4*>(queries + (firstHead + min(h, heads - 1)) * dim + i);
            own[h] += k.x * q.x + k.y * q.y + k.z * q.z + k.w * q.w;
          }
        }
      }
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; h++) {
        for (int step = 4; step > 0; step >>= 1) own[h] += __shfl_xor_sync(0xffffffffu, own[h], step);
        if (lane8 == 0 && h < heads) scores[(firstHead + h) * d.span + at - begin] = seen ? own[h] : -1e30f;
      }
    }
    __syncthreads();
    // Softmax: a warp a head.
    for (int h = warp; h < heads; h += WARPS) {
      float* own = scores + (firstHead + h) * d.span;
      float most = -1e30f, total = 0.f;
      for (int i = lane; i < d.span; i += 32) most = fmaxf(most, own[i]);
      for (int step = 16; step > 0; step >>= 1) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
      for (int i = lane; i < d.span; i += 32) {
        own[i] = own[i] <= -1e30f ? 0.f : exp2Of((own[i] - most) * kLog2E);
        total += own[i];
      }
      for (int step = 16; step > 0; step >>= 1) total += __shfl_xor_sync(0xffffffffu, total, step);
      if (lane != 0) continue;
      float* to = d.parts + (((i64)row * d.heads + group * perGroup + firstHead + h) * spans + blockIdx.x) * (dim + 2);
      to[0] = most;
      to[1] = total;
    }
    __syncthreads();
    // Values: each warp takes some positions, and then each thread adds up some numbers of all warps.
    for (int i = 2 * lane; i < dim; i += 64) {
      float2 own[kHeadsAtOnce] = {};
#pragma unroll 8
      for (int at = begin + warp; at < end; at += WARPS) {
        const float2 v = *reinterpret_cast<const float2*>(d.values + cache + (i64)at * dim + i);
#pragma unroll
        for (int h = 0; h < kHeadsAtOnce; h++) {
          const float weight = scores[(firstHead + min(h, heads - 1)) * d.span + at - begin];
          own[h].x += weight * v.x;
          own[h].y += weight * v.y;
        }
      }
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; h++) {
        *reinterpret_cast<float2*>(sums + (warp * kHeadsAtOnce + h) * dim + i) = own[h];
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < heads * dim; i += kAttendThreads) {
      float sum = 0.f;
#pragma unroll
      for (int w = 0; w < WARPS; w++) sum += sums[w * kHeadsAtOnce * dim + i];
      const int h = firstHead + i / dim;
      d.parts[(((i64)row * d.heads + group * perGroup + h) * spans + blockIdx.x) * (dim + 2) + 2 + i % dim] = sum;
    }
    __syncthreads();
  }
}

/** Joins the spans: y `[batch, heads · dim]`. Grid: heads, batch; a thread a number of the head. */
extern "C" __global__ void joinSpans(const float* parts, int spans, float* y, int heads, int dim) {
  letNextBegin();
  waitForInputs();
  const int head = blockIdx.x, row = blockIdx.y, at = threadIdx.x;
  const float* own = parts + ((i64)row * heads + head) * spans * (dim + 2);
  float most = -1e30f;
  for (int i = 0; i < spans; i++) most = fmaxf(most, own[i * (dim + 2)]);
  float total = 0.f, sum = 0.f;
  for (int i = 0; i < spans; i++) {
    const float* part = own + i * (dim + 2);
    const float weight = exp2Of((part[0] - most) * kLog2E);
    total += weight * part[1];
    sum += weight * part[2 + at];
  }
  y[((i64)row * heads + head) * dim + at] = total > 0.f ? sum / total : 0.f;
}

/** A block of 1024 threads a row. */
extern "C" __global__ void greedyChoice(const float* logits, int width, float* choice) {
  __shared__ float highest[32];
  __shared__ int places[32], wrongs[32];
  const float* row = logits + (i64)blockIdx.x * width;
  float most = -__int_as_float(0x7f800000);
  int place = width, wrong = width;
  for (int at = threadIdx.x; at < width; at += blockDim.x) {
    const float x = row[at];
    if (!(x - x == 0.f)) wrong = min(wrong, at);  // ∞ − ∞ is NaN
    if (x > most) {
      most = x;
      place = at;
    }
  }
  const auto join = [&](float otherMost, int otherPlace, int otherWrong) {
    wrong = min(wrong, otherWrong);
    if (otherMost > most || (otherMost == most && otherPlace < place)) {
      most = otherMost;
      place = otherPlace;
    }
  };
  const auto joinWarp = [&] {
    for (int step = 16; step > 0; step >>= 1) {
      join(__shfl_xor_sync(0xffffffffu, most, step), __shfl_xor_sync(0xffffffffu, place, step),
           __shfl_xor_sync(0xffffffffu, wrong, step));
    }
  };
  joinWarp();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (lane == 0) {
    highest[warp] = most;
    places[warp] = place;
    wrongs[warp] = wrong;
  }
  __syncthreads();
  if (warp > 0) return;
  most = highest[lane];
  place = places[lane];
  wrong = wrongs[lane];
  joinWarp();
  if (lane == 0) choice[blockIdx.x] = wrong < width ? -1.f - wrong : (float)place;
}
