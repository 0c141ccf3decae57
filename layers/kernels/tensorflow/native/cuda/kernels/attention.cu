#include "attention.cuh"
#include "tiles.cuh"

// Causal attention with grouped queries, with only a tile of scores at a time: Dao 2023 (FlashAttention-2). Backward
// has two kernels, one for the gradients of keys and values and one for those of queries, so that no sum needs atomic
// operations and each run gives the same bits. It runs on every card; attentionHopper.cu is for compute capability 9.0.

/**
 * Grid: tiles of 64 · ROWS16 queries, heads, batch; 128 threads, of which a warp has 16 · ROWS16 queries.
 *
 * @param y `[batch · length, heads · DIM]`
 * @param logSums `[batch, heads, length]`
 */
template <int DIM, int ROWS16, int KEYS>
__device__ __forceinline__ void forward(const Attention& a, u16* y, i64 yStride, float* logSums) {
  constexpr int THREADS = 128, QUERIES = 64 * ROWS16, TILES = KEYS / 8, OUT = DIM / 8;
  extern __shared__ uint4 memory[];
  __shared__ float keySegments[2][KEYS];
  const u32 queryTile = sharedAddress(memory), keyTiles = queryTile + 2 * QUERIES * DIM,
            valueTiles = keyTiles + 2 * 2 * KEYS * DIM;
  const int first = QUERIES * (gridDim.x - 1 - blockIdx.x);  // the longest first
  const int head = blockIdx.y, batch = blockIdx.z, group = head / (a.heads / a.keyValueHeads);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const u16* keys = partOf<DIM>(a, batch, a.heads + group);
  const u16* values = partOf<DIM>(a, batch, a.heads + a.keyValueHeads + group);
  const float* segments = a.segments ? a.segments + (i64)batch * a.length : nullptr;
  const int blocks = (min(first + QUERIES, a.length) + KEYS - 1) / KEYS;

  const auto load = [&](int block) {
    loadTile<DIM, KEYS, THREADS>(keyTiles + block % 2 * 2 * KEYS * DIM, keys, a.stride, block * KEYS, a.length);
    loadTile<DIM, KEYS, THREADS>(valueTiles + block % 2 * 2 * KEYS * DIM, values, a.stride, block * KEYS, a.length);
    if (segments) {
      for (int i = threadIdx.x; i < KEYS; i += THREADS) {
        keySegments[block % 2][i] = block * KEYS + i < a.length ? segments[block * KEYS + i] : 0.f;
      }
    }
    commitCopies();
  };
  loadTile<DIM, QUERIES, THREADS>(queryTile, partOf<DIM>(a, batch, head), a.stride, first, a.length);
  load(0);

  const int ownRow = warp * 16 * ROWS16;  // in the tile
  float sums[ROWS16][OUT][4] = {};
  float most[ROWS16][2], total[ROWS16][2], querySegments[ROWS16][2];
  for (int m = 0; m < ROWS16; m++) {
    for (int half = 0; half < 2; half++) {
      most[m][half] = kHidden;
      total[m][half] = 0.f;
      const int query = first + ownRow + 16 * m + lane / 4 + 8 * half;
      querySegments[m][half] = segments && query < a.length ? segments[query] : 0.f;
    }
  }

  for (int block = 0; block < blocks; block++) {
    waitForCopies<0>();
    __syncthreads();  // the tiles are loaded, and the places of the next ones are no longer read
    if (block + 1 < blocks) load(block + 1);
    const u32 keyTile = keyTiles + block % 2 * 2 * KEYS * DIM, valueTile = valueTiles + block % 2 * 2 * KEYS * DIM;

    float scores[ROWS16][TILES][4] = {};
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
      Four left[ROWS16];
#pragma unroll
      for (int m = 0; m < ROWS16; m++) left[m] = leftOperand<DIM>(queryTile, ownRow + 16 * m, step);
#pragma unroll
      for (int n = 0; n < TILES; n += 2) {
        const Four right = rightOfTransposed<DIM>(keyTile, 8 * n, step);
#pragma unroll
        for (int m = 0; m < ROWS16; m++) {
          multiply(scores[m][n], left[m], right.of[0], right.of[1]);
          multiply(scores[m][n + 1], left[m], right.of[2], right.of[3]);
        }
      }
    }
    if (segments || (block + 1) * KEYS > first + ownRow) {  // otherwise every query sees every key
#pragma unroll
      for (int m = 0; m < ROWS16; m++) {
#pragma unroll
        for (int n = 0; n < TILES; n++) {
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const int column = 8 * n + 2 * (lane % 4) + i % 2;
            const int query = first + ownRow + 16 * m + lane / 4 + 8 * (i / 2);
            if (!isSeen(query, block * KEYS + column, a, &querySegments[m][i / 2], &keySegments[block % 2][column])) {
              scores[m][n][i] = kHidden;
            }
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < ROWS16; m++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float highest = most[m][half];
#pragma unroll
        for (int n = 0; n < TILES; n++) highest = fmaxf(highest, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
        const float shrink = exp2Of((most[m][half] - highest) * a.scale);
        most[m][half] = highest;
        const float shift = highest == kHidden ? 0.f : highest * a.scale;  // if no key is seen, all weights are zero
        float sum = 0.f;
#pragma unroll
        for (int n = 0; n < TILES; n++) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; i++) {
            scores[m][n][i] = exp2Of(scores[m][n][i] * a.scale - shift);
            sum += scores[m][n][i];
          }
        }
        total[m][half] = total[m][half] * shrink + sum;
#pragma unroll
        for (int n = 0; n < OUT; n++) {
          sums[m][n][2 * half] *= shrink;
          sums[m][n][2 * half + 1] *= shrink;
        }
      }
    }
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
      Four left[ROWS16];
#pragma unroll
      for (int m = 0; m < ROWS16; m++) left[m] = asLeft(scores[m][2 * step], scores[m][2 * step + 1]);
#pragma unroll
      for (int n = 0; n < OUT; n += 2) {
        const Four right = rightOperand<DIM>(valueTile, 16 * step, n);
#pragma unroll
        for (int m = 0; m < ROWS16; m++) {
          multiply(sums[m][n], left[m], right.of[0], right.of[1]);
          multiply(sums[m][n + 1], left[m], right.of[2], right.of[3]);
        }
      }
    }
  }

