// Threads for the fused ops, because TensorFlow's own pool is not part of its C interface.
#pragma once
#include <cstdint>
#include <functional>

namespace tfjs_lora {

/** With fewer numbers to touch, a second thread costs more than it saves. */
constexpr int64_t kWorthAThread = 1 << 15;

/** The number of threads that TensorFlow is set to use; by default one per core. */
int threadCount();

/**
 * Runs `body(part)` for each part of `count`, on all cores if `work`, the total of numbers touched, is worth it. The
 * caller works too and returns when all parts are done. While another thread runs a loop, it uses only the caller.
 */
void parallelFor(int64_t count, int64_t work, const std::function<void(int64_t)>& body);

/** {@link parallelFor} over `[0, size)` in ranges, `body(begin, end)`; each item touches `cost` numbers. */
void parallelRanges(int64_t size, int64_t cost, const std::function<void(int64_t, int64_t)>& body);

}  // namespace tfjs_lora
