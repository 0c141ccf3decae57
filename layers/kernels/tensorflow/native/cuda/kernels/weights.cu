#include "bfloat16.cuh"
#include "fourBit.cuh"

// Writes frozen weights and low-rank adapters as products read them: for the weights W_j `[rows_j, cols]` of one input,
// with adapters A_j and B_j, the matrix
//
//     W_0   s_0·B_0            W_j and s_j·B_j below each other, each B_j in columns of its own;
//     W_1           s_1·B_1    below all, the A_j
//     A_0
//     A_1
//
// whose rows begin `stride` apart. Columns of B begin at `cols`.

/** Converts 16-bit and float32 weights; a thread takes eight. */
template <class Read>
__device__ __forceinline__ void copyRows(u16* to, i64 stride, i64 rows, i64 cols, Read read) {
  const i64 at = 8 * ((i64)blockIdx.x * blockDim.x + threadIdx.x);
  if (at >= rows * cols) return;
  store8(to + at / cols * stride + at % cols, read(at));
}

extern "C" __global__ void fromBFloat16(const u16* from, u16* to, i64 stride, i64 rows, i64 cols) {
  const i64 at = 8 * ((i64)blockIdx.x * blockDim.x + threadIdx.x);
  if (at >= rows * cols) return;
  *reinterpret_cast<uint4*>(to + at / cols * stride + at % cols) = *reinterpret_cast<const uint4*>(from + at);
}

extern "C" __global__ void fromFloat32(const float* from, u16* to, i64 stride, i64 rows, i64 cols) {
  copyRows(to, stride, rows, cols, [&](i64 at) { return load8(from + at); });
}

extern "C" __global__ void fromFloat16(const u16* from, u16* to, i64 stride, i64 rows, i64 cols) {
  copyRows(to, stride, rows, cols, [&](i64 at) {
    Eight x;
    for (int i = 0; i < 8; i++) x.of[i] = widenHalf(from[at + i]);
    return x;
  });
}

extern "C" __global__ void fromInt8(const signed char* codes, const float* scales, u16* to, i64 stride, i64 rows, i64 cols) {
  copyRows(to, stride, rows, cols, [&](i64 at) {
    const float scale = scales[at / cols];
    const char4 *four = reinterpret_cast<const char4*>(codes + at), a = four[0], b = four[1];
    const signed char values[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    Eight x;
    for (int i = 0; i < 8; i++) x.of[i] = values[i] * scale * kOneOf127;
    return x;
  });
}

/**
 * A thread takes sixteen codes: 8 bytes, within one block of values that share a scale.
 *
 * @param absmaxCodes null if `absmax` holds the scales; otherwise see Matrix in engine.h
 */
extern "C" __global__ void fromFourBit(const u8* codes, const float* absmax, const u8* absmaxCodes, const float* map,
                                       float offset, int blockSize, int nestedBlockSize, int isFP4, u16* to, i64 stride,
                                       i64 rows, i64 cols) {
  __shared__ float table[16];
  if (threadIdx.x < 16) table[threadIdx.x] = isFP4 ? kFP4Values[threadIdx.x] : kNF4Values[threadIdx.x];
  __syncthreads();
  const i64 at = 16 * ((i64)blockIdx.x * blockDim.x + threadIdx.x);
  if (at >= rows * cols) return;
  const i64 block = at / blockSize;
  const float scale = fourBitScale(absmax, absmaxCodes, map, offset, block, absmaxCodes ? block / nestedBlockSize : 0);
  const uint2 words = *reinterpret_cast<const uint2*>(codes + at / 2);
  for (int half = 0; half < 2; half++) {
    const i64 place = at + 8 * half;
    store8(to + place / cols * stride + place % cols, fourBitValues(half ? words.y : words.x, table, scale));
  }
}

/**
 * Writes columns `[cols, cols + slots)` of the rows of one weight: `scaling · B` from column `slot` on, zeros
 * elsewhere. A thread per number. `to` is the first of those columns; b `[rows, rank]`, null for rank 0.
 */
extern "C" __global__ void putB(const float* b, float scaling, int rank, int slot, int slots, u16* to, i64 stride, i64 rows) {
  const i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  const i64 row = thread / slots;
  if (row >= rows) return;
  const int at = thread % slots, r = at - slot;
  to[row * stride + at] = r >= 0 && r < rank ? narrow(scaling * b[row * rank + r]) : (u16)0;
}

/**
 * Writes `count` rows of A, `[rank, cols]`, zeros from `rank` on; columns `[cols, cols + slots)` are zeros. A thread
 * per number.
 */
extern "C" __global__ void putA(const float* a, int rank, int count, i64 cols, int slots, u16* to, i64 stride) {
  const i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  const i64 row = thread / (cols + slots);
  if (row >= count) return;
  const i64 at = thread % (cols + slots);
  to[row * stride + at] = row < rank && at < cols ? narrow(a[row * cols + at]) : (u16)0;
}

/** Computes `to[row, r] = factor · from[row, slot + r]`, to `[rows, rank]`. A thread per number. */
extern "C" __global__ void takeB(const float* from, i64 stride, int slot, float factor, float* to, i64 rows, int rank) {
  const i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (thread >= rows * rank) return;
  to[thread] = factor * from[thread / rank * stride + slot + thread % rank];
}
