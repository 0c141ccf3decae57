#include "attention.h"

#include <cmath>

#include "kernel_arguments.h"

namespace tfjs_lora::cuda {
namespace {

/**
 * A kernel, the number of rows in the tile that a block of threads keeps and in those that it reads in turn, and its
 * threads.
 */
struct Tiling {
  const char* name;
  int rows, step, threads;
};
struct Tilings {
  Tiling forward, keyValueGrad, queryGrad;
};

constexpr Tilings kTilings64 = {{"attention:forward64", 128, 64, 128},
                                {"attention:keyValueGrad64", 128, 32, 128},
                                {"attention:queryGrad64", 128, 32, 128}};
constexpr Tilings kTilings128 = {{"attention:forward128", 64, 64, 128},
                                 {"attention:keyValueGrad128", 128, 32, 256},
                                 {"attention:queryGrad128", 128, 32, 256}};
constexpr Tilings kHopper64 = {{"attentionHopper:forward64", 256, 128, 512},
                               {"attentionHopper:keyValueGrad64", 128, 64, 256},
                               {"attentionHopper:queryGrad64", 64, 64, 128}};
constexpr Tilings kHopper128 = {{"attentionHopper:forward128", 128, 128, 256},
                                {"attentionHopper:keyValueGrad128", 128, 64, 256},
                                {"attentionHopper:queryGrad128", 64, 64, 128}};

const Tilings& tilingsOf(const Device& device, int64_t dim) {
  if (device.kernels.capability() == 90) return dim == 64 ? kHopper64 : kHopper128;
  return dim == 64 ? kTilings64 : kTilings128;
}

/** Extra bytes for tiles that must begin at a multiple of 1024. */
constexpr size_t kForAlignment = 1024;

Attention argumentsOf(const AttentionCall& c) {
  return {c.qkv.data,
          c.qkv.stride,
          c.segments,
          static_cast<int>(c.length),
          static_cast<int>(c.heads),
          static_cast<int>(c.keyValueHeads),
          static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(c.dim)))};
}

/**
 * @param kept number of tiles with the rows that a block keeps;
 * @param read number of tiles that it reads, two at a time
 */
template <class... More>
void launch(Device& device, Stream stream, const Tiling& t, const AttentionCall& c, int64_t heads, int kept, int read,
            More... more) {
  const size_t shared = sizeof(Half) * c.dim * (kept * t.rows + 2 * read * t.step) + kForAlignment;
  const Grid grid = {(c.length + t.rows - 1) / t.rows, heads, c.batch};
  device.kernels.launch(stream, t.name, grid, t.threads, shared, argumentsOf(c), more...);
}

}  // namespace

void attention(Device& device, Stream stream, const AttentionCall& c, Rows y, float* logSums) {
  launch(device, stream, tilingsOf(device, c.dim).forward, c, c.heads, 1, 2, y.data, y.stride, logSums);
}

void attentionGrad(Device& device, Stream stream, const AttentionCall& c, Rows y, const float* logSums, Rows dy, float* along,
                   Rows dQkv) {
  constexpr int kThreads = 256;
  const int64_t rows = c.batch * c.length;
  device.kernels.launch(stream, "attention:gradientAlong", gridFor(32 * rows * c.heads, kThreads), kThreads, 0, dy.data,
                        dy.stride, y.data, y.stride, along, static_cast<int>(c.length), static_cast<int>(c.heads),
                        static_cast<int>(c.dim), rows);
  const AttentionGrad grad = {dy.data, dy.stride,
                              logSums, along,
                              dQkv.data, dQkv.stride,
                              static_cast<float>(1 / std::sqrt(static_cast<double>(c.dim)))};
  const Tilings& tilings = tilingsOf(device, c.dim);
  launch(device, stream, tilings.keyValueGrad, c, c.keyValueHeads, 2, 2, grad);
  launch(device, stream, tilings.queryGrad, c, c.heads, 2, 2, grad);
}

}  // namespace tfjs_lora::cuda
