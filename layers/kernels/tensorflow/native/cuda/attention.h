// Causal attention with grouped queries on packed rows of queries, keys and values; see kernels/attention.cu.
#pragma once
#include "device.h"

namespace tfjs_lora::cuda {

struct AttentionCall {
  int64_t batch, length, heads, keyValueHeads, dim;
  /** Segments as in Stack, or null. */
  const float* segments;
  /** `[batch · length, (heads + 2 keyValueHeads) · dim]`: the heads' queries, then keys, then values. */
  Rows qkv;
};

/** @param y `[batch · length, heads · dim]`; @param logSums `[batch, heads, length]`, for backward */
void attention(Device&, Stream, const AttentionCall&, Rows y, float* logSums);

/** @param along scratch of the size of `logSums`; @param dQkv laid out as `qkv` */
void attentionGrad(Device&, Stream, const AttentionCall&, Rows y, const float* logSums, Rows dy, float* along, Rows dQkv);

}  // namespace tfjs_lora::cuda
