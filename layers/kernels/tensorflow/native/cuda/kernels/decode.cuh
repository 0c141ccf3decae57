#pragma once
#include "arguments.h"
#include "bfloat16.cuh"
#include "fourBit.cuh"

// Parts of the kernels that compute one token of each of a few sequences. Products of a few rows read each weight once,
// as it is stored, which takes most of the time. Everything but weights is float32. Low-rank paths take two steps: A is
// multiplied like more rows of the weights of its input; the reader of the product adds B's part.

// How eight numbers of a row are read as they are stored, and their values.

struct BFloat16Rows {
  const u16* data;
  using Stored = uint4;
  __device__ __forceinline__ const void* address(u32 place) const { return data + place; }
  __device__ __forceinline__ Stored load(u32 place) const { return __ldg(reinterpret_cast<const uint4*>(data + place)); }
  __device__ __forceinline__ Eight read(const Stored& words) const { return eightOf(words); }
};

struct Float16Rows {
  const u16* data;
  using Stored = uint4;
  __device__ __forceinline__ const void* address(u32 place) const { return data + place; }
  __device__ __forceinline__ Stored load(u32 place) const { return __ldg(reinterpret_cast<const uint4*>(data + place)); }
  __device__ __forceinline__ Eight read(const Stored& words) const {
    const u32 all[] = {words.x, words.y, words.z, words.w};
    Eight x;
#pragma unroll
    for (int i = 0; i < 8; i++) x.of[i] = widenHalf((u16)(all[i / 2] >> (16 * (i % 2))));
    return x;
  }
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
    return {__ldg(reinterpret_cast<const u32*>((const u8*)p.data + place / 2)),
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

struct Int8Rows {
  const Part& p;
  u32 cols;
  struct Stored {
    uint2 codes;
    float scale;
  };
  __device__ __forceinline__ const void* address(u32 place) const { return (const u8*)p.data + place; }
  __device__ __forceinline__ Stored load(u32 place) const {
    return {*reinterpret_cast<const uint2*>((const u8*)p.data + place), p.scales[place / cols]};
  }
  __device__ __forceinline__ Eight read(const Stored& stored) const {
    const float scale = stored.scale * kOneOf127;
    Eight x;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const u32 word = i < 4 ? stored.codes.x : stored.codes.y;
      x.of[i] = (signed char)(word >> (8 * (i % 4))) * scale;
    }
    return x;
  }
};

/** Calls `body` with a reader of a part's weights, or of its A, for {@link addProducts}. */
template <class Body>
__device__ __forceinline__ void withRows(const Part& p, bool isA, int cols, const float (*tables)[16], Body body) {
  if (isA) body(Float32Rows{p.a});
  else if (p.kind == kBFloat16) body(BFloat16Rows{(const u16*)p.data});
  else if (p.kind == kNF4 || p.kind == kFP4) body(FourBitRows{p, tables[p.kind == kFP4]});
  else if (p.kind == kFloat32) body(Float32Rows{(const float*)p.data});
  else if (p.kind == kFloat16) body(Float16Rows{(const u16*)p.data});
  else body(Int8Rows{p, (u32)cols});
}

/**
 * Adds the products of columns `[begin, begin + count)` of ROWS rows, from `first` on, with x; `x(b, at)` returns eight
 * numbers. AHEAD loads of each row are in flight.
 */
template <int ROWS, int AHEAD, int BATCH, class Rows, class Input>
__device__ __forceinline__ void addProducts(float (&result)[ROWS][BATCH], const Rows& source, u32 first, int rows, int cols,
                                            int begin, int count, const Input& x) {
  const int lane = threadIdx.x % 32;
  for (int from = 8 * lane; from < count; from += 256 * AHEAD) {
    typename Rows::Stored stored[AHEAD][ROWS];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      const int at = min(from + 256 * i, count - 8);
#pragma unroll
      for (int r = 0; r < ROWS; r++) stored[i][r] = source.load((first + min(r, rows - 1)) * cols + begin + at);
    }
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      const int at = from + 256 * i;
      if (at >= count) break;
      Eight w[ROWS];
#pragma unroll
      for (int r = 0; r < ROWS; r++) w[r] = source.read(stored[i][r]);
#pragma unroll
      for (int b = 0; b < BATCH; b++) {
        const Eight in = x(b, at);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
          for (int j = 0; j < 8; j++) result[r][b] += w[r].of[j] * in.of[j];
        }
      }
    }
  }
}

