// Rotary embedding of one head.
#pragma once
#include "vec.h"

namespace tfjs_lora {

/** Rotates `x` of `dim` numbers by the `dim / 2` angles of its position, times `sign`. */
inline void rotate(const float* x, const float* cos, const float* sin, float sign, int64_t dim, float* y) {
  const int64_t half = dim / 2;
  forEachVec(0, half, [&](auto at) {
    const Vec first = at.load(x), second = at.load(x + half), c = at.load(cos), s = at.load(sin) * sign;
    at.store(y, first * c - second * s);
    at.store(y + half, second * c + first * s);
  });
}

}  // namespace tfjs_lora
