/* What this package uses of TensorFlow's C API (tensorflow/c/ops.h, kernels.h, tf_tensor.h, tf_status.h).
 *
 * Declared here and looked up in the TensorFlow that the process has loaded: one library serves every TensorFlow that keeps
 * these functions, and building it needs neither TensorFlow's headers nor its C++ ABI.
 */
#ifndef GQSGD_TF_C_API_H
#define GQSGD_TF_C_API_H

#include <stddef.h>
#include <stdint.h>

typedef struct TF_Status TF_Status;
typedef struct TF_Tensor TF_Tensor;
typedef struct TF_OpDefinitionBuilder TF_OpDefinitionBuilder;
typedef struct TF_ShapeInferenceContext TF_ShapeInferenceContext;
typedef struct TF_ShapeHandle TF_ShapeHandle;
typedef struct TF_KernelBuilder TF_KernelBuilder;
typedef struct TF_OpKernelConstruction TF_OpKernelConstruction;
typedef struct TF_OpKernelContext TF_OpKernelContext;

enum { TF_OK = 0, TF_INVALID_ARGUMENT = 3 };
enum { TF_FLOAT = 1, TF_DOUBLE = 2, TF_INT32 = 3 };

/* X(result, name, arguments) */
#define GQSGD_TF_FUNCTIONS(X) \
    X(TF_Status *, TF_NewStatus, (void)) \
    X(void, TF_DeleteStatus, (TF_Status *)) \
    X(int, TF_GetCode, (const TF_Status *)) \
    X(const char *, TF_Message, (const TF_Status *)) \
    X(void, TF_SetStatus, (TF_Status *, int code, const char *message)) \
    X(TF_OpDefinitionBuilder *, TF_NewOpDefinitionBuilder, (const char *name)) \
    X(void, TF_RegisterOpDefinition, (TF_OpDefinitionBuilder *, TF_Status *)) \
    X(void, TF_OpDefinitionBuilderAddAttr, (TF_OpDefinitionBuilder *, const char *)) \
    X(void, TF_OpDefinitionBuilderAddInput, (TF_OpDefinitionBuilder *, const char *)) \
    X(void, TF_OpDefinitionBuilderAddOutput, (TF_OpDefinitionBuilder *, const char *)) \
    X(void, TF_OpDefinitionBuilderSetShapeInferenceFunction, \
      (TF_OpDefinitionBuilder *, void (*)(TF_ShapeInferenceContext *, TF_Status *))) \
    X(TF_ShapeHandle *, TF_NewShapeHandle, (void)) \
    X(void, TF_DeleteShapeHandle, (TF_ShapeHandle *)) \
    X(void, TF_ShapeInferenceContextGetInput, (TF_ShapeInferenceContext *, int, TF_ShapeHandle *, TF_Status *)) \
    X(void, TF_ShapeInferenceContextSetOutput, (TF_ShapeInferenceContext *, int, TF_ShapeHandle *, TF_Status *)) \
    X(void, TF_ShapeInferenceContextSetUnknownShape, (TF_ShapeInferenceContext *, TF_Status *)) \
    X(TF_KernelBuilder *, TF_NewKernelBuilder, \
      (const char *op, const char *device, void *(*create)(TF_OpKernelConstruction *), \
       void (*compute)(void *, TF_OpKernelContext *), void (*destroy)(void *))) \
    X(void, TF_RegisterKernelBuilder, (const char *, TF_KernelBuilder *, TF_Status *)) \
    X(void, TF_OpKernelConstruction_Failure, (TF_OpKernelConstruction *, TF_Status *)) \
    X(void, TF_OpKernelConstruction_GetAttrSize, \
      (TF_OpKernelConstruction *, const char *, int32_t *list_size, int32_t *total_size, TF_Status *)) \
    X(void, TF_OpKernelConstruction_GetAttrInt64, (TF_OpKernelConstruction *, const char *, int64_t *, TF_Status *)) \
    X(void, TF_OpKernelConstruction_GetAttrInt64List, \
      (TF_OpKernelConstruction *, const char *, int64_t *, int count, TF_Status *)) \
    X(void, TF_OpKernelConstruction_GetAttrString, \
      (TF_OpKernelConstruction *, const char *, char *, size_t, TF_Status *)) \
    X(void, TF_OpKernelContext_Failure, (TF_OpKernelContext *, TF_Status *)) \
    X(void, TF_GetInput, (TF_OpKernelContext *, int, TF_Tensor **, TF_Status *)) \
    X(void, TF_SetOutput, (TF_OpKernelContext *, int, const TF_Tensor *, TF_Status *)) \
    X(TF_Tensor *, TF_AllocateOutput, \
      (TF_OpKernelContext *, int, int dtype, const int64_t *dims, int rank, size_t bytes, TF_Status *)) \
    X(TF_Tensor *, TF_ForwardInputOrAllocateOutput, \
      (TF_OpKernelContext *, const int *inputs, int count, int output, const int64_t *dims, int rank, int *forwarded, \
       TF_Status *)) \
    X(void, TF_DeleteTensor, (TF_Tensor *)) \
    X(void *, TF_TensorData, (const TF_Tensor *)) \
    X(size_t, TF_TensorByteSize, (const TF_Tensor *)) \
    X(int64_t, TF_TensorElementCount, (const TF_Tensor *)) \
    X(int, TF_TensorType, (const TF_Tensor *)) \
    X(int, TF_NumDims, (const TF_Tensor *)) \
    X(int64_t, TF_Dim, (const TF_Tensor *, int))

#endif
