#include "ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "parallel.h"

namespace tfjs_lora {
namespace {

/** The types that values are rounded to, numbered as in dequantize.ts. */
enum ValueType { kFloat32 = 0, kBfloat16 = 1, kFloat16 = 2 };

float floatOf(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

/** Rounds to the nearest number of a type, ties to even. */
float roundTo(int32_t type, float x) {
  if (type == kFloat32) return x;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (type == kBfloat16) return floatOf((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
  const uint32_t magnitude = bits & 0x7fffffff, sign = bits & 0x80000000;
  if (magnitude < 0x38800000) return std::nearbyint(x * 0x1p24f) * 0x1p-24f;  // in steps of subnormal halves
  const uint32_t near = (magnitude + 0xfff + (magnitude >> 13 & 1)) & 0xffffe000;
  return floatOf(sign | (near >= 0x47800000 ? 0x7f800000 : near));  // beyond the largest: infinity
}

/**
 * codes, two to a byte, the first in its high half; the table of their values, `[16]`; scales of blocks; and the place
 * `[first, last, from, blockSize, cols, type]` → elements `first` to `last` as `[rows, cols]`. `from` is where the
 * first scale's block begins.
 */
class DequantizeFourBit {
 public:
  explicit DequantizeFourBit(const Attributes&) {}

  void run(Call& call) {
    const uint8_t* codes = call.input<uint8_t>(0);
    const float *numbers = call.input(1), *scales = call.input(2);
    const int32_t* place = call.input<int32_t>(3);
    const int64_t first = place[0], last = place[1], from = place[2], blockSize = place[3], cols = place[4];
    const int32_t type = place[5];
    float* y = call.output(0, {(last - first) / cols, cols});
    const int64_t firstBlock = first / blockSize, blocks = (last + blockSize - 1) / blockSize - firstBlock;
    parallelRanges(blocks, blockSize, [&](int64_t begin, int64_t end) {
      for (int64_t block = firstBlock + begin; block < firstBlock + end; block++) {
        const float scale = scales[block - from / blockSize];
        float scaled[16];
        for (int i = 0; i < 16; i++) scaled[i] = roundTo(type, numbers[i] * scale);
        const int64_t to = std::min(last, (block + 1) * blockSize);
        int64_t i = std::max(first, block * blockSize);
        if (i % 2 == 1) {
          y[i - first] = scaled[codes[i / 2] & 15];
          i++;
        }
        for (; i + 1 < to; i += 2) {
          const uint8_t both = codes[i / 2];
          y[i - first] = scaled[both >> 4];
          y[i + 1 - first] = scaled[both & 15];
        }
        if (i < to) y[i - first] = scaled[codes[i / 2] >> 4];
      }
    });
  }
};

}  // namespace

std::string registerDequantize() {
  return registerOp<DequantizeFourBit>({"TfjsLoraDequantizeFourBit",
                                        {"codes: int32", "numbers: float", "scales: float", "place: int32"},
                                        {"values: float"},
                                        {}});
}

}  // namespace tfjs_lora
