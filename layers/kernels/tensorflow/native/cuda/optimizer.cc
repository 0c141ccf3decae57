#include <algorithm>

#include "device.h"
#include "kernel_arguments.h"

namespace tfjs_lora::cuda {
namespace {

constexpr int kThreads = 256, kRowThreads = 1024;
/** Fills in the first block of each variable. @returns the number of blocks, and the table on the card */
std::pair<int64_t, void*> tableOf(Stream stream, std::vector<Variable>& variables, const Allocate& allocate) {
  int64_t blocks = 0;
  for (Variable& variable : variables) {
    variable.firstBlock = blocks;
    blocks += (variable.size + kPerBlock - 1) / kPerBlock;
  }
  const size_t bytes = variables.size() * sizeof(Variable);
  void* table = allocate(bytes);
  // The driver copies this memory first, so it may be freed when this returns.
  check(driver().MemcpyHtoDAsync(reinterpret_cast<uint64_t>(table), variables.data(), bytes, stream), "cuMemcpyHtoDAsync");
  return {blocks, table};
}

}  // namespace

void update(Device& device, Stream stream, Rule rule, const std::vector<UpdatedVariable>& given, const float* factors,
            const void* maps, const Clipping& clipping, const Allocate& allocate) {
  static_assert(kThreads == kStateBlock, "a thread has one number of those that share a scale");
  constexpr const char* kKernels[] = {"optimizer:adamW", "optimizer:adamW8bit", "optimizer:lion", "optimizer:lion8bit"};
  const InContextOf context(stream);
  std::vector<Variable> variables;
  for (const UpdatedVariable& v : given) {
    Variable variable = {v.value, v.gradient, v.nextValue, {}, {}, v.size, 0};
    std::copy(v.states.begin(), v.states.end(), variable.states);
    std::copy(v.nextStates.begin(), v.nextStates.end(), variable.nextStates);
    variables.push_back(variable);
  }
  const auto [blocks, table] = tableOf(stream, variables, allocate);
  const char* kernel = kKernels[static_cast<int>(rule)];
  const int count = static_cast<int>(variables.size());
  if (rule == Rule::adamW8bit || rule == Rule::lion8bit) {
    device.kernels.launch(stream, kernel, {blocks}, kThreads, 0, table, count, factors, clipping.norm,
                          clipping.most, maps);
  } else {
    device.kernels.launch(stream, kernel, {blocks}, kThreads, 0, table, count, factors, clipping.norm,
                          clipping.most);
  }
}

void globalNorm(Device& device, Stream stream, const std::vector<std::pair<const float*, int64_t>>& given, float* norm,
                const Allocate& allocate) {
  const InContextOf context(stream);
  std::vector<Variable> variables;
  for (const auto& [gradient, size] : given) {
    variables.push_back({nullptr, gradient, nullptr, {}, {}, size, 0});
  }
  const auto [blocks, table] = tableOf(stream, variables, allocate);
  float* sums = static_cast<float*>(allocate(blocks * sizeof(float)));
  device.kernels.launch(stream, "optimizer:squares", {blocks}, kThreads, 0, table, static_cast<int>(variables.size()), sums);
  device.kernels.launch(stream, "optimizer:rootOfTotal", {1}, kRowThreads, 0, sums, blocks, norm);
}

void copyAll(Device& device, Stream stream, const std::vector<Copied>& given, const Allocate& allocate) {
  const InContextOf context(stream);
  std::vector<Variable> variables;
  for (const auto& [from, to, size] : given) variables.push_back({from, nullptr, to, {}, {}, size, 0});
  const auto [blocks, table] = tableOf(stream, variables, allocate);
  device.kernels.launch(stream, "optimizer:copy", {blocks}, kThreads, 0, table, static_cast<int>(variables.size()));
}

void rmsNorm(Device& device, Stream stream, int64_t rows, int64_t width, const float* x, const float* weight, float epsilon,
             float* y, float* inverse) {
  const InContextOf context(stream);
  device.kernels.launch(stream, "elementwise:rmsNormFloat32", {rows}, kThreads, 0, x, weight, y, inverse,
                        static_cast<int>(width), epsilon);
}

void rmsNormGrad(Device& device, Stream stream, int64_t rows, int64_t width, const float* dy, const float* x,
                 const float* weight, const float* inverse, float* dx) {
  const InContextOf context(stream);
  device.kernels.launch(stream, "elementwise:rmsNormGradFloat32", {rows}, kThreads, 0, dy, x, weight, inverse, dx,
                        static_cast<int>(width));
}

}  // namespace tfjs_lora::cuda
