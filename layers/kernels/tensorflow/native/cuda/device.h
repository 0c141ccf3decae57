// A card: its kernels, its products, and memory of the host beside it.
#pragma once
#include "driver.h"
#include "engine.h"
#include "host_memory.h"
#include "products.h"

namespace tfjs_lora::cuda {

class Device {
 public:
  Device(const std::string& kernels, const std::string& cache) : kernels(kernels, cache) {}

  Kernels kernels;
  Products products;
  HostMemory hostMemory;
};

/** A bfloat16 number of the card's. */
using Half = uint16_t;

/** Rows of bfloat16 in the card's memory, `stride` apart. */
struct Rows {
  Half* data = nullptr;
  int64_t stride = 0;

  Rows from(int64_t row) const { return {data + row * stride, stride}; }
  Rows columns(int64_t first) const { return {data + first, stride}; }
  operator View() const { return {data, stride}; }
};

/** Blocks of `threads` for so many items. */
inline Grid gridFor(int64_t items, int threads) { return {(items + threads - 1) / threads}; }

/** Writes a frozen weight as bfloat16. */
void unpackWeight(Device&, Stream, const Matrix&, Rows to);

}  // namespace tfjs_lora::cuda
