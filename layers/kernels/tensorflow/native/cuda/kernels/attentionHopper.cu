#include "attention.cuh"
#include "warpgroups.cuh"

// Attention as in attention.cu, by products of warpgroups, for compute capability 9.0. A warpgroup has 64 rows:
// queries, or keys for the gradients of keys and values, whose products are transposed so that weights and their
// gradients are left operands as they are computed.

/** Returns the first multiple of 1024 bytes of dynamic memory; a kernel gets 1024 bytes more than its tiles take. */
__device__ __forceinline__ u32 tilesBegin() {
  extern __shared__ uint4 memory[];
  return (sharedAddress(memory) + 1023) / 1024 * 1024;
}

/** Copies the segments of rows `[first, first + ROWS)`, with 0 for rows beyond. */
template <int ROWS, int THREADS>
__device__ __forceinline__ void loadSegments(float* to, const float* segments, int first, int total) {
  for (int i = threadIdx.x; i < ROWS; i += THREADS) to[i] = first + i < total ? segments[first + i] : 0.f;
}

/** Grid: tiles of 64 · GROUPS queries, heads, batch; 128 · GROUPS threads. See forward in attention.cu. */
template <int DIM, int KEYS, int GROUPS>
__device__ __forceinline__ void forward(const Attention& a, u16* y, i64 yStride, float* logSums) {
  constexpr int THREADS = 128 * GROUPS, QUERIES = 64 * GROUPS, TILES = KEYS / 8, OUT = DIM / 8, KEY_BYTES = 2 * KEYS * DIM;
  __shared__ float keySegments[2][KEYS];
  const u32 queryTile = tilesBegin(), keyTiles = queryTile + 2 * QUERIES * DIM, valueTiles = keyTiles + 2 * KEY_BYTES;
  const int first = QUERIES * (gridDim.x - 1 - blockIdx.x);  // the longest first
  const int head = blockIdx.y, batch = blockIdx.z, group = head / (a.heads / a.keyValueHeads);
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const u16* keys = partOf<DIM>(a, batch, a.heads + group);
  const u16* values = partOf<DIM>(a, batch, a.heads + a.keyValueHeads + group);
  const float* segments = a.segments ? a.segments + (i64)batch * a.length : nullptr;
  const int blocks = (min(first + QUERIES, a.length) + KEYS - 1) / KEYS;

  const auto load = [&](int block) {
    loadParts<DIM, KEYS, THREADS>(keyTiles + block % 2 * KEY_BYTES, keys, a.stride, block * KEYS, a.length);
    loadParts<DIM, KEYS, THREADS>(valueTiles + block % 2 * KEY_BYTES, values, a.stride, block * KEYS, a.length);
    if (segments) loadSegments<KEYS, THREADS>(keySegments[block % 2], segments, block * KEYS, a.length);
    commitCopies();
  };
  loadParts<DIM, QUERIES, THREADS>(queryTile, partOf<DIM>(a, batch, head), a.stride, first, a.length);
  load(0);

  const int ownQuery = first + 16 * warp + lane / 4;  // and 8 more
  float sums[OUT][4] = {}, most[2] = {kHidden, kHidden}, total[2] = {}, querySegments[2] = {};
  for (int half = 0; half < 2; half++) {
    if (segments && ownQuery + 8 * half < a.length) querySegments[half] = segments[ownQuery + 8 * half];
  }

  for (int block = 0; block < blocks; block++) {
    waitForCopies<0>();
    publish();
    __syncthreads();  // the tiles are loaded, and the places of the next ones are no longer read
    if (block + 1 < blocks) load(block + 1);
    const u32 keyTile = keyTiles + block % 2 * KEY_BYTES, valueTile = valueTiles + block % 2 * KEY_BYTES;
    float scores[TILES][4];
    beginProducts();
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
      multiplyRows(scores, alongRows<QUERIES>(queryTile, 64 * warpgroup, step), alongRows<KEYS>(keyTile, 0, step), step == 0);
    }
    commitProducts();
    waitForProducts<0>();
    settle(scores);
    if (segments || (block + 1) * KEYS > first + 64 * warpgroup + 1) {
#pragma unroll
      for (int n = 0; n < TILES; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int column = 8 * n + 2 * (lane % 4) + i % 2;
          const bool seen = isSeen(ownQuery + 8 * (i / 2), block * KEYS + column, a, &querySegments[i / 2],
                                   &keySegments[block % 2][column]);
          if (!seen) scores[n][i] = kHidden;
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float highest = most[half];
#pragma unroll
      for (int n = 0; n < TILES; n++) highest = fmaxf(highest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
      const float shrink = exp2Of((most[half] - highest) * a.scale);
      most[half] = highest;
      const float shift = highest == kHidden ? 0.f : highest * a.scale;  // if no key is seen, all weights are zero
      float sum = 0.f;
#pragma unroll
      for (int n = 0; n < TILES; n++) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          scores[n][i] = exp2Of(scores[n][i] * a.scale - shift);
          sum += scores[n][i];
        }
      }
      total[half] = total[half] * shrink + sum;
#pragma unroll
      for (int n = 0; n < OUT; n++) {
        sums[n][2 * half] *= shrink;
        sums[n][2 * half + 1] *= shrink;
      }
    }
    Four weights[KEYS / 16];
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) weights[step] = asLeft(scores[2 * step], scores[2 * step + 1]);
    beginProducts();
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) multiplyRegisters(sums, weights[step], acrossRows<KEYS>(valueTile, step));
    commitProducts();
    waitForProducts<0>();
    settle(sums);
  }

