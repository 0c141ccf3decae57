// One run of an op on a graphics card.
#pragma once
#include "../fused_op.h"
#include "stream.h"

namespace tfjs_lora {

/** A {@link Call} whose tensors are in the memory of a card. What is computed there may still run when it ends. */
class CardCall : public Call {
 public:
  explicit CardCall(TF_OpKernelContext* context) : Call(context) {}

  ~CardCall() {
    for (TF_Tensor* temporary : temporaries_) TF_DeleteTensor(temporary);
  }

  void* stream() const { return streamOf(context_); }

  MemoryUse memoryUse(bool restart) const { return memoryUseOf(context_, restart); }

  /** Memory of the card for what this run computes: what runs on the stream later may get it again. */
  void* allocate(size_t bytes) {
    const int64_t words = static_cast<int64_t>((bytes + sizeof(float) - 1) / sizeof(float));
    if (words == 0) return nullptr;
    TF_AllocatorAttributes attributes = {sizeof(TF_AllocatorAttributes), 0};
    TF_Tensor* made = TF_AllocateTemp(context_, kFloat32, &words, 1, &attributes, status_);
    check();  // memory may have run out
    temporaries_.push_back(made);
    return TF_TensorData(made);
  }

 private:
  std::vector<TF_Tensor*> temporaries_;
};

}  // namespace tfjs_lora
