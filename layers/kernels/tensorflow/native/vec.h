// Vectors of eight floats, by an extension that GCC and Clang share: AVX registers on x64, pairs of NEON's on arm64.
#pragma once
#include <cstdint>
#include <cstring>

namespace tfjs_lora {

typedef float Vec __attribute__((vector_size(32)));
typedef int32_t IntVec __attribute__((vector_size(32)));

constexpr int64_t kLanes = 8;

/** The next multiple of a vector's size. */
inline int64_t padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

inline Vec load(const float* from) {
  Vec x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

inline void store(float* to, Vec x) { std::memcpy(to, &x, sizeof x); }

inline Vec splat(float x) { return Vec{x, x, x, x, x, x, x, x}; }

inline float sumOf(Vec x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }

inline Vec larger(Vec x, Vec y) { return x > y ? x : y; }

inline float largestOf(Vec x) {
  float largest = x[0];
  for (int64_t i = 1; i < kLanes; i++) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

/** Within 2 units in the last place; 0 below -87.3, where the result would be denormal, and finite above 88. */
inline Vec exp(Vec x) {
  const Vec lowest = splat(-87.3f), highest = splat(88.0f);
  const IntVec isTiny = x < lowest;
  x = isTiny ? lowest : x;
  x = x > highest ? highest : x;
  const Vec shift = splat(12582912.0f);  // 1.5 · 2²³: numbers added to it are rounded to a whole number
  const Vec shifted = x * 1.44269504f + shift;
  const Vec whole = shifted - shift;
  Vec r = x - whole * 0.693359375f;
  r = r - whole * -2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);  // Cephes' polynomial on ±ln 2 / 2
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  IntVec bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = ((bits & 0x1ff) + 127) << 23;  // the whole number is in the low bits
  Vec power;
  std::memcpy(&power, &bits, sizeof power);
  const Vec result = p * power;
  return isTiny ? Vec{} : result;
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

/** Eight numbers from the `i`th on. */
struct Whole {
  int64_t i;

  Vec load(const float* from) const { return tfjs_lora::load(from + i); }
  void store(float* to, Vec x) const { tfjs_lora::store(to + i, x); }
};

/** `count` numbers from the `i`th on, fewer than eight; what is loaded has zeros after them. */
struct Part {
  int64_t i, count;

  Vec load(const float* from) const {
    Vec x = {};
    std::memcpy(&x, from + i, count * sizeof(float));
    return x;
  }
  void store(float* to, Vec x) const { std::memcpy(to + i, &x, count * sizeof(float)); }
};

/** Calls `body(at)` for all of `[begin, end)`, where `at` is a {@link Whole} vector, or finally a {@link Part}. */
template <class Body>
inline void forEachVec(int64_t begin, int64_t end, Body body) {
  for (; begin + kLanes <= end; begin += kLanes) body(Whole{begin});
  if (begin < end) body(Part{begin, end - begin});
}

/** Sum of products of `size` numbers, a multiple of 8. */
inline float dot(const float* x, const float* y, int64_t size) {
  Vec sum = {};
  for (int64_t i = 0; i < size; i += kLanes) sum += load(x + i) * load(y + i);
  return sumOf(sum);
}

}  // namespace tfjs_lora
