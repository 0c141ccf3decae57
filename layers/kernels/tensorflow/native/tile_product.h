// Products of tiles in the cache, of which attention is made.
#pragma once
#include "vec.h"

namespace tfjs_lora {

/** A left operand: element (i, k) at `data[i · row + k · col]`, so a transpose is a swap of the two. */
struct Strided {
  const float* data;
  int64_t row, col;
};

/** Keeps R rows by V vectors of the result in registers over all of `depth`. */
template <int R, int V>
inline void registerTile(int64_t depth, Strided a, const float* b, int64_t bRow, bool isAdded, float* c,
                         int64_t cRow) {
  Vec sums[R][V];
#pragma GCC unroll 12
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) sums[r][v] = isAdded ? load(c + r * cRow + v * kLanes) : Vec{};
  for (int64_t k = 0; k < depth; k++) {
    Vec right[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) right[v] = load(b + k * bRow + v * kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
      const Vec left = splat(a.data[r * a.row + k * a.col]);
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) sums[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) store(c + r * cRow + v * kLanes, sums[r][v]);
}

/** For a single vector per row takes more rows, so that enough sums are in flight for the processor's two units. */
template <int V>
inline void columns(int64_t rows, int64_t depth, Strided a, const float* b, int64_t bRow, bool isAdded, float* c,
                    int64_t cRow) {
  const auto at = [&](int64_t i) { return Strided{a.data + i * a.row, a.row, a.col}; };
  int64_t i = 0;
  if (V == 1) {
    for (; i + 12 <= rows; i += 12) registerTile<12, V>(depth, at(i), b, bRow, isAdded, c + i * cRow, cRow);
  }
  if (rows % 6 != 0) {  // 8 and 16 are 4s
    for (; i + 4 <= rows && (rows - i) % 6 != 0; i += 4) {
      registerTile<4, V>(depth, at(i), b, bRow, isAdded, c + i * cRow, cRow);
    }
  }
  for (; i + 6 <= rows; i += 6) registerTile<6, V>(depth, at(i), b, bRow, isAdded, c + i * cRow, cRow);
  for (; i + 3 <= rows; i += 3) registerTile<3, V>(depth, at(i), b, bRow, isAdded, c + i * cRow, cRow);
  for (; i < rows; i++) registerTile<1, V>(depth, at(i), b, bRow, isAdded, c + i * cRow, cRow);
}

/**
 * c `[rows, width]` = a `[rows, depth]` · b `[depth, width]`, or added to what is there. Rows of b and c are contiguous
 * and `bRow` and `cRow` apart; `width` is a multiple of 8.
 */
inline void tileProduct(int64_t rows, int64_t width, int64_t depth, Strided a, const float* b, int64_t bRow,
                        bool isAdded, float* c, int64_t cRow) {
  int64_t j = 0;
  for (; j + 2 * kLanes <= width; j += 2 * kLanes) columns<2>(rows, depth, a, b + j, bRow, isAdded, c + j, cRow);
  for (; j < width; j += kLanes) columns<1>(rows, depth, a, b + j, bRow, isAdded, c + j, cRow);
}

}  // namespace tfjs_lora
