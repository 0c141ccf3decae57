// The parts of TensorFlow's C interface, binary compatible from release to release, that the fused ops call. They are
// declared here because not every distribution of the library has its headers.
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

/** Codes of a status; 0 means no error. */
constexpr int kOk = 0, kResourceExhausted = 8;
/** The types of a tensor. */
constexpr int kFloat32 = 1;

TF_Status* TF_NewStatus();
void TF_DeleteStatus(TF_Status*);
void TF_SetStatus(TF_Status*, int code, const char* message);
int TF_GetCode(const TF_Status*);
const char* TF_Message(const TF_Status*);

/**
 * Makes a tensor in the caller's memory, aligned to 64 bytes, which is given back when the tensor is no longer needed.
 */
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
/** Takes ownership of the builder. */
void TF_RegisterOpDefinition(TF_OpDefinitionBuilder*, TF_Status*);

TF_KernelBuilder* TF_NewKernelBuilder(const char* op, const char* device, void* (*make)(TF_OpKernelConstruction*),
                                      void (*compute)(void*, TF_OpKernelContext*), void (*destroy)(void*));
/** Keeps the argument with this name in host memory. */
void TF_KernelBuilder_HostMemory(TF_KernelBuilder*, const char* argument);
/** Takes ownership of the builder. */
void TF_RegisterKernelBuilder(const char* name, TF_KernelBuilder*, TF_Status*);

void TF_OpKernelConstruction_GetAttrFloat(TF_OpKernelConstruction*, const char* name, float*, TF_Status*);
void TF_OpKernelConstruction_GetAttrBool(TF_OpKernelConstruction*, const char* name, unsigned char*, TF_Status*);
/** Returns the length of a list, or −1 for an attribute that is no list. */
void TF_OpKernelConstruction_GetAttrSize(TF_OpKernelConstruction*, const char* name, int32_t* length, int32_t* total,
                                         TF_Status*);
void TF_OpKernelConstruction_GetAttrInt64(TF_OpKernelConstruction*, const char* name, int64_t*, TF_Status*);
void TF_OpKernelConstruction_GetAttrInt64List(TF_OpKernelConstruction*, const char* name, int64_t*, int length,
                                              TF_Status*);
void TF_OpKernelConstruction_GetAttrFloatList(TF_OpKernelConstruction*, const char* name, float*, int length,
                                              TF_Status*);

int TF_NumInputs(TF_OpKernelContext*);
/** Returns a tensor in the memory of the input; the caller must delete it. */
void TF_GetInput(TF_OpKernelContext*, int i, TF_Tensor**, TF_Status*);
/** Returns a tensor that the caller must delete. */
TF_Tensor* TF_AllocateOutput(TF_OpKernelContext*, int i, int type, const int64_t* shape, int rank, size_t bytes,
                             TF_Status*);
/** Allocates memory on the op's device, freed when the tensor is deleted. */
TF_Tensor* TF_AllocateTemp(TF_OpKernelContext*, int type, const int64_t* shape, int rank, TF_AllocatorAttributes*,
                           TF_Status*);
void TF_SetOutput(TF_OpKernelContext*, int i, const TF_Tensor*, TF_Status*);
void TF_OpKernelContext_Failure(TF_OpKernelContext*, TF_Status*);

}  // extern "C"
