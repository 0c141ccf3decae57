// The one thing that TensorFlow's C interface does not give away.
#pragma once

struct TF_OpKernelContext;

namespace tfjs_lora {

/** The CUDA stream that the ops of a card run on in order, a `CUstream`; null on a processor. */
void* streamOf(TF_OpKernelContext*);

}  // namespace tfjs_lora
