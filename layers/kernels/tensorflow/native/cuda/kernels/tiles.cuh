#pragma once
#include "bfloat16.cuh"

// Tiles of bfloat16 in shared memory, and their products in the tensor cores: m16n8k16, sums in float32.
//
// A tile has rows of DIM numbers, in chunks of eight (16 bytes). Chunk c of row r is in place c xor (r mod 8), so that
// eight rows of one column are in different banks.

/** Returns an address in shared memory. */
__device__ __forceinline__ u32 sharedAddress(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

template <int DIM>
__device__ __forceinline__ u32 chunkAddress(u32 tile, int row, int chunk) {
  return tile + row * (2 * DIM) + ((chunk ^ (row & 7)) << 4);
}

/** Begins to copy rows `[first, first + ROWS)` of a matrix of `total` rows to a tile, with zeros for rows beyond. */
template <int DIM, int ROWS, int THREADS>
__device__ __forceinline__ void loadTile(u32 tile, const u16* from, i64 stride, int first, int total) {
  // A thread has one column of chunks, and rows that are a multiple of 8 apart: their places differ by a constant.
  constexpr int CHUNKS = DIM / 8, STEP = THREADS / CHUNKS;
  const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
  const u32 place = chunkAddress<DIM>(tile, row, chunk);
  const u16* source = from + (first + row) * stride + 8 * chunk;
#pragma unroll
  for (int more = 0; more < ROWS; more += STEP) {
    if (ROWS % STEP != 0 && row + more >= ROWS) break;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place + more * 2 * DIM), "l"(source),
                 "r"(first + row + more < total ? 16 : 0));
    source += STEP * stride;
  }
}

__device__ __forceinline__ void commitCopies() { asm volatile("cp.async.commit_group;"); }
/** Waits until at most `N` of the groups of copies are in flight. */
template <int N>
__device__ __forceinline__ void waitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N));
}

struct Four {
  u32 of[4];
};

__device__ __forceinline__ Four loadMatrices(u32 address) {
  Four r;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r.of[0]), "=r"(r.of[1]), "=r"(r.of[2]), "=r"(r.of[3])
               : "r"(address));
  return r;
}

__device__ __forceinline__ Four loadTransposed(u32 address) {
  Four r;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r.of[0]), "=r"(r.of[1]), "=r"(r.of[2]), "=r"(r.of[3])
               : "r"(address));
  return r;
}

/** Loads a left operand: 16 rows from `row` on and columns `[16 step, 16 step + 16)` of a tile. */
template <int DIM>
__device__ __forceinline__ Four leftOperand(u32 tile, int row, int step) {
  const int lane = threadIdx.x % 32;
  return loadMatrices(chunkAddress<DIM>(tile, row + (lane & 15), 2 * step + (lane >> 4)));
}

/**
 * Loads right operands of a product with the transposed tile: rows `[row, row + 16)` are two groups of 8 columns; 16
 * numbers of each.
 */
template <int DIM>
__device__ __forceinline__ Four rightOfTransposed(u32 tile, int row, int step) {
  const int lane = threadIdx.x % 32;
  return loadMatrices(chunkAddress<DIM>(tile, row + (lane & 7) + ((lane >> 4) << 3), 2 * step + ((lane >> 3) & 1)));
}

/**
 * Loads right operands of a product with the tile: 16 rows from `row` on, and two groups of 8 columns from chunk
 * `chunk` on.
 */
template <int DIM>
__device__ __forceinline__ Four rightOperand(u32 tile, int row, int chunk) {
  const int lane = threadIdx.x % 32;
  return loadTransposed(chunkAddress<DIM>(tile, row + (lane & 15), chunk + (lane >> 4)));
}

/**
 * sums `[16, 8]` += left `[16, 16]` · right `[16, 8]`. A thread has rows lane / 4 and lane / 4 + 8, two columns from 2
 * (lane mod 4) on.
 */
__device__ __forceinline__ void multiply(float (&sums)[4], const Four& left, u32 right0, u32 right1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left.of[0]), "r"(left.of[1]), "r"(left.of[2]), "r"(left.of[3]), "r"(right0), "r"(right1));
}

/** Returns the sums of two neighbouring products, `[16, 16]`, as a left operand. */
__device__ __forceinline__ Four asLeft(const float (&first)[4], const float (&second)[4]) {
  return {{pack(first[0], first[1]), pack(first[2], first[3]), pack(second[0], second[1]), pack(second[2], second[3])}};
}
