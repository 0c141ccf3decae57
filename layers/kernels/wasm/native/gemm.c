// Matrix products in the memory of the TensorFlow.js wasm backend: C = A · B for float32 A and C, and B in float32,
// bfloat16, float16 or quantized. Any operand may be transposed, which its strides express. Blocks of both operands are
// copied into small panels as they are needed (Goto & van de Geijn 2008). There transposing and widening cost nothing
// extra, and nothing outlives the call.
//
// Compiled without a C library, static data or a stack in memory: all scratch comes from the caller, so that the module
// can share another module's memory. See build.sh.

#include "quantized.h"

// V8 loads all operands of an iteration before it computes, so accumulators, operands and one product must fit its 15
// vector registers together: 4 × 8 does, 6 × 8 spills and is a third slower.
#define MR 4    // rows of C in registers
#define NR 8    // columns of C in registers
#define KC 256  // depth of a panel: KC·NR floats of B stay in the first-level cache
#define MC 128  // rows of A packed at once: MC·KC floats stay in the second-level cache
#define NC 512  // columns of B packed at once
#define FEW 3    // up to this many rows, contiguous columns of B are read in place
#define NARROW 24  // up to this many columns, A is read in place: packing it would cost as much as the product

// Written by gemm.ts. Strides in elements.
typedef struct {
  const float *a;
  const char *b;
  float *c;
  int32_t m, n, k;
  int32_t aRow, aCol;
  int32_t bRow, bCol;
  int32_t bType;
  int32_t aBatch, bBatch, cBatch;  // from one product of the batch to the next
  int32_t tileRows, tileCols;      // C is computed tile by tile
  int32_t rowTiles, colTiles;      // tiles along each side
  int32_t remaining;               // tiles of the whole batch that no thread has taken yet
  int32_t done;                    // tiles that are complete
  const Quantized *quantized;      // B if it is quantized; `b` is unused then. Its rows are B's columns if bRow is 1
} Job;

#ifdef __wasm_relaxed_simd__
#define MULTIPLY_ADD(x, y, sum) __builtin_wasm_relaxed_madd_f32x4(x, y, sum)
#else
#define MULTIPLY_ADD(x, y, sum) wasm_f32x4_add(sum, wasm_f32x4_mul(x, y))
#endif

// dst[k][NR] = b[k0 + k, j0 … j0 + NR), zero past `cols`
static inline __attribute__((always_inline)) void packPanel(float *dst, const char *b, int32_t row, int32_t col,
                                                            int32_t depth, int32_t cols, int32_t type) {
  if (col == 1 && cols == NR) {  // rows of B are contiguous
    for (int32_t k = 0, at = 0; k < depth; k++, at += row, dst += NR) {
      wasm_v128_store(dst, load4(b, at, type));
      wasm_v128_store(dst + 4, load4(b, at + 4, type));
    }
    return;
  }
  int32_t k = 0;
  if (row == 1 && cols == NR) {  // columns of B are contiguous: transpose 4 × 4 blocks
    for (; k + 4 <= depth; k += 4, dst += 4 * NR) {
      for (int32_t j = 0; j < NR; j += 4) {
        v128_t r0 = load4(b, k + j * col, type), r1 = load4(b, k + (j + 1) * col, type);
        v128_t r2 = load4(b, k + (j + 2) * col, type), r3 = load4(b, k + (j + 3) * col, type);
        v128_t lo01 = wasm_i32x4_shuffle(r0, r1, 0, 4, 1, 5), hi01 = wasm_i32x4_shuffle(r0, r1, 2, 6, 3, 7);
        v128_t lo23 = wasm_i32x4_shuffle(r2, r3, 0, 4, 1, 5), hi23 = wasm_i32x4_shuffle(r2, r3, 2, 6, 3, 7);
        wasm_v128_store(dst + j, wasm_i64x2_shuffle(lo01, lo23, 0, 2));
        wasm_v128_store(dst + NR + j, wasm_i64x2_shuffle(lo01, lo23, 1, 3));
        wasm_v128_store(dst + 2 * NR + j, wasm_i64x2_shuffle(hi01, hi23, 0, 2));
        wasm_v128_store(dst + 3 * NR + j, wasm_i64x2_shuffle(hi01, hi23, 1, 3));
      }
    }
  }
  for (; k < depth; k++, dst += NR) {
    for (int32_t j = 0; j < NR; j++) dst[j] = j < cols ? load1(b, k * row + j * col, type) : 0;
  }
}

