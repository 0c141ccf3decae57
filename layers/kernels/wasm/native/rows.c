// Loops over rows for kernels that the stock backend lacks or runs slowly.

#include "quantized.h"

/** Widens `rows` rows of `cols` 16-bit values, `stride` values apart, to float32 rows without gaps. */
__attribute__((export_name("widen"))) void widen(const char *source, float *target, int32_t rows, int32_t cols,
                                                 int32_t stride, int32_t type) {
  for (int32_t i = 0; i < rows; i++, source += 2 * stride, target += cols) {
    int32_t j = 0;
    if (type == BFLOAT16) {
      for (; j + 4 <= cols; j += 4) wasm_v128_store(target + j, load4(source, j, BFLOAT16));
    } else {
      for (; j + 4 <= cols; j += 4) wasm_v128_store(target + j, load4(source, j, FLOAT16));
    }
    for (; j < cols; j++) target[j] = load1(source, j, type);
  }
}

/** Rows `begin` to `end` of a quantized matrix as float32. */
__attribute__((export_name("dequantize"))) void dequantize(const Quantized *q, float *target, int32_t begin, int32_t end) {
  for (int32_t row = begin; row < end; row++, target += q->cols) widenRun(q, row, 0, q->cols, target);
}

/** target[ids[i]] += source[i] for rows of `cols` floats; ids outside [0, targetRows) are skipped. */
__attribute__((export_name("addRows"))) void addRows(const float *source, const int32_t *ids, float *target,
                                                     int32_t rows, int32_t cols, int32_t targetRows) {
  for (int32_t i = 0; i < rows; i++, source += cols) {
    if (ids[i] < 0 || ids[i] >= targetRows) continue;
    float *row = target + ids[i] * cols;
    int32_t j = 0;
    for (; j + 4 <= cols; j += 4)
      wasm_v128_store(row + j, wasm_f32x4_add(wasm_v128_load(row + j), wasm_v128_load(source + j)));
    for (; j < cols; j++) row[j] += source[j];
  }
}

/**
 * target[o][i] = source[o][ids[i]] for `outer` blocks of `rows` rows of `words` 32-bit words.
 * Returns -1, or the position of the first id outside [0, rows), in which case nothing is copied.
 */
__attribute__((export_name("copyRows"))) int32_t copyRows(const uint32_t *source, const int32_t *ids, uint32_t *target,
                                                          int32_t outer, int32_t rows, int32_t words, int32_t count) {
  for (int32_t i = 0; i < count; i++) {
    if (ids[i] < 0 || ids[i] >= rows) return i;
  }
  for (int32_t o = 0; o < outer; o++, source += rows * words) {
    for (int32_t i = 0; i < count; i++, target += words) {
      if (words == 1) *target = source[ids[i]];
      else __builtin_memcpy(target, source + ids[i] * words, 4 * words);
    }
  }
  return -1;
}

/** target[o][i] = sum over r of source[o][r][i]. */
__attribute__((export_name("sumMiddle"))) void sumMiddle(const float *source, float *target, int32_t outer, int32_t rows,
                                                         int32_t inner) {
  for (int32_t o = 0; o < outer; o++, target += inner) {
    if (inner == 1) {
      v128_t s0 = wasm_f32x4_const_splat(0), s1 = s0, s2 = s0, s3 = s0;
      int32_t r = 0;
      for (; r + 16 <= rows; r += 16) {
        s0 = wasm_f32x4_add(s0, wasm_v128_load(source + r));
        s1 = wasm_f32x4_add(s1, wasm_v128_load(source + r + 4));
        s2 = wasm_f32x4_add(s2, wasm_v128_load(source + r + 8));
        s3 = wasm_f32x4_add(s3, wasm_v128_load(source + r + 12));
      }
      s0 = wasm_f32x4_add(wasm_f32x4_add(s0, s1), wasm_f32x4_add(s2, s3));
      float sum = (wasm_f32x4_extract_lane(s0, 0) + wasm_f32x4_extract_lane(s0, 1)) +
                  (wasm_f32x4_extract_lane(s0, 2) + wasm_f32x4_extract_lane(s0, 3));
      for (; r < rows; r++) sum += source[r];
      *target = sum;
      source += rows;
      continue;
    }
    for (int32_t i = 0; i < inner; i++) target[i] = 0;
    for (int32_t r = 0; r < rows; r++, source += inner) {
      int32_t i = 0;
      for (; i + 4 <= inner; i += 4)
        wasm_v128_store(target + i, wasm_f32x4_add(wasm_v128_load(target + i), wasm_v128_load(source + i)));
      for (; i < inner; i++) target[i] += source[i];
    }
  }
}

// e^x to about 1 unit in the last place: x = n ln 2 + r, e^r by its Taylor polynomial (Cody & Waite's reduction).
static inline v128_t exp4(v128_t x) {
  v128_t clamped = wasm_f32x4_max(wasm_f32x4_min(x, wasm_f32x4_splat(89.0f)), wasm_f32x4_splat(-104.0f));
  v128_t n = wasm_f32x4_nearest(wasm_f32x4_mul(clamped, wasm_f32x4_splat(1.44269504f)));
  v128_t r = wasm_f32x4_sub(clamped, wasm_f32x4_mul(n, wasm_f32x4_splat(0.693359375f)));
  r = wasm_f32x4_sub(r, wasm_f32x4_mul(n, wasm_f32x4_splat(-2.12194440e-4f)));
  v128_t p = wasm_f32x4_splat(1.0f / 5040);
  const float factors[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1, 1};
#pragma clang loop unroll(full)
  for (int i = 0; i < 7; i++) p = wasm_f32x4_add(wasm_f32x4_mul(p, r), wasm_f32x4_splat(factors[i]));
  // 2^n in two factors, so that neither leaves the range of floats.
  v128_t exponent = wasm_i32x4_trunc_sat_f32x4(n), half = wasm_i32x4_shr(exponent, 1);
  v128_t bias = wasm_i32x4_splat(127);
  v128_t low = wasm_i32x4_shl(wasm_i32x4_add(half, bias), 23);
  v128_t high = wasm_i32x4_shl(wasm_i32x4_add(wasm_i32x4_sub(exponent, half), bias), 23);
  v128_t result = wasm_f32x4_mul(wasm_f32x4_mul(p, low), high);
  return wasm_v128_bitselect(result, x, wasm_f32x4_eq(x, x));  // NaN stays NaN
}

/** target[i] = e^source[i] */
__attribute__((export_name("expAll"))) void expAll(const float *source, float *target, int32_t count) {
  int32_t i = 0;
  for (; i + 4 <= count; i += 4) wasm_v128_store(target + i, exp4(wasm_v128_load(source + i)));
  for (; i < count; i++) target[i] = wasm_f32x4_extract_lane(exp4(wasm_f32x4_splat(source[i])), 0);
}
