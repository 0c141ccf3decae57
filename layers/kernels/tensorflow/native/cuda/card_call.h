// A run of an op on a graphics card.
#pragma once
#include "../fused_op.h"
#include "stream.h"

namespace tfjs_lora {

/** Keeps the memory of tensors for as long as this lives. */
class KeptTensors {
 public:
  KeptTensors() = default;
  KeptTensors(const KeptTensors&) = delete;
  ~KeptTensors() {
    for (TF_Tensor* each : tensors_) TF_DeleteTensor(each);
  }

  /** Takes ownership of tensors. */
  void take(std::vector<TF_Tensor*>& tensors) {
    tensors_.insert(tensors_.end(), tensors.begin(), tensors.end());
    tensors.clear();
  }

 private:
  std::vector<TF_Tensor*> tensors_;
};

/** A {@link Call} whose tensors are in the memory of a card. Its computations there may still run when it ends. */
class CardCall : public Call {
 public:
  explicit CardCall(TF_OpKernelContext* context) : Call(context) {}

  ~CardCall() {
    for (TF_Tensor* temporary : temporaries_) TF_DeleteTensor(temporary);
  }

  void* stream() const { return streamOf(context_); }

  MemoryUse memoryUse(bool restart) const { return memoryUseOf(context_, restart); }

  /** Allocates memory on the card for this run; later work on the stream may get it again. */
  void* allocate(size_t bytes) {
    const int64_t words = static_cast<int64_t>((bytes + sizeof(float) - 1) / sizeof(float));
    if (words == 0) return nullptr;
    TF_AllocatorAttributes attributes = {sizeof(TF_AllocatorAttributes), 0};
    TF_Tensor* made = TF_AllocateTemp(context_, kFloat32, &words, 1, &attributes, status_);
    check();  // memory may have run out
    temporaries_.push_back(made);
    return TF_TensorData(made);
  }

  /** Keeps the memory of the inputs and of allocations beyond this call, which must not use them afterwards. */
  void keep(KeptTensors& kept) {
    kept.take(inputs_);
    kept.take(temporaries_);
  }

 private:
  std::vector<TF_Tensor*> temporaries_;
};

}  // namespace tfjs_lora
