// What TensorFlow's C interface does not give away.
#pragma once

struct TF_OpKernelContext;

namespace tfjs_lora {

/** Of TensorFlow's pool on the card, in bytes. */
struct MemoryUse {
  double inUse, peak;
};

/** @param restart begins the peak again, from what is in use */
MemoryUse memoryUseOf(TF_OpKernelContext*, bool restart);

/** The CUDA stream that the ops of a card run on in order, a `CUstream`; null on a processor. */
void* streamOf(TF_OpKernelContext*);

}  // namespace tfjs_lora
