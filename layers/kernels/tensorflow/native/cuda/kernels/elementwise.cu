#include "bfloat16.cuh"

// Operations on each number or each row between two products. Rows begin `stride` numbers apart; widths are multiples
// of 8.

/** float32 `[rows, width]` → bfloat16. A thread takes eight. */
extern "C" __global__ void toBFloat16(const float* x, u16* y, i64 yStride, i64 rows, int width) {
  const i64 at = 8 * ((i64)blockIdx.x * blockDim.x + threadIdx.x);
  if (at < rows * width) store8(y + at / width * yStride + at % width, load8(x + at));
}

/** bfloat16 → float32 `[rows, width]`. A thread takes eight. */
extern "C" __global__ void toFloat32(const u16* x, i64 xStride, float* y, i64 rows, int width) {
  const i64 at = 8 * ((i64)blockIdx.x * blockDim.x + threadIdx.x);
  if (at < rows * width) store8(y + at, load8(x + at / width * xStride + at % width));
}

/** Threads take `count` numbers at a time, of which the width is a multiple. Returns the inverse root. */
template <int count, class T>
__device__ __forceinline__ float normalize(const T* x, const float* weight, T* y, int width, float epsilon) {
  __shared__ float shared[32];
  float squares = 0.f;
  for (int at = count * threadIdx.x; at < width; at += count * blockDim.x) {
    const auto in = load<count>(x + at);
    for (int i = 0; i < count; i++) squares += in.of[i] * in.of[i];
  }
  const float root = rsqrtf(blockSum(squares, shared) / width + epsilon);
  for (int at = count * threadIdx.x; at < width; at += count * blockDim.x) {
    const auto in = load<count>(x + at), w = load<count>(weight + at);
    Numbers<count> out;
    for (int i = 0; i < count; i++) out.of[i] = in.of[i] * root * w.of[i];
    store(y + at, out);
  }
  return root;
}

/** A block of threads per row. x `[rows, width]`, weight `[width]` → y. */
extern "C" __global__ void rmsNorm(const u16* x, i64 xStride, const float* weight, u16* y, i64 yStride, int width,
                                   float epsilon) {
  const i64 row = blockIdx.x;
  normalize<8>(x + row * xStride, weight, y + row * yStride, width, epsilon);
}

/** The same in float32, for any width and address, with the inverse roots `[rows]`. */
extern "C" __global__ void rmsNormFloat32(const float* x, const float* weight, float* y, float* inverse, int width,
                                          float epsilon) {
  const i64 row = blockIdx.x;
  const float root = normalize<1>(x + row * width, weight, y + row * width, width, epsilon);
  if (threadIdx.x == 0) inverse[row] = root;
}

/** dx = residual + r · (dy·w − x · r² · mean(dy·w · x)), where r is the inverse root; residual may be null. */
template <int count, class T>
__device__ __forceinline__ void normalizeGrad(const T* dy, const T* x, const float* weight, float root, const T* residual,
                                              T* dx, int width, float* shared) {
  float along = 0.f;
  for (int at = count * threadIdx.x; at < width; at += count * blockDim.x) {
    const auto g = load<count>(dy + at), in = load<count>(x + at), w = load<count>(weight + at);
    for (int i = 0; i < count; i++) along += g.of[i] * w.of[i] * in.of[i];
  }
  const float pull = root * root * blockSum(along, shared) / width;
  for (int at = count * threadIdx.x; at < width; at += count * blockDim.x) {
    const auto g = load<count>(dy + at), in = load<count>(x + at), w = load<count>(weight + at);
    Numbers<count> out = {};
    if (residual) out = load<count>(residual + at);
    for (int i = 0; i < count; i++) out.of[i] += root * (g.of[i] * w.of[i] - in.of[i] * pull);
    store(dx + at, out);
  }
}

