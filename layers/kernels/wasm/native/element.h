// Reads one or four elements of a stored matrix as float32.
#ifndef ELEMENT_H
#define ELEMENT_H

#include <stdint.h>
#include <wasm_simd128.h>

enum { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };  // as in gemm.ts

static inline v128_t widen4(v128_t halves, int32_t type) {  // four 16-bit values, each in the low half of a lane
  if (type == BFLOAT16) return wasm_i32x4_shl(halves, 16);
  v128_t magnitude = wasm_v128_and(halves, wasm_i32x4_splat(0x7fff));
  v128_t scaled = wasm_f32x4_mul(wasm_i32x4_shl(magnitude, 13), wasm_f32x4_splat(0x1p112f));
  v128_t special = wasm_i32x4_gt(magnitude, wasm_i32x4_splat(0x7bff));  // infinity or NaN
  scaled = wasm_v128_or(scaled, wasm_v128_and(special, wasm_i32x4_splat(0x7f800000)));
  return wasm_v128_or(scaled, wasm_i32x4_shl(wasm_v128_and(halves, wasm_i32x4_splat(0x8000)), 16));
}

static inline float load1(const char *base, int32_t index, int32_t type) {
  if (type == FLOAT32) return ((const float *)base)[index];
  return wasm_f32x4_extract_lane(widen4(wasm_i32x4_splat(((const uint16_t *)base)[index]), type), 0);
}

static inline v128_t load4(const char *base, int32_t index, int32_t type) {
  if (type == FLOAT32) return wasm_v128_load((const float *)base + index);
  return widen4(wasm_u32x4_load16x4((const uint16_t *)base + index), type);
}

#endif