static __attribute__((noinline)) void packB(float *dst, const char *b, int32_t row, int32_t col, int32_t depth, int32_t cols, int32_t type) {
  int32_t size = type == FLOAT32 ? 4 : 2;
  for (int32_t j = 0; j < cols; j += NR, dst += NR * depth, b += NR * col * size) {
    int32_t width = cols - j < NR ? cols - j : NR;
    if (type == FLOAT32) packPanel(dst, b, row, col, depth, width, FLOAT32);
    else if (type == BFLOAT16) packPanel(dst, b, row, col, depth, width, BFLOAT16);
    else packPanel(dst, b, row, col, depth, width, FLOAT16);
  }
}

static __attribute__((noinline)) void packQuantized(float *dst, const Job *job, int32_t k0, int32_t j0, int32_t depth,
                                                    int32_t cols, float *lines) {
  if (job->bRow == 1) {
    for (int32_t j = 0; j < cols; j += NR, dst += NR * depth) {
      int32_t width = cols - j < NR ? cols - j : NR;
      for (int32_t i = 0; i < width; i++) widenRun(job->quantized, j0 + j + i, k0, depth, lines + i * KC);
      packPanel(dst, (const char *)lines, 1, KC, depth, width, FLOAT32);
    }
    return;
  }
  for (int32_t k = 0; k < depth; k++) {
    widenRun(job->quantized, k0 + k, j0, cols, lines);
    for (int32_t j = cols; j % NR; j++) lines[j] = 0;
    for (int32_t j = 0; j < cols; j += NR) {
      float *to = dst + j * depth + k * NR;
      wasm_v128_store(to, wasm_v128_load(lines + j));
      wasm_v128_store(to + 4, wasm_v128_load(lines + j + 4));
    }
  }
}

// dst[k][MR] = a[i0 … i0 + MR), k]; rows past the end repeat the last; their products are never stored
static __attribute__((noinline)) void packA(float *dst, const float *a, int32_t row, int32_t col, int32_t depth, int32_t rows) {
  for (int32_t i = 0; i < rows; i += MR, a += MR * row) {
    if (row == 1 && rows - i >= MR) {
      const float *at = a;
      for (int32_t k = 0; k < depth; k++, dst += MR, at += col) {
        wasm_v128_store(dst, wasm_v128_load(at));
      }
      continue;
    }
    int32_t last = rows - i - 1;
    const float *r0 = a, *r1 = a + (last < 1 ? last : 1) * row, *r2 = a + (last < 2 ? last : 2) * row;
    const float *r3 = a + (last < 3 ? last : 3) * row;
    for (int32_t k = 0, at = 0; k < depth; k++, dst += MR, at += col) {
      dst[0] = r0[at];
      dst[1] = r1[at];
      dst[2] = r2[at];
      dst[3] = r3[at];
    }
  }
}

#define STEP(r, pointer)                                        \
  {                                                             \
    v128_t x = wasm_v128_load32_splat(pointer);                 \
    c##r##0 = MULTIPLY_ADD(x, b0, c##r##0);   \
    c##r##1 = MULTIPLY_ADD(x, b1, c##r##1);   \
  }