#pragma unroll
  for (int half = 0; half < 2; half++) {
    float sum = total[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const int query = ownQuery + 8 * half;
    if (query >= a.length) continue;
    const float inverse = sum > 0.f ? 1.f / sum : 0.f;
    u16* row = y + ((i64)batch * a.length + query) * yStride + head * DIM + 2 * (lane % 4);
#pragma unroll
    for (int n = 0; n < OUT; n++) {
      *reinterpret_cast<u32*>(row + 8 * n) = pack(sums[n][2 * half] * inverse, sums[n][2 * half + 1] * inverse);
    }
    if (lane % 4 == 0) {
      // If a query sees nothing, its logarithm is so large that backward's weights are zero too.
      logSums[((i64)batch * a.heads + head) * a.length + query] =
          sum > 0.f ? most[half] * a.scale + log2f(sum) : -kHidden;
    }
  }
}

/** Gradients of keys and values. Grid: tiles of 64 · GROUPS keys, key-value heads, batch; 128 · GROUPS threads. */
template <int DIM, int QUERIES, int GROUPS>
__device__ __forceinline__ void keyValueGrad(const Attention& a, const AttentionGrad& g) {
  constexpr int THREADS = 128 * GROUPS, KEYS = 64 * GROUPS, TILES = QUERIES / 8, OUT = DIM / 8, QUERY_BYTES = 2 * QUERIES * DIM;
  __shared__ float logSums[2][QUERIES], along[2][QUERIES], querySegments[2][QUERIES];
  const u32 keyTile = tilesBegin(), valueTile = keyTile + 2 * KEYS * DIM, queryTiles = valueTile + 2 * KEYS * DIM,
            gradientTiles = queryTiles + 2 * QUERY_BYTES;
  const int first = KEYS * blockIdx.x, group = blockIdx.y, batch = blockIdx.z, perGroup = a.heads / a.keyValueHeads;
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float* segments = a.segments ? a.segments + (i64)batch * a.length : nullptr;
  const int firstBlock = first / QUERIES, perHead = (a.length + QUERIES - 1) / QUERIES - firstBlock;
  const int blocks = perGroup * perHead;

  int nextHead = group * perGroup, nextQuery = QUERIES * firstBlock;  // loaded next
  const auto load = [&](int slot) {
    const int head = nextHead, query = nextQuery;
    const u16* dy = g.dy + (i64)batch * a.length * g.dyStride + head * DIM;
    loadParts<DIM, QUERIES, THREADS>(queryTiles + slot * QUERY_BYTES, partOf<DIM>(a, batch, head), a.stride, query, a.length);
    loadParts<DIM, QUERIES, THREADS>(gradientTiles + slot * QUERY_BYTES, dy, g.dyStride, query, a.length);
    const i64 row = ((i64)batch * a.heads + head) * a.length + query;
    for (int n = threadIdx.x; n < QUERIES; n += THREADS) {
      const bool isThere = query + n < a.length;
      logSums[slot][n] = isThere ? g.logSums[row + n] : 0.f;
      along[slot][n] = isThere ? g.along[row + n] : 0.f;
    }
    if (segments) loadSegments<QUERIES, THREADS>(querySegments[slot], segments, query, a.length);
    commitCopies();
    nextQuery += QUERIES;
    if (nextQuery < a.length) return;
    nextHead++;
    nextQuery = QUERIES * firstBlock;
  };
  loadParts<DIM, KEYS, THREADS>(keyTile, partOf<DIM>(a, batch, a.heads + group), a.stride, first, a.length);
  loadParts<DIM, KEYS, THREADS>(valueTile, partOf<DIM>(a, batch, a.heads + a.keyValueHeads + group), a.stride, first, a.length);
  load(0);

  const int ownKey = first + 16 * warp + lane / 4;  // and 8 more
  float keySegments[2] = {}, dKeys[OUT][4] = {}, dValues[OUT][4] = {};
  for (int half = 0; half < 2; half++) {
    if (segments && ownKey + 8 * half < a.length) keySegments[half] = segments[ownKey + 8 * half];
  }

  for (int i = 0, query = QUERIES * firstBlock; i < blocks; i++) {
    waitForCopies<0>();
    publish();
    __syncthreads();
    const int slot = i % 2;
    if (i + 1 < blocks) load(1 - slot);
    const u32 queryTile = queryTiles + slot * QUERY_BYTES, gradientTile = gradientTiles + slot * QUERY_BYTES;
    float scores[TILES][4], slopes[TILES][4];
    beginProducts();
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
      multiplyRows(scores, alongRows<KEYS>(keyTile, 64 * warpgroup, step), alongRows<QUERIES>(queryTile, 0, step), step == 0);
    }
    commitProducts();
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
      multiplyRows(slopes, alongRows<KEYS>(valueTile, 64 * warpgroup, step), alongRows<QUERIES>(gradientTile, 0, step), step == 0);
    }
    commitProducts();
    waitForProducts<1>();
    settle(scores);
    if (segments || query < first + 64 * warpgroup + 63 || query + QUERIES > a.length) {
#pragma unroll
      for (int n = 0; n < TILES; n++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int column = 8 * n + 2 * (lane % 4) + j % 2;
          const bool seen = isSeen(query + column, ownKey + 8 * (j / 2), a, &querySegments[slot][column], &keySegments[j / 2]);
          if (!seen) scores[n][j] = kHidden;
        }
      }
    }
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      const float2 logSum = *reinterpret_cast<const float2*>(&logSums[slot][8 * n + 2 * (lane % 4)]);
#pragma unroll
      for (int j = 0; j < 4; j++) scores[n][j] = exp2Of(scores[n][j] * a.scale - (j % 2 ? logSum.y : logSum.x));
    }
    Four weights[QUERIES / 16];
