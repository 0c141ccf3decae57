#include "attention.h"

#include <cmath>

namespace tfjs_lora::cuda {
namespace {

/** What the kernels of attention.cu are given, laid out as there. */
struct Arguments {
  const Half* qkv;
  int64_t stride;
  const float* segments;
  int length, heads, keyValueHeads;
  float scale;
};
struct GradArguments {
  const Half* dy;
  int64_t dyStride;
  const float *logSums, *along;
  Half* dQkv;
  int64_t dStride;
  float scale;
};

/** Rows of the tiles of each kernel, and its threads, as in attention.cu. */
struct Tiling {
  const char *forward, *keyValueGrad, *queryGrad;
  int forwardQueries, forwardKeys, gradRows, gradStep, gradThreads;
};
constexpr Tiling kTiling64 = {"attention:forward64", "attention:keyValueGrad64", "attention:queryGrad64", 128, 64, 128, 32, 128};
constexpr Tiling kTiling128 = {"attention:forward128", "attention:keyValueGrad128", "attention:queryGrad128", 64, 64, 128, 32,
                               256};

const Tiling& tilingOf(int64_t dim) { return dim == 64 ? kTiling64 : kTiling128; }

Arguments argumentsOf(const AttentionCall& c) {
  return {c.qkv.data,
          c.qkv.stride,
          c.segments,
          static_cast<int>(c.length),
          static_cast<int>(c.heads),
          static_cast<int>(c.keyValueHeads),
          static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(c.dim)))};
}

int64_t tilesOf(int64_t length, int rows) { return (length + rows - 1) / rows; }

}  // namespace

void attention(Device& device, Stream stream, const AttentionCall& c, Rows y, float* logSums) {
  const Tiling& t = tilingOf(c.dim);
  const size_t shared = sizeof(Half) * c.dim * (t.forwardQueries + 4 * t.forwardKeys);
  device.kernels.launch(stream, t.forward, {tilesOf(c.length, t.forwardQueries), c.heads, c.batch}, 128, shared,
                        argumentsOf(c), y.data, y.stride, logSums);
}

void attentionGrad(Device& device, Stream stream, const AttentionCall& c, Rows y, const float* logSums, Rows dy, float* along,
                   Rows dQkv) {
  constexpr int kThreads = 256;
  const Tiling& t = tilingOf(c.dim);
  const int64_t rows = c.batch * c.length;
  device.kernels.launch(stream, "attention:gradientAlong", gridFor(32 * rows * c.heads, kThreads), kThreads, 0, dy.data,
                        dy.stride, y.data, y.stride, along, static_cast<int>(c.length), static_cast<int>(c.heads),
                        static_cast<int>(c.dim), rows);
  const Arguments arguments = argumentsOf(c);
  const GradArguments grad = {dy.data, dy.stride,
                              logSums, along,
                              dQkv.data, dQkv.stride,
                              static_cast<float>(1 / std::sqrt(static_cast<double>(c.dim)))};
  const size_t shared = sizeof(Half) * c.dim * (2 * t.gradRows + 4 * t.gradStep);
  const int64_t tiles = tilesOf(c.length, t.gradRows);
  device.kernels.launch(stream, t.keyValueGrad, {tiles, c.keyValueHeads, c.batch}, t.gradThreads, shared, arguments, grad);
  device.kernels.launch(stream, t.queryGrad, {tiles, c.heads, c.batch}, t.gradThreads, shared, arguments, grad);
}

}  // namespace tfjs_lora::cuda
