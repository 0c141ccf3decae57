// Rotary embedding of one head.
#pragma once
#include "vec.h"

namespace tfjs_lora {

/** Turns `x` of `dim` numbers by the `dim / 2` angles of its position, times `sign`. */
inline void rotate(const float* x, const float* cos, const float* sin, float sign, int64_t dim, float* y) {
  const int64_t half = dim / 2;
  forEachVec(half, [&](int64_t i, int64_t count) {
    const bool isWhole = count == kLanes;
    const auto read = [&](const float* from) { return isWhole ? load(from + i) : loadPart(from + i, count); };
    const Vec first = read(x), second = read(x + half), c = read(cos), s = read(sin) * sign;
    const Vec turned = first * c - second * s, other = second * c + first * s;
    if (isWhole) {
      store(y + i, turned);
      store(y + half + i, other);
    } else {
      storePart(y + i, turned, count);
      storePart(y + half + i, other, count);
    }
  });
}

}  // namespace tfjs_lora
