// A custom op for TensorFlow through its C interface: `executeOp` of tfjs-node runs it by name.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "tensorflow_c.h"

namespace tfjs_lora {

/** The attributes that an op is made with. */
class Attributes {
 public:
  explicit Attributes(TF_OpKernelConstruction* construction) : construction_(construction) {}

  float number(const char* name) const {
    float value = 0;
    TF_OpKernelConstruction_GetAttrFloat(construction_, name, &value, status_);
    return value;
  }

  bool flag(const char* name) const {
    unsigned char value = 0;
    TF_OpKernelConstruction_GetAttrBool(construction_, name, &value, status_);
    return value != 0;
  }

  int64_t integer(const char* name) const {
    int64_t value = 0;
    TF_OpKernelConstruction_GetAttrInt64(construction_, name, &value, status_);
    return value;
  }

  std::vector<int64_t> integers(const char* name) const {
    std::vector<int64_t> values(length(name));
    TF_OpKernelConstruction_GetAttrInt64List(construction_, name, values.data(), static_cast<int>(values.size()),
                                             status_);
    return values;
  }

  std::vector<float> numbers(const char* name) const {
    std::vector<float> values(length(name));
    TF_OpKernelConstruction_GetAttrFloatList(construction_, name, values.data(), static_cast<int>(values.size()),
                                             status_);
    return values;
  }

  ~Attributes() { TF_DeleteStatus(status_); }

 private:
  size_t length(const char* name) const {
    int32_t length = 0, total = 0;
    TF_OpKernelConstruction_GetAttrSize(construction_, name, &length, &total, status_);
    return length < 0 ? 0 : length;
  }

  TF_OpKernelConstruction* construction_;
  TF_Status* status_ = TF_NewStatus();
};

/** Reads shapes from an attribute, which has the rank of each before its dimensions. */
inline std::vector<std::vector<int64_t>> shapesIn(const std::vector<int64_t>& numbers) {
  std::vector<std::vector<int64_t>> shapes;
  for (size_t at = 0; at < numbers.size(); at += 1 + numbers[at]) {
    const auto first = numbers.begin() + at + 1;
    shapes.emplace_back(first, first + numbers[at]);
  }
  return shapes;
}

inline int64_t sizeOf(const std::vector<int64_t>& shape) {
  int64_t size = 1;
  for (int64_t length : shape) size *= length;
  return size;
}

/** A run of an op: its inputs, and the outputs it makes. */
class Call {
 public:
  explicit Call(TF_OpKernelContext* context) : context_(context), inputs_(TF_NumInputs(context)) {
    for (size_t i = 0; i < inputs_.size(); i++) {
      TF_GetInput(context, static_cast<int>(i), &inputs_[i], status_);
      check();
    }
  }
  Call(const Call&) = delete;

  ~Call() {
    for (TF_Tensor* input : inputs_) TF_DeleteTensor(input);
    for (TF_Tensor* output : outputs_) TF_DeleteTensor(output);
    TF_DeleteStatus(status_);
  }

  int inputCount() const { return static_cast<int>(inputs_.size()); }

  /** Memory of an input; only a cache that the op takes over may be written to. */
  template <class T = float>
  T* input(int i) const {
    return static_cast<T*>(TF_TensorData(inputs_[i]));
  }

  int64_t size(int i) const { return TF_TensorElementCount(inputs_[i]); }

  int rank(int i) const { return TF_NumDims(inputs_[i]); }

  /** Length of an axis; a negative one counts from the end. */
  int64_t dim(int i, int axis) const { return TF_Dim(inputs_[i], axis < 0 ? axis + rank(i) : axis); }

  std::vector<int64_t> shape(int i) const {
    std::vector<int64_t> dims(rank(i));
    for (int axis = 0; axis < rank(i); axis++) dims[axis] = dim(i, axis);
    return dims;
  }

  /** Allocates float32 output `i`. */
  float* output(int i, const std::vector<int64_t>& shape) {
    const size_t bytes = sizeOf(shape) * sizeof(float);
    TF_Tensor* made =
        TF_AllocateOutput(context_, i, kFloat32, shape.data(), static_cast<int>(shape.size()), bytes, status_);
    check();  // memory may have run out
    outputs_.push_back(made);
    return static_cast<float*>(TF_TensorData(made));
  }

