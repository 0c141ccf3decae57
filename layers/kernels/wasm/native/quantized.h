// Reads part of a row of a quantized matrix as float32, bit-exact with bitsandbytes.
#ifndef QUANTIZED_H
#define QUANTIZED_H

#include "element.h"

// Written by quantizedMatrix.ts; pointers that a format does not have are 0.
typedef struct {
  const uint8_t *codes;
  const float *absmax;          // a scale per block, or per row (int8); 0 if scales are double-quantized
  const uint8_t *absmaxCodes;   // indices into map, one per block
  const float *nestedAbsmax;
  const float *map;
  const uint8_t *book;          // the 16 numbers of a 4-bit code: all first bytes, then all second, …
  const int32_t *outlierIndex;  // int8: a column's place among the outliers, or −1
  const uint16_t *outlierValues;
  float offset;
  int32_t blockSize;
  int32_t nestedBlockSize;
  int32_t cols;
  int32_t outlierStride;
  int32_t outlierType;
  int32_t isInt8;
  int32_t valueType;            // type that 4-bit values are rounded to
} Quantized;

static inline float blockScale(const Quantized *q, uint32_t block) {
  if (q->absmax) return q->absmax[block];
  return q->map[q->absmaxCodes[block]] * q->nestedAbsmax[block / (uint32_t)q->nestedBlockSize] + q->offset;
}

static inline float bookValue(const uint8_t *book, int32_t code) {
  uint32_t bits = book[code] | book[16 + code] << 8 | book[32 + code] << 16 | (uint32_t)book[48 + code] << 24;
  return wasm_f32x4_extract_lane(wasm_u32x4_splat(bits), 0);
}

// Rounds to the nearest numbers of a type, ties to even.
static inline __attribute__((always_inline)) v128_t round4(v128_t x, int32_t type) {
  if (type == FLOAT32) return x;
  v128_t one = wasm_i32x4_splat(1);
  if (type == BFLOAT16) {
    v128_t odd = wasm_v128_and(wasm_u32x4_shr(x, 16), one);
    return wasm_v128_and(wasm_i32x4_add(x, wasm_i32x4_add(odd, wasm_i32x4_splat(0x7fff))), wasm_i32x4_splat((int32_t)0xffff0000));
  }
  v128_t magnitude = wasm_v128_and(x, wasm_i32x4_splat(0x7fffffff)), odd = wasm_v128_and(wasm_u32x4_shr(magnitude, 13), one);
  v128_t near = wasm_v128_and(wasm_i32x4_add(magnitude, wasm_i32x4_add(odd, wasm_i32x4_splat(0xfff))), wasm_i32x4_splat((int32_t)0xffffe000));
  v128_t infinity = wasm_i32x4_splat(0x7f800000);
  near = wasm_v128_bitselect(infinity, near, wasm_i32x4_ge(near, wasm_i32x4_splat(0x47800000)));
  // Numbers below 2^-14 have steps of 2^-24.
  v128_t small = wasm_f32x4_mul(wasm_f32x4_nearest(wasm_f32x4_mul(magnitude, wasm_f32x4_splat(0x1p24f))), wasm_f32x4_splat(0x1p-24f));
  near = wasm_v128_bitselect(small, near, wasm_i32x4_lt(magnitude, wasm_i32x4_splat(0x38800000)));
  return wasm_v128_or(near, wasm_v128_and(x, wasm_i32x4_splat((int32_t)0x80000000)));
}

static inline float round1(float x, int32_t type) {
  return type == FLOAT32 ? x : wasm_f32x4_extract_lane(round4(wasm_f32x4_splat(x), type), 0);
}

