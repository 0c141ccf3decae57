// Compiled against TensorFlow's own headers, as no other file is. `TF_GetStream` answers for devices from outside only.
#include "stream.h"

#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "xla/stream_executor/stream.h"

namespace tfjs_lora {

void* streamOf(TF_OpKernelContext* context) {
  auto* ofDevice = reinterpret_cast<tensorflow::OpKernelContext*>(context)->op_device_context();
  return ofDevice == nullptr ? nullptr : ofDevice->stream()->platform_specific_handle().stream;
}

}  // namespace tfjs_lora
