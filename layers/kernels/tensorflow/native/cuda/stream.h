// What TensorFlow's C interface does not offer.
#pragma once

struct TF_OpKernelContext;

namespace tfjs_lora {

/** Memory of TensorFlow's pool on the card, in bytes. */
struct MemoryUse {
  double inUse, peak;
};

/** @param restart whether to start a new peak from the current use */
MemoryUse memoryUseOf(TF_OpKernelContext*, bool restart);

/** Returns the CUDA stream on which a card's ops run in order, a `CUstream`; null on a CPU. */
void* streamOf(TF_OpKernelContext*);

}  // namespace tfjs_lora