/** Returns what a product's low-rank path adds. */
__device__ __forceinline__ float lowRankAt(const Result& r, int row, int column) {
  constexpr int AT_ONCE = 8;
  const float *low = r.low + row * r.slots + r.slot, *b = r.b + (i64)column * r.rank;
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
  return r.scaling * sum;
}

__device__ __forceinline__ float resultAt(const Result& r, int row, int column) {
  return r.y[(i64)row * r.width + column] + lowRankAt(r, row, column);
}

/** silu(gate) · up */
__device__ __forceinline__ float gated(float gate, float up) { return gate / (1.f + exp2Of(-gate * kLog2E)) * up; }

/** Returns a number of a head's vector, rotated or plain, from its product. A thread takes a number. */
__device__ __forceinline__ float headAt(const Result& r, int row, int head, int at, int dim, const float* cos, const float* sin) {
  const int column = head * dim + at;
  const float own = resultAt(r, row, column);
  if (!cos) return own;
  const int half = dim / 2, other = at < half ? column + half : column - half;
  const float twin = resultAt(r, row, other), c = cos[at % half], s = sin[at % half];
  return at < half ? own * c - twin * s : own * c + twin * s;
}

/** A span of positions that are attended to, for all heads of a group of one sequence. */
struct Span {
  int past, begin, size, number, spans, group, row;
  const float *cos, *sin;
};

/**
 * Computes a span's results into `d.parts` with all threads of a block. The span with the new position computes its key
 * and value and writes them to the caches.
 *
 * @param memory {@link sharedToAttend} numbers
 */
