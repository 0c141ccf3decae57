// The only file compiled against TensorFlow's own headers, because `TF_GetStream` works only for devices from outside.
#include "stream.h"

#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "xla/stream_executor/stream.h"

namespace tfjs_lora {

void* streamOf(TF_OpKernelContext* context) {
  auto* ofDevice = reinterpret_cast<tensorflow::OpKernelContext*>(context)->op_device_context();
  return ofDevice == nullptr ? nullptr : ofDevice->stream()->platform_specific_handle().stream;
}

MemoryUse memoryUseOf(TF_OpKernelContext* context, bool restart) {
  auto* device = reinterpret_cast<tensorflow::OpKernelContext*>(context)->device();
  tensorflow::Allocator* pool = device->GetAllocator(tensorflow::AllocatorAttributes());
  const auto stats = pool->GetStats();
  if (restart) pool->ClearStats();
  if (!stats) return {0, 0};
  return {static_cast<double>(stats->bytes_in_use), static_cast<double>(stats->peak_bytes_in_use)};
}

}  // namespace tfjs_lora