#pragma unroll
  for (int m = 0; m < ROWS16; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = total[m][half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const int query = first + ownRow + 16 * m + lane / 4 + 8 * half;
      if (query >= a.length) continue;
      const float inverse = sum > 0.f ? 1.f / sum : 0.f;
      u16* row = y + ((i64)batch * a.length + query) * yStride + head * DIM;
#pragma unroll
      for (int n = 0; n < OUT; n++) {
        *reinterpret_cast<u32*>(row + 8 * n + 2 * (lane % 4)) =
            pack(sums[m][n][2 * half] * inverse, sums[m][n][2 * half + 1] * inverse);
      }
      if (lane % 4 == 0) {
        // If a query sees nothing, its logarithm is so large that backward's weights are zero too.
        logSums[((i64)batch * a.heads + head) * a.length + query] =
            sum > 0.f ? most[m][half] * a.scale + log2f(sum) : -kHidden;
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(128) forward64(Attention a, u16* y, i64 yStride, float* logSums) {
  forward<64, 2, 64>(a, y, yStride, logSums);
}
extern "C" __global__ void __launch_bounds__(128) forward128(Attention a, u16* y, i64 yStride, float* logSums) {
  forward<128, 1, 64>(a, y, yStride, logSums);
}

/** along `[batch, heads, length]`: the sum of dy · y over a head's numbers. A warp takes a token's head. */
extern "C" __global__ void gradientAlong(const u16* dy, i64 dyStride, const u16* y, i64 yStride, float* along, int length,
                                         int heads, int dim, i64 rows) {
  const i64 item = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / 32;
  if (item >= rows * heads) return;
  const i64 row = item / heads;
  const int head = item % heads, lane = threadIdx.x % 32;
  float sum = 0.f;
  for (int at = 8 * lane; at < dim; at += 256) {
    const Eight g = load8(dy + row * dyStride + head * dim + at), o = load8(y + row * yStride + head * dim + at);
    for (int i = 0; i < 8; i++) sum += g.of[i] * o.of[i];
  }
  for (int step = 16; step > 0; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (lane == 0) along[(row / length * heads + head) * length + row % length] = sum;
}

/**
 * Gradients of keys and values. Grid: tiles of 16 · ROWS16 · WARPS keys, key-value heads, batch. The products are
 * transposed: rows are keys, so that weights and their gradients are left operands as they are computed.
 */
template <int DIM, int ROWS16, int WARPS, int QUERIES>
__device__ __forceinline__ void keyValueGrad(const Attention& a, const AttentionGrad& g) {
  constexpr int THREADS = 32 * WARPS, KEYS = 16 * ROWS16 * WARPS, TILES = QUERIES / 8, OUT = DIM / 8;
  extern __shared__ uint4 memory[];
  __shared__ float logSums[2][QUERIES], along[2][QUERIES], querySegments[2][QUERIES];
  const u32 keyTile = sharedAddress(memory), valueTile = keyTile + 2 * KEYS * DIM, queryTiles = valueTile + 2 * KEYS * DIM,
            gradientTiles = queryTiles + 2 * 2 * QUERIES * DIM;
  const int first = KEYS * blockIdx.x, group = blockIdx.y, batch = blockIdx.z, perGroup = a.heads / a.keyValueHeads;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, ownRow = warp * 16 * ROWS16;
  const float* segments = a.segments ? a.segments + (i64)batch * a.length : nullptr;
  const int firstBlock = first / QUERIES, perHead = (a.length + QUERIES - 1) / QUERIES - firstBlock;
  const int blocks = perGroup * perHead;

  int nextHead = group * perGroup, nextQuery = QUERIES * firstBlock;  // loaded next
  const auto load = [&](int slot) {
    const int head = nextHead, query = nextQuery;
    const u16* dy = g.dy + (i64)batch * a.length * g.dyStride + head * DIM;
    loadTile<DIM, QUERIES, THREADS>(queryTiles + slot * 2 * QUERIES * DIM, partOf<DIM>(a, batch, head), a.stride, query,
                                    a.length);
    loadTile<DIM, QUERIES, THREADS>(gradientTiles + slot * 2 * QUERIES * DIM, dy, g.dyStride, query, a.length);
    const i64 row = ((i64)batch * a.heads + head) * a.length + query;
    for (int n = threadIdx.x; n < QUERIES; n += THREADS) {
      const bool isThere = query + n < a.length;
      logSums[slot][n] = isThere ? g.logSums[row + n] : 0.f;
      along[slot][n] = isThere ? g.along[row + n] : 0.f;
      querySegments[slot][n] = isThere && segments ? segments[query + n] : 0.f;
    }
    commitCopies();
    nextQuery += QUERIES;
    if (nextQuery < a.length) return;
    nextHead++;
    nextQuery = QUERIES * firstBlock;
  };
  loadTile<DIM, KEYS, THREADS>(keyTile, partOf<DIM>(a, batch, a.heads + group), a.stride, first, a.length);
  loadTile<DIM, KEYS, THREADS>(valueTile, partOf<DIM>(a, batch, a.heads + a.keyValueHeads + group), a.stride, first, a.length);
  load(0);

  float keySegments[ROWS16][2];
  for (int m = 0; m < ROWS16; m++) {
    for (int half = 0; half < 2; half++) {
      const int key = first + ownRow + 16 * m + lane / 4 + 8 * half;
      keySegments[m][half] = segments && key < a.length ? segments[key] : 0.f;
    }
  }
  float dKeys[ROWS16][OUT][4] = {}, dValues[ROWS16][OUT][4] = {};

  for (int i = 0, query = QUERIES * firstBlock; i < blocks; i++) {
    waitForCopies<0>();
    __syncthreads();
    const int slot = i % 2;
    if (i + 1 < blocks) load(1 - slot);
    const u32 queryTile = queryTiles + slot * 2 * QUERIES * DIM, gradientTile = gradientTiles + slot * 2 * QUERIES * DIM;
    float scores[ROWS16][TILES][4] = {}, slopes[ROWS16][TILES][4] = {};
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
      Four key[ROWS16], value[ROWS16];
#pragma unroll
      for (int m = 0; m < ROWS16; m++) {
        key[m] = leftOperand<DIM>(keyTile, ownRow + 16 * m, step);
        value[m] = leftOperand<DIM>(valueTile, ownRow + 16 * m, step);
      }
#pragma unroll
      for (int n = 0; n < TILES; n += 2) {
        const Four right = rightOfTransposed<DIM>(queryTile, 8 * n, step);
        const Four slope = rightOfTransposed<DIM>(gradientTile, 8 * n, step);
#pragma unroll
        for (int m = 0; m < ROWS16; m++) {
          multiply(scores[m][n], key[m], right.of[0], right.of[1]);
          multiply(scores[m][n + 1], key[m], right.of[2], right.of[3]);
          multiply(slopes[m][n], value[m], slope.of[0], slope.of[1]);
          multiply(slopes[m][n + 1], value[m], slope.of[2], slope.of[3]);
        }
      }
    }
    if (segments || query < first + ownRow + 16 * ROWS16 - 1 || query + QUERIES > a.length) {
#pragma unroll
      for (int m = 0; m < ROWS16; m++) {
#pragma unroll
        for (int n = 0; n < TILES; n++) {
#pragma unroll
          for (int j = 0; j < 4; j++) {
            const int column = 8 * n + 2 * (lane % 4) + j % 2, key = first + ownRow + 16 * m + lane / 4 + 8 * (j / 2);
            const bool seen = isSeen(query + column, key, a, &querySegments[slot][column], &keySegments[m][j / 2]);
            if (!seen) scores[m][n][j] = kHidden;
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < ROWS16; m++) {
#pragma unroll
      for (int n = 0; n < TILES; n++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int column = 8 * n + 2 * (lane % 4) + j % 2;
          weigh(scores[m][n][j], slopes[m][n][j], a.scale, logSums[slot][column], along[slot][column]);
        }
      }
    }
#pragma unroll
    for (int step = 0; step < QUERIES / 16; step++) {
      Four weights[ROWS16], gradients[ROWS16];
#pragma unroll
      for (int m = 0; m < ROWS16; m++) {
        weights[m] = asLeft(scores[m][2 * step], scores[m][2 * step + 1]);
        gradients[m] = asLeft(slopes[m][2 * step], slopes[m][2 * step + 1]);
      }
#pragma unroll
      for (int n = 0; n < OUT; n += 2) {
        const Four dy = rightOperand<DIM>(gradientTile, 16 * step, n), queries = rightOperand<DIM>(queryTile, 16 * step, n);
#pragma unroll
        for (int m = 0; m < ROWS16; m++) {
          multiply(dValues[m][n], weights[m], dy.of[0], dy.of[1]);
          multiply(dValues[m][n + 1], weights[m], dy.of[2], dy.of[3]);
          multiply(dKeys[m][n], gradients[m], queries.of[0], queries.of[1]);
          multiply(dKeys[m][n + 1], gradients[m], queries.of[2], queries.of[3]);
        }
      }
    }
    query += QUERIES;
    if (query >= a.length) query = QUERIES * firstBlock;
  }
#pragma unroll
  for (int m = 0; m < ROWS16; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int key = first + ownRow + 16 * m + lane / 4 + 8 * half;
      if (key >= a.length) continue;
      u16* row = g.dQkv + ((i64)batch * a.length + key) * g.dStride + (a.heads + group) * DIM + 2 * (lane % 4);
#pragma unroll
      for (int n = 0; n < OUT; n++) {
        *reinterpret_cast<u32*>(row + 8 * n) = pack(dKeys[m][n][2 * half] * g.scale, dKeys[m][n][2 * half + 1] * g.scale);
        *reinterpret_cast<u32*>(row + 8 * n + a.keyValueHeads * DIM) = pack(dValues[m][n][2 * half], dValues[m][n][2 * half + 1]);
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(128) keyValueGrad64(Attention a, AttentionGrad g) {
  keyValueGrad<64, 2, 4, 32>(a, g);
}
extern "C" __global__ void __launch_bounds__(256) keyValueGrad128(Attention a, AttentionGrad g) {
  keyValueGrad<128, 1, 8, 32>(a, g);
}

/** Gradients of queries. Grid: tiles of 16 · ROWS16 · WARPS queries, heads, batch. */
template <int DIM, int ROWS16, int WARPS, int KEYS>
__device__ __forceinline__ void queryGrad(const Attention& a, const AttentionGrad& g) {
  constexpr int THREADS = 32 * WARPS, QUERIES = 16 * ROWS16 * WARPS, TILES = KEYS / 8, OUT = DIM / 8;
  extern __shared__ uint4 memory[];
  __shared__ float keySegments[2][KEYS];
  const u32 queryTile = sharedAddress(memory), gradientTile = queryTile + 2 * QUERIES * DIM,
            keyTiles = gradientTile + 2 * QUERIES * DIM, valueTiles = keyTiles + 2 * 2 * KEYS * DIM;
  const int first = QUERIES * (gridDim.x - 1 - blockIdx.x), head = blockIdx.y, batch = blockIdx.z;
  const int group = head / (a.heads / a.keyValueHeads);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, ownRow = warp * 16 * ROWS16;
  const float* segments = a.segments ? a.segments + (i64)batch * a.length : nullptr;
  const u16* keys = partOf<DIM>(a, batch, a.heads + group);
  const u16* values = partOf<DIM>(a, batch, a.heads + a.keyValueHeads + group);
  const int blocks = (min(first + QUERIES, a.length) + KEYS - 1) / KEYS;

  const auto load = [&](int block) {
    loadTile<DIM, KEYS, THREADS>(keyTiles + block % 2 * 2 * KEYS * DIM, keys, a.stride, block * KEYS, a.length);
    loadTile<DIM, KEYS, THREADS>(valueTiles + block % 2 * 2 * KEYS * DIM, values, a.stride, block * KEYS, a.length);
    if (segments) {
      for (int i = threadIdx.x; i < KEYS; i += THREADS) {
        keySegments[block % 2][i] = block * KEYS + i < a.length ? segments[block * KEYS + i] : 0.f;
      }
    }
    commitCopies();
  };
  loadTile<DIM, QUERIES, THREADS>(queryTile, partOf<DIM>(a, batch, head), a.stride, first, a.length);
  loadTile<DIM, QUERIES, THREADS>(gradientTile, g.dy + (i64)batch * a.length * g.dyStride + head * DIM, g.dyStride, first,
                                  a.length);
  load(0);

  float logSums[ROWS16][2], along[ROWS16][2], querySegments[ROWS16][2];
  for (int m = 0; m < ROWS16; m++) {
    for (int half = 0; half < 2; half++) {
      const int query = first + ownRow + 16 * m + lane / 4 + 8 * half;
      const bool isThere = query < a.length;
      const i64 row = ((i64)batch * a.heads + head) * a.length + query;
      logSums[m][half] = isThere ? g.logSums[row] : 0.f;
      along[m][half] = isThere ? g.along[row] : 0.f;
      querySegments[m][half] = isThere && segments ? segments[query] : 0.f;
    }
  }
  float dQueries[ROWS16][OUT][4] = {};

  for (int block = 0; block < blocks; block++) {
    waitForCopies<0>();
    __syncthreads();
    if (block + 1 < blocks) load(block + 1);
    const u32 keyTile = keyTiles + block % 2 * 2 * KEYS * DIM, valueTile = valueTiles + block % 2 * 2 * KEYS * DIM;
    float scores[ROWS16][TILES][4] = {}, slopes[ROWS16][TILES][4] = {};
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
      Four query[ROWS16], dy[ROWS16];
#pragma unroll
      for (int m = 0; m < ROWS16; m++) {
        query[m] = leftOperand<DIM>(queryTile, ownRow + 16 * m, step);
        dy[m] = leftOperand<DIM>(gradientTile, ownRow + 16 * m, step);
      }
#pragma unroll
      for (int n = 0; n < TILES; n += 2) {
        const Four right = rightOfTransposed<DIM>(keyTile, 8 * n, step);
        const Four value = rightOfTransposed<DIM>(valueTile, 8 * n, step);
#pragma unroll
        for (int m = 0; m < ROWS16; m++) {
          multiply(scores[m][n], query[m], right.of[0], right.of[1]);
          multiply(scores[m][n + 1], query[m], right.of[2], right.of[3]);
          multiply(slopes[m][n], dy[m], value.of[0], value.of[1]);
          multiply(slopes[m][n + 1], dy[m], value.of[2], value.of[3]);
        }
      }
    }
    if (segments || (block + 1) * KEYS > first + ownRow + 1) {
#pragma unroll
      for (int m = 0; m < ROWS16; m++) {
#pragma unroll
        for (int n = 0; n < TILES; n++) {
#pragma unroll
          for (int j = 0; j < 4; j++) {
            const int column = 8 * n + 2 * (lane % 4) + j % 2, query = first + ownRow + 16 * m + lane / 4 + 8 * (j / 2);
            const bool seen = isSeen(query, block * KEYS + column, a, &querySegments[m][j / 2], &keySegments[block % 2][column]);
            if (!seen) scores[m][n][j] = kHidden;
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < ROWS16; m++) {
#pragma unroll
      for (int n = 0; n < TILES; n++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
          weigh(scores[m][n][j], slopes[m][n][j], a.scale, logSums[m][j / 2], along[m][j / 2]);
        }
      }
    }
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
      Four gradients[ROWS16];
#pragma unroll
      for (int m = 0; m < ROWS16; m++) gradients[m] = asLeft(slopes[m][2 * step], slopes[m][2 * step + 1]);
#pragma unroll
      for (int n = 0; n < OUT; n += 2) {
        const Four right = rightOperand<DIM>(keyTile, 16 * step, n);
#pragma unroll
        for (int m = 0; m < ROWS16; m++) {
          multiply(dQueries[m][n], gradients[m], right.of[0], right.of[1]);
          multiply(dQueries[m][n + 1], gradients[m], right.of[2], right.of[3]);
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < ROWS16; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int query = first + ownRow + 16 * m + lane / 4 + 8 * half;
      if (query >= a.length) continue;
      u16* row = g.dQkv + ((i64)batch * a.length + query) * g.dStride + head * DIM + 2 * (lane % 4);
#pragma unroll
      for (int n = 0; n < OUT; n++) {
        *reinterpret_cast<u32*>(row + 8 * n) =
            pack(dQueries[m][n][2 * half] * g.scale, dQueries[m][n][2 * half + 1] * g.scale);
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(128) queryGrad64(Attention a, AttentionGrad g) { queryGrad<64, 2, 4, 32>(a, g); }
extern "C" __global__ void __launch_bounds__(256) queryGrad128(Attention a, AttentionGrad g) { queryGrad<128, 1, 8, 32>(a, g); }
