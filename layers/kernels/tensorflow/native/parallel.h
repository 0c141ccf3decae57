// Threads for the fused ops: TensorFlow's own pool is not part of its C interface.
#pragma once
#include <cstdint>
#include <functional>

namespace tfjs_lora {

/** Numbers touched below which a second thread costs more than it brings. */
constexpr int64_t kWorthAThread = 1 << 15;

/** As many as TensorFlow is told to take, else one a core. */
int threadCount();

/**
 * Runs `body(part)` for each part of `count`, on all cores where `work`, the numbers touched in all, is worth it. The
 * caller works too, and returns when all are done. Called while another thread is at it, it runs on the caller alone.
 */
void parallelFor(int64_t count, int64_t work, const std::function<void(int64_t)>& body);

/** {@link parallelFor} over `[0, size)` in ranges, `body(begin, end)`; each item touches `cost` numbers. */
void parallelRanges(int64_t size, int64_t cost, const std::function<void(int64_t, int64_t)>& body);

}  // namespace tfjs_lora