#pragma unroll
    for (int step = 0; step < QUERIES / 16; step++) weights[step] = asLeft(scores[2 * step], scores[2 * step + 1]);
    beginProducts();
#pragma unroll
    for (int step = 0; step < QUERIES / 16; step++) {
      multiplyRegisters(dValues, weights[step], acrossRows<QUERIES>(gradientTile, step));
    }
    commitProducts();
    waitForProducts<1>();
    settle(slopes);
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      const float2 less = *reinterpret_cast<const float2*>(&along[slot][8 * n + 2 * (lane % 4)]);
#pragma unroll
      for (int j = 0; j < 4; j++) slopes[n][j] = scores[n][j] * (slopes[n][j] - (j % 2 ? less.y : less.x));
    }
    Four gradients[QUERIES / 16];
#pragma unroll
    for (int step = 0; step < QUERIES / 16; step++) gradients[step] = asLeft(slopes[2 * step], slopes[2 * step + 1]);
    beginProducts();
#pragma unroll
    for (int step = 0; step < QUERIES / 16; step++) {
      multiplyRegisters(dKeys, gradients[step], acrossRows<QUERIES>(queryTile, step));
    }
    commitProducts();
    waitForProducts<0>();
    settle(dValues);
    settle(dKeys);
    query += QUERIES;
    if (query >= a.length) query = QUERIES * firstBlock;
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int key = ownKey + 8 * half;
    if (key >= a.length) continue;
    u16* row = g.dQkv + ((i64)batch * a.length + key) * g.dStride + (a.heads + group) * DIM + 2 * (lane % 4);