template <int THREADS>
__device__ __forceinline__ void attend(const Decode& d, const Span& span, float* memory) {
  const int group = span.group, row = span.row, perGroup = d.heads / d.keyValueHeads, dim = d.dim;
  const int begin = span.begin, end = min(begin + span.size, span.past + 1);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  constexpr int WARPS = THREADS / 32;
  float *queries = memory, *scores = queries + perGroup * dim, *sums = scores + perGroup * span.size;
  const i64 cache = ((i64)row * d.keyValueHeads + group) * d.capacity * dim;
  const float* segments = d.segments ? d.segments + (i64)row * d.segmentStride : nullptr;
  const int news = end == span.past + 1 ? 2 * dim : 0;  // numbers of the new position's key and value
  for (int i = threadIdx.x; i < perGroup * dim + news; i += THREADS) {
    const int at = i % dim, which = i / dim;
    if (which < perGroup) queries[i] = headAt(d.query, row, group * perGroup + which, at, dim, span.cos, span.sin) * d.scale;
    else if (which == perGroup) d.keys[cache + (i64)span.past * dim + at] = headAt(d.key, row, group, at, dim, span.cos, span.sin);
    else d.values[cache + (i64)span.past * dim + at] = headAt(d.value, row, group, at, dim, nullptr, nullptr);
  }
  __syncthreads();  // makes this block's writes to memory visible to it
  for (int firstHead = 0; firstHead < perGroup; firstHead += kHeadsAtOnce) {
    const int heads = min(kHeadsAtOnce, perGroup - firstHead);
    // Scores: eight threads per key.
    const int lane8 = threadIdx.x % 8;
    for (int at = begin + threadIdx.x / 8; at < begin + span.size; at += THREADS / 8) {
      const bool seen = at < end && (!segments || (segments[at] == segments[span.past] && segments[at] != 0.f));
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
        if (lane8 == 0 && h < heads) scores[(firstHead + h) * span.size + at - begin] = seen ? own[h] : -1e30f;
      }
    }
    __syncthreads();
    // Softmax: a warp per head.
    for (int h = warp; h < heads; h += WARPS) {
      float* own = scores + (firstHead + h) * span.size;
      float most = -1e30f, total = 0.f;
      for (int i = lane; i < span.size; i += 32) most = fmaxf(most, own[i]);
      for (int step = 16; step > 0; step >>= 1) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
      for (int i = lane; i < span.size; i += 32) {
        own[i] = own[i] <= -1e30f ? 0.f : exp2Of((own[i] - most) * kLog2E);
        total += own[i];
      }
      for (int step = 16; step > 0; step >>= 1) total += __shfl_xor_sync(0xffffffffu, total, step);
      if (lane != 0) continue;
      float* to = d.parts + (((i64)row * d.heads + group * perGroup + firstHead + h) * span.spans + span.number) * (dim + 2);
      to[0] = most;
      to[1] = total;
    }
    __syncthreads();
    // Values: each warp takes some positions, then each thread adds up some numbers of all warps.
    for (int i = 2 * lane; i < dim; i += 64) {
      float2 own[kHeadsAtOnce] = {};
#pragma unroll 8
      for (int at = begin + warp; at < end; at += WARPS) {
        const float2 v = *reinterpret_cast<const float2*>(d.values + cache + (i64)at * dim + i);
#pragma unroll
        for (int h = 0; h < kHeadsAtOnce; h++) {
          const float weight = scores[(firstHead + min(h, heads - 1)) * span.size + at - begin];
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
    for (int i = threadIdx.x; i < heads * dim; i += THREADS) {
      float sum = 0.f;
#pragma unroll
      for (int w = 0; w < WARPS; w++) sum += sums[w * kHeadsAtOnce * dim + i];
      const int h = firstHead + i / dim;
      d.parts[(((i64)row * d.heads + group * perGroup + h) * span.spans + span.number) * (dim + 2) + 2 + i % dim] = sum;
    }
    __syncthreads();
  }
}

/** Returns number `at` of a head, from all its spans. */
__device__ __forceinline__ float joinedAt(const float* parts, int spans, int dim, int at) {
  float most = -1e30f;
  for (int i = 0; i < spans; i++) most = fmaxf(most, parts[i * (dim + 2)]);
  float total = 0.f, sum = 0.f;
  for (int i = 0; i < spans; i++) {
    const float* part = parts + i * (dim + 2);
    const float weight = exp2Of((part[0] - most) * kLog2E);
    total += weight * part[1];
    sum += weight * part[2 + at];
  }
  return total > 0.f ? sum / total : 0.f;
}

/**
 * The index of the largest of some logits, the first of equals, and that of the first that is not finite, or `NONE`.
 */
struct Choice {
  static constexpr int NONE = 0x7fffffff;
  float most;
  int place, wrong;

  static __device__ __forceinline__ Choice none() { return {-__int_as_float(0x7f800000), NONE, NONE}; }

  __device__ __forceinline__ void add(float logit, int at) {
    if (!(logit - logit == 0.f)) wrong = min(wrong, at);  // ∞ − ∞ is NaN
    if (logit > most || (logit == most && at < place)) {
      most = logit;
      place = at;
    }
  }
  __device__ __forceinline__ void join(const Choice& other) {
    wrong = min(wrong, other.wrong);
    if (other.most > most || (other.most == most && other.place < place)) {
      most = other.most;
      place = other.place;
    }
  }
  __device__ __forceinline__ void joinWarp() {
    for (int step = 16; step > 0; step >>= 1) {
      join({__shfl_xor_sync(0xffffffffu, most, step), __shfl_xor_sync(0xffffffffu, place, step),
            __shfl_xor_sync(0xffffffffu, wrong, step)});
    }
  }
  __device__ __forceinline__ float number() const { return wrong != NONE ? -1.f - wrong : (float)place; }
};