/** A block of threads per row; the inverse root is computed again. `dx` may be `residual`. */
extern "C" __global__ void rmsNormGrad(const u16* dy, i64 dyStride, const u16* x, i64 xStride, const float* weight,
                                       const u16* residual, i64 residualStride, u16* dx, i64 dxStride, int width,
                                       float epsilon) {
  __shared__ float shared[32];
  const i64 row = blockIdx.x;
  x += row * xStride;
  float squares = 0.f;
  for (int at = 8 * threadIdx.x; at < width; at += 8 * blockDim.x) {
    const Eight in = load8(x + at);
    for (int i = 0; i < 8; i++) squares += in.of[i] * in.of[i];
  }
  const float root = rsqrtf(blockSum(squares, shared) / width + epsilon);
  normalizeGrad<8>(dy + row * dyStride, x, weight, root, residual + row * residualStride, dx + row * dxStride, width, shared);
}

extern "C" __global__ void rmsNormGradFloat32(const float* dy, const float* x, const float* weight, const float* inverse,
                                              float* dx, int width) {
  __shared__ float shared[32];
  const i64 row = blockIdx.x;
  normalizeGrad<1>(dy + row * width, x + row * width, weight, inverse[row], (const float*)nullptr, dx + row * width, width,
                shared);
}

/**
 * Rotates the heads of each row in place: element i with element i + dim / 2, by the angle of its position; `sign` −1
 * inverts the rotation. A thread takes eight pairs. x `[batch · length, heads · dim]`, cos and sin
 * `[1 or batch, length, dim / 2]`.
 */
extern "C" __global__ void rotate(u16* x, i64 stride, const float* cos, const float* sin, float sign, i64 rows, int length,
                                  int heads, int dim, int perSequence) {
  const int half = dim / 2, parts = half / 8;
  const i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  const i64 row = thread / (heads * parts);
  if (row >= rows) return;
  const int part = thread % (heads * parts), head = part / parts, at = 8 * (part % parts);
  const i64 position = perSequence ? row : row % length;
  u16* first = x + row * stride + head * dim + at;
  const Eight a = load8(first), b = load8(first + half), c = load8(cos + position * half + at),
              s = load8(sin + position * half + at);
  Eight turnedA, turnedB;
  for (int i = 0; i < 8; i++) {
    turnedA.of[i] = a.of[i] * c.of[i] - sign * b.of[i] * s.of[i];
    turnedB.of[i] = b.of[i] * c.of[i] + sign * a.of[i] * s.of[i];
  }
  store8(first, turnedA);
  store8(first + half, turnedB);
}

__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + exp2Of(-x * kLog2E)); }

/** `silu(gate) · up`; gate and up are the halves of a row. A thread takes eight. */
extern "C" __global__ void swiGLU(const u16* gateUp, i64 inStride, u16* y, i64 outStride, i64 rows, int width) {
  const i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  const i64 row = thread / (width / 8);
  if (row >= rows) return;
  const int at = 8 * (thread % (width / 8));
  const u16* from = gateUp + row * inStride + at;
  const Eight gate = load8(from), up = load8(from + width);
  Eight out;
  for (int i = 0; i < 8; i++) out.of[i] = gate.of[i] * sigmoid(gate.of[i]) * up.of[i];
  store8(y + row * outStride + at, out);
}

/** Gradients of gate and up, laid out as they are; `d` may be `gateUp`. */
extern "C" __global__ void swiGLUGrad(const u16* dy, i64 dyStride, const u16* gateUp, i64 inStride, u16* d, i64 stride,
                                      i64 rows, int width) {
  const i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  const i64 row = thread / (width / 8);
  if (row >= rows) return;
  const int at = 8 * (thread % (width / 8));
  const u16* from = gateUp + row * inStride + at;
  const Eight gate = load8(from), up = load8(from + width), g = load8(dy + row * dyStride + at);
  Eight dGate, dUp;
  for (int i = 0; i < 8; i++) {
    const float open = sigmoid(gate.of[i]), silu = gate.of[i] * open;
    dUp.of[i] = g.of[i] * silu;
    dGate.of[i] = g.of[i] * up.of[i] * open * (1.f + gate.of[i] - silu);
  }
  u16* to = d + row * stride + at;
  store8(to, dGate);
  store8(to + width, dUp);
}