// 16 values of one block from 8 bytes
static inline __attribute__((always_inline)) void widen16(const uint8_t *bytes, const uint8_t *book, v128_t scale, int32_t type, float *out) {
  v128_t pairs = wasm_v128_load64_zero(bytes);
  v128_t high = wasm_u8x16_shr(pairs, 4), low = wasm_v128_and(pairs, wasm_i8x16_splat(15));
  v128_t code = wasm_i8x16_shuffle(high, low, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  v128_t b0 = wasm_i8x16_swizzle(wasm_v128_load(book), code), b1 = wasm_i8x16_swizzle(wasm_v128_load(book + 16), code);
  v128_t b2 = wasm_i8x16_swizzle(wasm_v128_load(book + 32), code), b3 = wasm_i8x16_swizzle(wasm_v128_load(book + 48), code);
  v128_t l01 = wasm_i8x16_shuffle(b0, b1, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  v128_t h01 = wasm_i8x16_shuffle(b0, b1, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  v128_t l23 = wasm_i8x16_shuffle(b2, b3, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  v128_t h23 = wasm_i8x16_shuffle(b2, b3, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  wasm_v128_store(out, round4(wasm_f32x4_mul(wasm_i16x8_shuffle(l01, l23, 0, 8, 1, 9, 2, 10, 3, 11), scale), type));
  wasm_v128_store(out + 4, round4(wasm_f32x4_mul(wasm_i16x8_shuffle(l01, l23, 4, 12, 5, 13, 6, 14, 7, 15), scale), type));
  wasm_v128_store(out + 8, round4(wasm_f32x4_mul(wasm_i16x8_shuffle(h01, h23, 0, 8, 1, 9, 2, 10, 3, 11), scale), type));
  wasm_v128_store(out + 12, round4(wasm_f32x4_mul(wasm_i16x8_shuffle(h01, h23, 4, 12, 5, 13, 6, 14, 7, 15), scale), type));
}

static inline void widenFourBit(const Quantized *q, uint32_t at, int32_t count, float *out) {
  uint32_t blockSize = q->blockSize, end = at + count;
  int32_t type = q->valueType;
  while (at < end) {
    uint32_t block = at / blockSize, stop = (block + 1) * blockSize;
    if (stop > end) stop = end;
    float factor = blockScale(q, block);
    v128_t scale = wasm_f32x4_splat(factor);
    if (at & 1) *out++ = round1(bookValue(q->book, q->codes[at++ >> 1] & 15) * factor, type);
    for (; at + 16 <= stop; at += 16, out += 16) widen16(q->codes + (at >> 1), q->book, scale, type, out);
    for (; at < stop; at++) {
      int32_t pair = q->codes[at >> 1];
      *out++ = round1(bookValue(q->book, at & 1 ? pair & 15 : pair >> 4) * factor, type);
    }
  }
}

static inline void widenInt8(const Quantized *q, int32_t row, int32_t col, int32_t count, float *out) {
  const int8_t *codes = (const int8_t *)q->codes + row * q->cols + col;
  v128_t scale = wasm_f32x4_splat(q->absmax[row]), share = wasm_f32x4_splat(1.0f / 127);
  int32_t i = 0;
  for (; i + 8 <= count; i += 8) {
    v128_t words = wasm_i16x8_load8x8(codes + i);
    v128_t low = wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(words));
    v128_t high = wasm_f32x4_convert_i32x4(wasm_i32x4_extend_high_i16x8(words));
    wasm_v128_store(out + i, wasm_f32x4_mul(wasm_f32x4_mul(low, scale), share));
    wasm_v128_store(out + i + 4, wasm_f32x4_mul(wasm_f32x4_mul(high, scale), share));
  }
  for (; i < count; i++) out[i] = (float)codes[i] * q->absmax[row] * (1.0f / 127);
  if (!q->outlierIndex) return;
  const char *kept = (const char *)(q->outlierValues + row * q->outlierStride);
  for (i = 0; i < count; i++) {
    int32_t place = q->outlierIndex[col + i];
    if (place >= 0) out[i] = load1(kept, place, q->outlierType);
  }
}

/** `count` values of a row from column `col` on. */
static __attribute__((noinline)) void widenRun(const Quantized *q, int32_t row, int32_t col, int32_t count, float *out) {
  if (q->isInt8) widenInt8(q, row, col, count, out);
  else widenFourBit(q, (uint32_t)row * q->cols + col, count, out);
}

#endif