#define STORE(r)                                                                        \
  if (add) {                                                                            \
    c##r##0 = wasm_f32x4_add(c##r##0, wasm_v128_load(c + r * stride));                  \
    c##r##1 = wasm_f32x4_add(c##r##1, wasm_v128_load(c + r * stride + 4));              \
  }                                                                                     \
  wasm_v128_store(c + r * stride, c##r##0);                                             \
  wasm_v128_store(c + r * stride + 4, c##r##1);

// c[MR][NR] (+)= a · b over `depth`, a is read through one pointer per row
static inline __attribute__((always_inline)) void micro(const float *a0, const float *a1, const float *a2,
                                                        const float *a3, int32_t step,
                                                        const float *b, int32_t depth, float *c, int32_t stride,
                                                        int32_t add) {
  v128_t zero = wasm_f32x4_const_splat(0);
  v128_t c00 = zero, c01 = zero, c10 = zero, c11 = zero, c20 = zero, c21 = zero;
  v128_t c30 = zero, c31 = zero;
  for (int32_t k = 0; k < depth; k++) {
    v128_t b0 = wasm_v128_load(b), b1 = wasm_v128_load(b + 4);
    STEP(0, a0) STEP(1, a1) STEP(2, a2) STEP(3, a3)
    a0 += step, a1 += step, a2 += step, a3 += step;
    b += NR;
  }
  STORE(0) STORE(1) STORE(2) STORE(3)
}

static __attribute__((noinline)) void microPacked(const float *a, const float *b, int32_t depth, float *c, int32_t stride, int32_t add) {
  micro(a, a + 1, a + 2, a + 3, MR, b, depth, c, stride, add);
}

static __attribute__((noinline)) void microInPlace(const float *a, int32_t row, int32_t last, int32_t col, const float *b, int32_t depth,
                         float *c, int32_t stride, int32_t add) {
  micro(a, a + (last < 1 ? last : 1) * row, a + (last < 2 ? last : 2) * row, a + (last < 3 ? last : 3) * row, col, b, depth, c, stride, add);
}

static void copyCorner(float *c, int32_t stride, const float *corner, int32_t rows, int32_t cols, int32_t add) {
  for (int32_t i = 0; i < rows; i++, c += stride, corner += NR) {
    for (int32_t j = 0; j < cols; j++) c[j] = add ? c[j] + corner[j] : corner[j];
  }
}

// c[i][j] = a[i] · b[j] for a few rows of A, each row of A and column of B contiguous
static inline __attribute__((always_inline)) void dots(const float *a, const char *b, float *c, int32_t rows,
                                                       int32_t cols, int32_t depth, int32_t aRow, int32_t bCol,
                                                       int32_t stride, int32_t type) {
  int32_t size = type == FLOAT32 ? 4 : 2;
  for (int32_t j = 0; j < cols; j++, b += bCol * size) {
    for (int32_t i = 0; i < rows; i++) {
      const float *left = a + i * aRow;
      v128_t s0 = wasm_f32x4_const_splat(0), s1 = s0, s2 = s0, s3 = s0;
      int32_t k = 0;
      for (; k + 16 <= depth; k += 16) {
        s0 = MULTIPLY_ADD(wasm_v128_load(left + k), load4(b, k, type), s0);
        s1 = MULTIPLY_ADD(wasm_v128_load(left + k + 4), load4(b, k + 4, type), s1);
        s2 = MULTIPLY_ADD(wasm_v128_load(left + k + 8), load4(b, k + 8, type), s2);
        s3 = MULTIPLY_ADD(wasm_v128_load(left + k + 12), load4(b, k + 12, type), s3);
      }
      v128_t s = wasm_f32x4_add(wasm_f32x4_add(s0, s1), wasm_f32x4_add(s2, s3));
      float sum = wasm_f32x4_extract_lane(s, 0) + wasm_f32x4_extract_lane(s, 1) + wasm_f32x4_extract_lane(s, 2) +
                  wasm_f32x4_extract_lane(s, 3);
      for (; k < depth; k++) sum += left[k] * load1(b, k, type);
      c[i * stride + j] = sum;
    }
  }
}

static __attribute__((noinline)) void fewRowsQuantized(const Job *job, const float *a, int32_t j0, float *c,
                                                       int32_t rows, int32_t cols, float *line) {
  for (int32_t j = 0; j < cols; j++) {
    for (int32_t i = 0; i < rows; i++) c[i * job->n + j] = 0;
    for (int32_t k0 = 0; k0 < job->k; k0 += KC) {
      int32_t depth = job->k - k0 < KC ? job->k - k0 : KC;
      widenRun(job->quantized, j0 + j, k0, depth, line);
      for (int32_t i = 0; i < rows; i++) {
        float *sum = line + KC;
        dots(a + i * job->aRow + k0, (const char *)line, sum, 1, 1, depth, 0, 0, 0, FLOAT32);
        c[i * job->n + j] += *sum;
      }
    }
  }
}

static __attribute__((noinline)) void fewRows(const Job *job, const float *a, const char *b, float *c, int32_t rows,
                                              int32_t cols) {
  if (job->bType == FLOAT32) dots(a, b, c, rows, cols, job->k, job->aRow, job->bCol, job->n, FLOAT32);
  else if (job->bType == BFLOAT16) dots(a, b, c, rows, cols, job->k, job->aRow, job->bCol, job->n, BFLOAT16);
  else dots(a, b, c, rows, cols, job->k, job->aRow, job->bCol, job->n, FLOAT16);
}

static void tile(const Job *job, int32_t index, float *scratch) {
  int32_t perProduct = job->rowTiles * job->colTiles;
  int32_t batch = index / perProduct, rest = index % perProduct;
  int32_t i0 = (rest / job->colTiles) * job->tileRows, j0 = (rest % job->colTiles) * job->tileCols;
  int32_t rows = job->m - i0 < job->tileRows ? job->m - i0 : job->tileRows;
  int32_t cols = job->n - j0 < job->tileCols ? job->n - j0 : job->tileCols;
  int32_t size = job->quantized ? 0 : job->bType == FLOAT32 ? 4 : 2, stride = job->n;
  const float *a = job->a + batch * job->aBatch + i0 * job->aRow;
  const char *b = job->b + (batch * job->bBatch + j0 * job->bCol) * size;
  float *c = job->c + batch * job->cBatch + i0 * stride + j0;
  float *packedB = scratch, *packedA = packedB + KC * NC, *corner = packedA + KC * MC;
  if (job->m <= FEW && job->aCol == 1 && job->bRow == 1) {
    if (job->quantized) fewRowsQuantized(job, a, j0, c, rows, cols, packedA);
    else fewRows(job, a, b, c, rows, cols);
    return;
  }
  int32_t inPlace = cols <= NARROW;
  if (job->k == 0) {
    for (int32_t i = 0; i < rows; i++)
      for (int32_t j = 0; j < cols; j++) c[i * stride + j] = 0;
  }
  for (int32_t k0 = 0; k0 < job->k; k0 += KC) {
    int32_t depth = job->k - k0 < KC ? job->k - k0 : KC, add = k0 > 0;
    if (job->quantized) packQuantized(packedB, job, k0, j0, depth, cols, packedA); // A is packed only afterwards
    else packB(packedB, b + k0 * job->bRow * size, job->bRow, job->bCol, depth, cols, job->bType);
    for (int32_t ic = 0; ic < rows; ic += MC) {
      int32_t height = rows - ic < MC ? rows - ic : MC;
      const float *block = a + ic * job->aRow + k0 * job->aCol;
      if (!inPlace) packA(packedA, block, job->aRow, job->aCol, depth, height);
      for (int32_t j = 0; j < cols; j += NR) {
        int32_t width = cols - j < NR ? cols - j : NR;
        for (int32_t i = 0; i < height; i += MR) {
          int32_t tall = height - i < MR ? height - i : MR;
          float *at = c + (ic + i) * stride + j;
          int32_t whole = tall == MR && width == NR;
          float *target = whole ? at : corner;
          int32_t targetStride = whole ? stride : NR, targetAdd = whole ? add : 0;
          if (inPlace) {
            microInPlace(block + i * job->aRow, job->aRow, tall - 1, job->aCol, packedB + j * depth, depth, target,
                         targetStride, targetAdd);
          } else {
            microPacked(packedA + i * depth, packedB + j * depth, depth, target, targetStride, targetAdd);
          }
          if (!whole) copyCorner(at, stride, corner, tall, width, add);
        }
      }
    }
  }
}

/** Floats of scratch that each thread needs. */
__attribute__((export_name("scratchFloats"))) int32_t scratchFloats(void) { return KC * NC + KC * MC + MR * NR; }

/** Computes tiles that no thread has taken until none is left; returns how many. Any number of threads may do so. */
__attribute__((export_name("work"))) int32_t work(Job *job, float *scratch) {
  int32_t count = 0;
  for (;; count++) {
    int32_t left = __atomic_fetch_sub(&job->remaining, 1, __ATOMIC_SEQ_CST);
    if (left <= 0) return count;
    tile(job, left - 1, scratch);
    __atomic_fetch_add(&job->done, 1, __ATOMIC_SEQ_CST);
  }
}
