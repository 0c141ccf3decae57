// What the fused ops call of TensorFlow's C interface, which keeps its binary form from release to release. Declared here since
// not every distribution of the library has headers for it.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

struct TF_KernelBuilder;
struct TF_OpDefinitionBuilder;
struct TF_OpKernelConstruction;
struct TF_OpKernelContext;
struct TF_ShapeInferenceContext;
struct TF_Status;
struct TF_Tensor;

struct TF_AllocatorAttributes {
  size_t bytes;
  unsigned char isOnHost;
};

/** Of the codes of a status, 0 for none wrong. */
constexpr int kOk = 0, kResourceExhausted = 8;
/** Of the types of a tensor. */
constexpr int kFloat32 = 1;

TF_Status* TF_NewStatus();
void TF_DeleteStatus(TF_Status*);
void TF_SetStatus(TF_Status*, int code, const char* message);
int TF_GetCode(const TF_Status*);
const char* TF_Message(const TF_Status*);

/** A tensor in the caller's memory, aligned to 64 bytes, which is given back when nobody needs the tensor any more. */
TF_Tensor* TF_NewTensor(int type, const int64_t* shape, int rank, void* memory, size_t bytes,
                        void (*giveBack)(void* memory, size_t bytes, void* owner), void* owner);
void* TF_TensorData(const TF_Tensor*);
int64_t TF_TensorElementCount(const TF_Tensor*);
int TF_NumDims(const TF_Tensor*);
int64_t TF_Dim(const TF_Tensor*, int axis);
void TF_DeleteTensor(TF_Tensor*);

TF_OpDefinitionBuilder* TF_NewOpDefinitionBuilder(const char* name);
void TF_OpDefinitionBuilderAddInput(TF_OpDefinitionBuilder*, const char* declaration);
void TF_OpDefinitionBuilderAddOutput(TF_OpDefinitionBuilder*, const char* declaration);
void TF_OpDefinitionBuilderAddAttr(TF_OpDefinitionBuilder*, const char* declaration);
void TF_OpDefinitionBuilderSetShapeInferenceFunction(TF_OpDefinitionBuilder*,
                                                     void (*infer)(TF_ShapeInferenceContext*, TF_Status*));
void TF_ShapeInferenceContextSetUnknownShape(TF_ShapeInferenceContext*, TF_Status*);
/** Takes the builder over. */
void TF_RegisterOpDefinition(TF_OpDefinitionBuilder*, TF_Status*);

TF_KernelBuilder* TF_NewKernelBuilder(const char* op, const char* device, void* (*make)(TF_OpKernelConstruction*),
                                      void (*compute)(void*, TF_OpKernelContext*), void (*destroy)(void*));
/** The argument of that name stays in the processor's memory. */
void TF_KernelBuilder_HostMemory(TF_KernelBuilder*, const char* argument);
/** Takes the builder over. */
void TF_RegisterKernelBuilder(const char* name, TF_KernelBuilder*, TF_Status*);

void TF_OpKernelConstruction_GetAttrFloat(TF_OpKernelConstruction*, const char* name, float*, TF_Status*);
void TF_OpKernelConstruction_GetAttrBool(TF_OpKernelConstruction*, const char* name, unsigned char*, TF_Status*);
/** Length of a list, or −1 of what is none. */
void TF_OpKernelConstruction_GetAttrSize(TF_OpKernelConstruction*, const char* name, int32_t* length, int32_t* total,
                                         TF_Status*);
void TF_OpKernelConstruction_GetAttrInt64List(TF_OpKernelConstruction*, const char* name, int64_t*, int length,
                                              TF_Status*);
void TF_OpKernelConstruction_GetAttrFloatList(TF_OpKernelConstruction*, const char* name, float*, int length,
                                              TF_Status*);

int TF_NumInputs(TF_OpKernelContext*);
/** Gives a tensor that is the caller's to delete, in the memory of the input. */
void TF_GetInput(TF_OpKernelContext*, int i, TF_Tensor**, TF_Status*);
/** As {@link TF_GetInput}. */
TF_Tensor* TF_AllocateOutput(TF_OpKernelContext*, int i, int type, const int64_t* shape, int rank, size_t bytes,
                             TF_Status*);
/** Memory of the op's device, free again when the tensor is deleted. */
TF_Tensor* TF_AllocateTemp(TF_OpKernelContext*, int type, const int64_t* shape, int rank, TF_AllocatorAttributes*,
                           TF_Status*);
void TF_SetOutput(TF_OpKernelContext*, int i, const TF_Tensor*, TF_Status*);
void TF_OpKernelContext_Failure(TF_OpKernelContext*, TF_Status*);

}  // extern "C"
