#include <algorithm>

#include "device.h"

namespace tfjs_lora::cuda {
namespace {

constexpr int kThreads = 256, kRowThreads = 1024;
/** Bytes of logits that exist at the same time. */
constexpr int64_t kLogitBytes = 256 << 20;

}  // namespace

void linearCrossEntropy(Device& device, Stream stream, const Matrix& weight, int64_t rows, const float* hidden,
                        const float* labels, bool ofEachRow, float* loss, float* gradient, const Allocate& allocate) {
  const InContextOf context(stream);
  const int64_t vocabulary = weight.rows, width = weight.cols, stride = (vocabulary + 7) / 8 * 8;
  const int64_t fitting = std::max<int64_t>(128, kLogitBytes / (stride * sizeof(Half)) / 128 * 128);
  const int64_t atOnce = std::min(rows, fitting);
  const auto take = [&](int64_t count, int64_t columns) {
    return Rows{static_cast<Half*>(allocate(count * columns * sizeof(Half))), columns};
  };
  void* workspace = allocate(Products::kWorkspaceBytes);
  float* losses = ofEachRow ? loss : static_cast<float*>(allocate(rows * sizeof(float)));
  Rows matrix = {static_cast<Half*>(const_cast<void*>(weight.data)), width};
  if (weight.kind != Matrix::bfloat16) unpackWeight(device, stream, weight, matrix = take(vocabulary, width));
  const Rows x = take(atOnce, width), logits = take(atOnce, stride);
  for (int64_t row = 0; row < rows; row += atOnce) {
    const int64_t count = std::min(atOnce, rows - row);
    device.kernels.launch(stream, "elementwise:toBFloat16", gridFor(count * width / 8, kThreads), kThreads, 0,
                          hidden + row * width, x.data, x.stride, count, static_cast<int>(width));
    device.products.run(stream, workspace,
                        {count, vocabulary, width, x, false, matrix, true, Output::bfloat16, logits.data, logits.stride});
    device.kernels.launch(stream, "crossEntropy:crossEntropy", {count}, kRowThreads, 0, logits.data, logits.stride,
                          labels + row, losses + row, static_cast<int>(vocabulary));
    if (gradient) {
      device.products.run(stream, workspace,
                          {count, width, vocabulary, logits, false, matrix, false, Output::float32, gradient + row * width,
                           width});
    }
  }
  if (ofEachRow) return;
  device.kernels.launch(stream, "crossEntropy:total", {1}, kRowThreads, 0, losses, rows, loss);
}

}  // namespace tfjs_lora::cuda