  /**
   * Makes the caller's memory float32 output `i`, with `size` numbers. In the end `giveBack` gets the memory and
   * `owner`.
   */
  void give(int i, int64_t size, void* memory, void (*giveBack)(void* memory, size_t bytes, void* owner), void* owner) {
    outputs_.push_back(TF_NewTensor(kFloat32, &size, 1, memory, size * sizeof(float), giveBack, owner));
    TF_SetOutput(context_, i, outputs_.back(), status_);
    check();
  }

  /** Makes an input output `i`, in the same memory. */
  void pass(int input, int i) {
    TF_SetOutput(context_, i, inputs_[input], status_);
    check();
  }

 protected:
  void check() const {
    if (TF_GetCode(status_) != kOk) throw std::runtime_error(TF_Message(status_));
  }

  TF_OpKernelContext* context_;
  TF_Status* status_ = TF_NewStatus();
  std::vector<TF_Tensor*> inputs_;

 private:
  std::vector<TF_Tensor*> outputs_;
};

/** The declaration of an op in the words of TensorFlow's op registry: `"x: float"`, `"scale: float"`. */
struct Signature {
  const char* name;
  std::vector<const char*> inputs, outputs, attributes;
};

/** Makes the running op throw in JavaScript. */
inline void fail(TF_OpKernelContext* context, const char* message) {
  TF_Status* status = TF_NewStatus();
  TF_SetStatus(status, kResourceExhausted, message);
  TF_OpKernelContext_Failure(context, status);
  TF_DeleteStatus(status);
}

/** Declares an op, which then has no kernel. @returns an error message; empty on success */
inline std::string declareOp(const Signature& signature) {
  TF_Status* status = TF_NewStatus();
  TF_OpDefinitionBuilder* definition = TF_NewOpDefinitionBuilder(signature.name);
  for (const char* input : signature.inputs) TF_OpDefinitionBuilderAddInput(definition, input);
  for (const char* output : signature.outputs) TF_OpDefinitionBuilderAddOutput(definition, output);
  for (const char* attribute : signature.attributes) TF_OpDefinitionBuilderAddAttr(definition, attribute);
  TF_OpDefinitionBuilderSetShapeInferenceFunction(definition, &TF_ShapeInferenceContextSetUnknownShape);
  TF_RegisterOpDefinition(definition, status);
  const std::string failure = TF_GetCode(status) == kOk ? "" : TF_Message(status);
  TF_DeleteStatus(status);
  return failure;
}

/**
 * Registers `Op`, a class made from {@link Attributes} with a method `run(OneCall&)`, as a declared op's kernel.
 *
 * @param device `CPU`, where `OneCall` is {@link Call}, or `GPU`
 * @param onHost inputs and outputs that are in host memory even for a card
 * @returns an error message; empty on success
 */
template <class Op, class OneCall>
std::string registerKernel(const char* name, const char* device, const std::vector<const char*>& onHost = {}) {
  TF_Status* status = TF_NewStatus();
  TF_KernelBuilder* kernel = TF_NewKernelBuilder(
      name, device, [](TF_OpKernelConstruction* construction) -> void* { return new Op(Attributes(construction)); },
      [](void* op, TF_OpKernelContext* context) {
        try {
          OneCall call(context);
          static_cast<Op*>(op)->run(call);
        } catch (const std::exception& error) {
          fail(context, error.what());
        }
      },
      [](void* op) { delete static_cast<Op*>(op); });
  for (const char* argument : onHost) TF_KernelBuilder_HostMemory(kernel, argument);
  TF_RegisterKernelBuilder(name, kernel, status);
  const std::string failure = TF_GetCode(status) == kOk ? "" : TF_Message(status);
  TF_DeleteStatus(status);
  return failure;
}

/** Declares `Op` and registers it for the CPU. @returns an error message; empty on success */
template <class Op>
std::string registerOp(const Signature& signature) {
  const std::string failure = declareOp(signature);
  return failure.empty() ? registerKernel<Op, Call>(signature.name, "CPU") : failure;
}

}  // namespace tfjs_lora
