// A card: its kernels, its products, and host memory for it.
#pragma once
#include "driver.h"
#include "engine.h"
#include "host_memory.h"
#include "products.h"

namespace tfjs_lora::cuda {

/** Places in host memory where kernels write numbers that the host waits for. */
class Answers {
 public:
  /** Number of numbers in a place. */
  static constexpr int kSize = 4;
  /** The value of numbers that are not written yet, which no kernel writes. */
  static constexpr uint32_t kNone = 0xffffffff;

  /** Returns the next place, filled with {@link kNone}; it is used again after a thousand others. */
  volatile uint32_t* next();

 private:
  static constexpr int kCount = 1024;
  std::mutex mutex_;
  uint32_t* memory_ = nullptr;
  int at_ = 0;
};

class Device {
 public:
  Device(const std::string& kernels, const std::string& cache) : kernels(kernels, cache) {}

  Kernels kernels;
  Products products;
  HostMemory hostMemory;
  Answers answers;
};

/** A bfloat16 number on the card. */
using Half = uint16_t;

/** Rows of bfloat16 in the card's memory, `stride` apart. */
struct Rows {
  Half* data = nullptr;
  int64_t stride = 0;

  Rows from(int64_t row) const { return {data + row * stride, stride}; }
  Rows columns(int64_t first) const { return {data + first, stride}; }
  operator View() const { return {data, stride}; }
};

/** Returns the blocks of `threads` that cover `items`. */
inline Grid gridFor(int64_t items, int threads) { return {(items + threads - 1) / threads}; }

/** Writes a frozen weight as bfloat16. */
void unpackWeight(Device&, Stream, const Matrix&, Rows to);

}  // namespace tfjs_lora::cuda
