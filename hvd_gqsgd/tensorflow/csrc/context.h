// TensorFlow's C API as C++: the functions found in the process, one computation of an operator, its attributes.
#ifndef GQSGD_TF_CONTEXT_H
#define GQSGD_TF_CONTEXT_H

#include "tf_c_api.h"

#include <dlfcn.h>

#include <string>
#include <vector>

namespace {

struct TensorFlow {
#define FIELD(result, name, arguments) result(*name) arguments = nullptr;
    GQSGD_TF_FUNCTIONS(FIELD)
#undef FIELD
} tf;

// Why the operators can't be registered; empty if they can.
std::string failure = "not loaded";

bool find_tensorflow() {
    // By its name and not by a path: the one that this process has loaded already, or none.
    void *library = dlopen("libtensorflow_framework.so.2", RTLD_LAZY | RTLD_NOLOAD);
    if (!library) {
        failure = "libtensorflow_framework.so.2 is not loaded";
        return false;
    }
    failure.clear();
    const auto find = [&](const char *name) {
        void *found = dlsym(library, name);
        if (!found) failure = std::string("this TensorFlow has no ") + name;
        return found;
    };
#define FIND(result, name, arguments) tf.name = (result(*) arguments)find(#name);
    GQSGD_TF_FUNCTIONS(FIND)
#undef FIND
    return failure.empty();
}

struct Status {
    TF_Status *raw = tf.TF_NewStatus();
    ~Status() { tf.TF_DeleteStatus(raw); }
    bool ok() const { return tf.TF_GetCode(raw) == TF_OK; }
};

// An operator in the middle of a computation; after the first failure everything else does nothing.
class Call {
    TF_OpKernelContext *context_;
    Status status_;
    std::vector<TF_Tensor *> tensors_;

public:
    explicit Call(TF_OpKernelContext *context) : context_(context) {}
    ~Call() {
        if (!status_.ok()) tf.TF_OpKernelContext_Failure(context_, status_.raw);
        for (TF_Tensor *tensor : tensors_) tf.TF_DeleteTensor(tensor);
    }
    Call(const Call &) = delete;

    bool ok() const { return status_.ok(); }

    void fail(const std::string &message) {
        if (ok()) tf.TF_SetStatus(status_.raw, TF_INVALID_ARGUMENT, message.c_str());
    }

    TF_Tensor *input(int index) {
        TF_Tensor *tensor = nullptr;
        if (ok()) tf.TF_GetInput(context_, index, &tensor, status_.raw);
        if (tensor) tensors_.push_back(tensor);
        return tensor;
    }

    // The elements of an input that must have ``numel`` of them.
    template <class T> const T *data(int index, int64_t numel) {
        TF_Tensor *tensor = input(index);
        if (!tensor) return nullptr;
        if (tf.TF_TensorElementCount(tensor) != numel)
            fail(
                "hvd_gqsgd: input " + std::to_string(index) + ": expected " + std::to_string(numel) +
                " elements, got " + std::to_string(tf.TF_TensorElementCount(tensor)));
        return ok() ? (const T *)tf.TF_TensorData(tensor) : nullptr;
    }

    template <class T> T scalar(int index) {
        const T *value = data<T>(index, 1);
        return value ? *value : T();
    }

    // A float or double of one element.
    double real(int index) {
        TF_Tensor *tensor = input(index);
        return tensor && tf.TF_TensorType(tensor) == TF_DOUBLE ? scalar<double>(index) : scalar<float>(index);
    }

    // A fresh vector for output ``index``, of a type of four bytes.
    void *vector(int index, int dtype, int64_t numel) {
        if (!ok()) return nullptr;
        TF_Tensor *tensor = tf.TF_AllocateOutput(context_, index, dtype, &numel, 1, (size_t)numel * 4, status_.raw);
        return keep(tensor);
    }

    // An output like input 0, in that input's own memory where nobody else needs it any more.
    void *like_input(const std::vector<int64_t> &dims, bool *in_place) {
        if (!ok()) return nullptr;
        const int candidate = 0;
        int forwarded = -1;
        TF_Tensor *tensor = tf.TF_ForwardInputOrAllocateOutput(
            context_, &candidate, 1, 0, dims.data(), (int)dims.size(), &forwarded, status_.raw);
        *in_place = forwarded == 0;
        return keep(tensor);
    }

    void pass_on(TF_Tensor *tensor) {
        if (ok()) tf.TF_SetOutput(context_, 0, tensor, status_.raw);
    }

    // The shape of input 0, without holding the tensor: who holds it can't write into it.
    std::vector<int64_t> dims() {
        std::vector<int64_t> dims;
        TF_Tensor *tensor = nullptr;
        if (ok()) tf.TF_GetInput(context_, 0, &tensor, status_.raw);
        if (!tensor) return dims;
        for (int d = 0; d < tf.TF_NumDims(tensor); d++) dims.push_back(tf.TF_Dim(tensor, d));
        tf.TF_DeleteTensor(tensor);
        return dims;
    }

private:
    void *keep(TF_Tensor *tensor) {
        if (!tensor || !ok()) return nullptr;
        tensors_.push_back(tensor);
        return tf.TF_TensorData(tensor);
    }
};

// Attributes, read when a graph's kernel is made.
class Attributes {
    TF_OpKernelConstruction *construction_;
    Status status_;

public:
    explicit Attributes(TF_OpKernelConstruction *construction) : construction_(construction) {}
    ~Attributes() {
        if (!status_.ok()) tf.TF_OpKernelConstruction_Failure(construction_, status_.raw);
    }

    int64_t integer(const char *name) {
        int64_t value = 0;
        if (status_.ok()) tf.TF_OpKernelConstruction_GetAttrInt64(construction_, name, &value, status_.raw);
        return value;
    }

    std::vector<int64_t> integers(const char *name) {
        std::vector<int64_t> values(size_of(name, true));
        if (status_.ok() && !values.empty())
            tf.TF_OpKernelConstruction_GetAttrInt64List(
                construction_, name, values.data(), (int)values.size(), status_.raw);
        return values;
    }

    std::string text(const char *name) {
        std::vector<char> value(size_of(name, false) + 1);
        if (status_.ok())
            tf.TF_OpKernelConstruction_GetAttrString(construction_, name, value.data(), value.size() - 1, status_.raw);
        return value.data();
    }

private:
    size_t size_of(const char *name, bool list) {
        int32_t count = 0, total = 0;
        if (status_.ok()) tf.TF_OpKernelConstruction_GetAttrSize(construction_, name, &count, &total, status_.raw);
        const int32_t size = list ? count : total;
        return status_.ok() && size > 0 ? (size_t)size : 0;
    }
};

}  // namespace

#endif