#pragma unroll
    for (int n = 0; n < OUT; n++) {
      *reinterpret_cast<u32*>(row + 8 * n) = pack(dKeys[n][2 * half] * g.scale, dKeys[n][2 * half + 1] * g.scale);
      *reinterpret_cast<u32*>(row + 8 * n + a.keyValueHeads * DIM) = pack(dValues[n][2 * half], dValues[n][2 * half + 1]);
    }
  }
}

/** Gradients of queries. Grid: tiles of 64 · GROUPS queries, heads, batch; 128 · GROUPS threads. */
template <int DIM, int KEYS, int GROUPS>
__device__ __forceinline__ void queryGrad(const Attention& a, const AttentionGrad& g) {
  constexpr int THREADS = 128 * GROUPS, QUERIES = 64 * GROUPS, TILES = KEYS / 8, OUT = DIM / 8, KEY_BYTES = 2 * KEYS * DIM;
  __shared__ float keySegments[2][KEYS];
  const u32 queryTile = tilesBegin(), gradientTile = queryTile + 2 * QUERIES * DIM, keyTiles = gradientTile + 2 * QUERIES * DIM,
            valueTiles = keyTiles + 2 * KEY_BYTES;
  const int first = QUERIES * (gridDim.x - 1 - blockIdx.x), head = blockIdx.y, batch = blockIdx.z;
  const int group = head / (a.heads / a.keyValueHeads);
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float* segments = a.segments ? a.segments + (i64)batch * a.length : nullptr;
  const u16* keys = partOf<DIM>(a, batch, a.heads + group);
  const u16* values = partOf<DIM>(a, batch, a.heads + a.keyValueHeads + group);
  const int blocks = (min(first + QUERIES, a.length) + KEYS - 1) / KEYS;

  const auto load = [&](int block) {
    loadParts<DIM, KEYS, THREADS>(keyTiles + block % 2 * KEY_BYTES, keys, a.stride, block * KEYS, a.length);
    loadParts<DIM, KEYS, THREADS>(valueTiles + block % 2 * KEY_BYTES, values, a.stride, block * KEYS, a.length);
    if (segments) loadSegments<KEYS, THREADS>(keySegments[block % 2], segments, block * KEYS, a.length);
    commitCopies();
  };
  loadParts<DIM, QUERIES, THREADS>(queryTile, partOf<DIM>(a, batch, head), a.stride, first, a.length);
  loadParts<DIM, QUERIES, THREADS>(gradientTile, g.dy + (i64)batch * a.length * g.dyStride + head * DIM, g.dyStride, first,
                                   a.length);
  load(0);

  const int ownQuery = first + 16 * warp + lane / 4;  // and 8 more
  float logSums[2] = {}, along[2] = {}, querySegments[2] = {}, dQueries[OUT][4] = {};
  for (int half = 0; half < 2; half++) {
    const int query = ownQuery + 8 * half;
    if (query >= a.length) continue;
    const i64 row = ((i64)batch * a.heads + head) * a.length + query;
    logSums[half] = g.logSums[row];
    along[half] = g.along[row];
    if (segments) querySegments[half] = segments[query];
  }

  for (int block = 0; block < blocks; block++) {
    waitForCopies<0>();
    publish();
    __syncthreads();
    if (block + 1 < blocks) load(block + 1);
    const u32 keyTile = keyTiles + block % 2 * KEY_BYTES, valueTile = valueTiles + block % 2 * KEY_BYTES;
    float scores[TILES][4], slopes[TILES][4];
    beginProducts();
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
      multiplyRows(scores, alongRows<QUERIES>(queryTile, 64 * warpgroup, step), alongRows<KEYS>(keyTile, 0, step), step == 0);
    }
    commitProducts();
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
      multiplyRows(slopes, alongRows<QUERIES>(gradientTile, 64 * warpgroup, step), alongRows<KEYS>(valueTile, 0, step), step == 0);
    }
    commitProducts();
    waitForProducts<1>();
    settle(scores);
    if (segments || (block + 1) * KEYS > first + 64 * warpgroup + 1) {
#pragma unroll
      for (int n = 0; n < TILES; n++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int column = 8 * n + 2 * (lane % 4) + j % 2;
          const bool seen = isSeen(ownQuery + 8 * (j / 2), block * KEYS + column, a, &querySegments[j / 2],
                                   &keySegments[block % 2][column]);
          if (!seen) scores[n][j] = kHidden;
        }
      }
    }
