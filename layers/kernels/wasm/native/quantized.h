// Reads part of a row of a quantized matrix as float32, bit-exact with the method's own library.
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
  int32_t kind;
  int32_t valueType;            // type that values are rounded to, except int8
  const uint8_t *zeros;         // in groups: the codes of 0, one per group, or 0
  const int32_t *groupIndex;    // in groups: the group of each column, or 0
  int32_t groupRows;
  int32_t groupCols;
  int32_t groupsAcross;
} Quantized;

enum { FOUR_BIT = 0, INT8 = 1, UINT4 = 2, UINT8 = 3, E4M3 = 4 };  // the last three are in groups

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

// The numbers that four codes stand for, each in a lane
static inline __attribute__((always_inline)) v128_t numbers4(v128_t codes, int32_t kind) {
  if (kind != E4M3) return wasm_f32x4_convert_i32x4(codes);
  v128_t magnitude = wasm_v128_and(codes, wasm_i32x4_splat(127));
  v128_t normal = wasm_i32x4_add(wasm_i32x4_shl(magnitude, 20), wasm_i32x4_splat(0x3c000000));
  v128_t small = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(magnitude), wasm_f32x4_splat(0x1p-9f));
  v128_t bits = wasm_v128_bitselect(small, normal, wasm_i32x4_lt(magnitude, wasm_i32x4_splat(8)));
  bits = wasm_v128_bitselect(wasm_i32x4_splat(0x7fc00000), bits, wasm_i32x4_eq(magnitude, wasm_i32x4_splat(127)));
  return wasm_v128_or(bits, wasm_i32x4_shl(wasm_v128_and(codes, wasm_i32x4_splat(128)), 24));
}

static inline __attribute__((always_inline)) v128_t value4(v128_t codes, int32_t kind, v128_t zero, v128_t scale, int32_t type) {
  return round4(wasm_f32x4_mul(wasm_f32x4_sub(numbers4(codes, kind), zero), scale), type);
}

static inline void widenGrouped(const Quantized *q, int32_t row, int32_t col, int32_t count, float *out) {
  int32_t kind = q->kind, type = q->valueType, end = col + count;
  uint32_t base = (uint32_t)row * q->cols, groups = (uint32_t)row / q->groupRows * q->groupsAcross;
  while (col < end) {
    int32_t place = q->groupIndex ? q->groupIndex[col] : col / q->groupCols;
    int32_t stop = q->groupIndex ? col + 1 : (place + 1) * q->groupCols;
    if (stop > end) stop = end;
    v128_t scale = wasm_f32x4_splat(q->absmax[groups + place]);
    v128_t zero = wasm_f32x4_splat(q->zeros ? (float)q->zeros[groups + place] : 0);
    while (col < stop) {
      uint32_t at = base + col;
      if (at % 8 == 0 && col + 8 <= stop) {
        v128_t eight;
        if (kind == UINT4) {
          v128_t pairs = wasm_v128_load32_zero(q->codes + at / 2);
          v128_t low = wasm_v128_and(pairs, wasm_i8x16_splat(15)), high = wasm_u8x16_shr(pairs, 4);
          eight = wasm_i8x16_shuffle(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        } else {
          eight = wasm_v128_load64_zero(q->codes + at);
        }
        v128_t words = wasm_u16x8_extend_low_u8x16(eight);
        wasm_v128_store(out, value4(wasm_u32x4_extend_low_u16x8(words), kind, zero, scale, type));
        wasm_v128_store(out + 4, value4(wasm_u32x4_extend_high_u16x8(words), kind, zero, scale, type));
        out += 8;
        col += 8;
        continue;
      }
      int32_t code = kind == UINT4 ? q->codes[at / 2] >> 4 * (at & 1) & 15 : q->codes[at];
      *out++ = wasm_f32x4_extract_lane(value4(wasm_i32x4_splat(code), kind, zero, scale, type), 0);
      col++;
    }
  }
}

/** `count` values of a row from column `col` on. */
static __attribute__((noinline)) void widenRun(const Quantized *q, int32_t row, int32_t col, int32_t count, float *out) {
  if (q->kind == INT8) widenInt8(q, row, col, count, out);
  else if (q->kind != FOUR_BIT) widenGrouped(q, row, col, count, out);
  else widenFourBit(q, (uint32_t)row * q->cols + col, count, out);
}

#endif