#pragma unroll
    for (int n = 0; n < TILES; n++) {
#pragma unroll
      for (int j = 0; j < 4; j++) scores[n][j] = exp2Of(scores[n][j] * a.scale - logSums[j / 2]);
    }
    waitForProducts<0>();
    settle(slopes);
#pragma unroll
    for (int n = 0; n < TILES; n++) {
#pragma unroll
      for (int j = 0; j < 4; j++) slopes[n][j] = scores[n][j] * (slopes[n][j] - along[j / 2]);
    }
    Four gradients[KEYS / 16];
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) gradients[step] = asLeft(slopes[2 * step], slopes[2 * step + 1]);
    beginProducts();
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) multiplyRegisters(dQueries, gradients[step], acrossRows<KEYS>(keyTile, step));
    commitProducts();
    waitForProducts<0>();
    settle(dQueries);
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int query = ownQuery + 8 * half;
    if (query >= a.length) continue;
    u16* row = g.dQkv + ((i64)batch * a.length + query) * g.dStride + head * DIM + 2 * (lane % 4);
#pragma unroll
    for (int n = 0; n < OUT; n++) {
      *reinterpret_cast<u32*>(row + 8 * n) = pack(dQueries[n][2 * half] * g.scale, dQueries[n][2 * half + 1] * g.scale);
    }
  }
}

// Tiles were chosen by their time on an H200; attention.cc repeats them.

extern "C" __global__ void __launch_bounds__(512) forward64(Attention a, u16* y, i64 yStride, float* logSums) {
  forward<64, 128, 4>(a, y, yStride, logSums);
}
extern "C" __global__ void __launch_bounds__(256) forward128(Attention a, u16* y, i64 yStride, float* logSums) {
  forward<128, 128, 2>(a, y, yStride, logSums);
}

extern "C" __global__ void __launch_bounds__(256) keyValueGrad64(Attention a, AttentionGrad g) { keyValueGrad<64, 64, 2>(a, g); }
extern "C" __global__ void __launch_bounds__(256) keyValueGrad128(Attention a, AttentionGrad g) { keyValueGrad<128, 64, 2>(a, g); }

extern "C" __global__ void __launch_bounds__(128, 4) queryGrad64(Attention a, AttentionGrad g) { queryGrad<64, 64, 1>(a, g); }
extern "C" __global__ void __launch_bounds__(128, 2) queryGrad128(Attention a, AttentionGrad g) { queryGrad<128, 64, 1>(a, g); }
