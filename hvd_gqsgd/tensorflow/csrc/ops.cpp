// The kernels as TensorFlow operators, on the CPU: block norms, encode, decode, and two that only order and verify.
//
// TensorFlow's side of it goes through its C API (context.h), ours through the function pointers of the compiled
// kernels, so that both frameworks run the same machine code. Nothing here knows Horovod: the collectives between these
// operators are Horovod's own. What users may get wrong was refused in Python; what is checked here is that tensors have
// the sizes that the graph was built for.
#include "parts.h"

#include <string.h>

#include <atomic>
#include <string>
#include <vector>

namespace {

// What gqsgd_tf_bind got.
struct Kernels {
    decltype(&gqsgd_block_norms) block_norms = nullptr;
    decltype(&gqsgd_encode) encode = nullptr;
    decltype(&gqsgd_decode) decode = nullptr;
    int isa = GQSGD_BASELINE;
} kernels;

std::atomic<int64_t> sent_bytes{0}, dense_bytes{0};
const int64_t STEPS = 1 << 24;  // CHECK_RANGE of schemes.base: what a float32 holds exactly

struct BlockNorms {
    static constexpr const char *NAME = "HvdGqsgdBlockNorms";
    Parts parts;
    int64_t residual_count, numel, header[2];

    explicit BlockNorms(Attributes a)
        : parts(a), residual_count(a.integer("residual_count")), numel(a.integer("norms_numel")),
          header{a.integer("header0"), a.integer("header1")} {}

    void compute(Call &call) {
        const std::vector<uint64_t> addresses = parts.addresses(call);
        const std::vector<uint64_t> residuals = parts.residuals(call, parts.count(), residual_count);
        const int64_t step = call.scalar<int64_t>((int)(parts.count() + residual_count) + 1);
        const gqsgd_codec codec = parts.in();
        float *norms = (float *)call.vector(0, TF_FLOAT, numel);
        if (!call.ok()) return;
        norms[0] = (float)header[0];
        norms[1] = (float)header[1];
        norms[2] = (float)(step % STEPS);
        kernels.block_norms(
            &codec, parts.segments.data(), addresses.data(), or_null(residuals), parts.count(), norms, parts.threads,
            kernels.isa);
        dense_bytes += parts.bytes();
        sent_bytes += numel * 4;
    }
};

struct Encode {
    static constexpr const char *NAME = "HvdGqsgdEncode";
    Parts parts;
    int64_t residual_count, norms_numel, words_numel;

    explicit Encode(Attributes a)
        : parts(a), residual_count(a.integer("residual_count")), norms_numel(a.integer("norms_numel")),
          words_numel(a.integer("words_numel")) {}

    void compute(Call &call) {
        const int after = (int)(parts.count() + residual_count);
        const std::vector<uint64_t> addresses = parts.addresses(call);
        std::vector<uint64_t> residuals = parts.residuals(call, parts.count(), residual_count);
        const float *norms = call.data<float>(after, norms_numel);
        // The largest step of all ranks, after Max.
        const int64_t step = norms ? (int64_t)norms[2] : 0;
        const gqsgd_codec codec = parts.in(call.scalar<int32_t>(after + 2), step, call.scalar<int32_t>(after + 1));
        check_levels(call, parts, codec.size);
        int32_t *words = (int32_t *)call.vector(0, TF_INT32, words_numel);
        for (int64_t index = 0; index < residual_count && call.ok(); index++) {
            const int64_t numel = parts.segments[index].numel;
            void *rest = call.vector((int)index + 1, TF_FLOAT, numel);
            if (rest && numel) memcpy(rest, (const void *)residuals[index], (size_t)numel * 4);
            residuals[index] = (uint64_t)rest;
        }
        if (!call.ok()) return;
        words[0] = 1;
        kernels.encode(
            &codec, parts.segments.data(), addresses.data(), or_null(residuals), parts.count(), norms, words,
            parts.threads, kernels.isa);
        sent_bytes += words_numel * 4;
    }
};

// One part of one tensor. A tensor in several parts goes through several of these, one after the other.
struct Decode {
    static constexpr const char *NAME = "HvdGqsgdDecode";
    Parts parts;
    int64_t norms_numel, words_numel, first;

    explicit Decode(Attributes a)
        : parts(a), norms_numel(a.integer("norms_numel")),
          words_numel(a.integer("words_numel")), first(a.integer("first")) {}

    void compute(Call &call) {
        const int32_t *words = call.data<int32_t>(1, words_numel);
        const float *norms = call.data<float>(2, norms_numel);
        const gqsgd_codec codec = parts.in(call.scalar<int32_t>(3));
        const double scale = call.real(4);
        check_levels(call, parts, codec.size);
        const std::vector<int64_t> dims = call.dims();
        bool in_place = false;
        void *out = call.like_input(dims, &in_place);
        int64_t numel = 1;
        for (int64_t dim : dims) numel *= dim;
        if (!call.ok()) return;
        if (!in_place && !first) {
            // The parts before this one are in the input.
            TF_Tensor *input = call.input(0);
            if (!call.ok()) return;
            memcpy(out, tf.TF_TensorData(input), tf.TF_TensorByteSize(input));
        }
        const uint64_t address = parts.address(call, 0, out, numel);
        // The header counts the ranks whose words are in the sum: fewer than the world's after hvd.join.
        if (words[0] <= 0) call.fail("hvd_gqsgd: the sum of the words counts no rank");
        if (!call.ok()) return;
        kernels.decode(
            &codec, parts.segments.data(), &address, 1, scale / words[0], words, norms, parts.threads, kernels.isa);
    }
};

// Passes norms on if every rank wrote the same check into their header (schemes.base.Bucket.read_header).
struct Verify {
    static constexpr const char *NAME = "HvdGqsgdVerify";
    int64_t range;
    std::string message;

    explicit Verify(Attributes a) : range(a.integer("range")), message(a.text("message")) {}

    void compute(Call &call) {
        TF_Tensor *norms = call.input(0);
        if (!norms) return;
        const float *header = (const float *)tf.TF_TensorData(norms);
        if (tf.TF_TensorElementCount(norms) < 3 || (double)header[0] != (double)range - (double)header[1])
            call.fail(message);
        call.pass_on(norms);
    }
};

// Passes its first input on once the second is there, and counts what is about to be sent. ``place`` is there to tell
// operators of equal inputs apart: Grappler would make one of them, and of the collectives behind them.
struct After {
    static constexpr const char *NAME = "HvdGqsgdAfter";
    int64_t sent, dense;

    explicit After(Attributes a) : sent(a.integer("sent_bytes")), dense(a.integer("dense_bytes")) {}

    void compute(Call &call) {
        TF_Tensor *value = call.input(0);
        if (!value) return;
        call.pass_on(value);
        sent_bytes += sent;
        dense_bytes += dense;
    }
};

template <class Op> void *create(TF_OpKernelConstruction *construction) { return new Op(Attributes(construction)); }
template <class Op> void destroy(void *op) { delete (Op *)op; }
template <class Op> void compute(void *op, TF_OpKernelContext *context) {
    Call call(context);
    ((Op *)op)->compute(call);
}

void shape_unknown(TF_ShapeInferenceContext *context, TF_Status *status) {
    tf.TF_ShapeInferenceContextSetUnknownShape(context, status);
}

void shape_of_input(TF_ShapeInferenceContext *context, TF_Status *status) {
    TF_ShapeHandle *shape = tf.TF_NewShapeHandle();
    tf.TF_ShapeInferenceContextGetInput(context, 0, shape, status);
    if (tf.TF_GetCode(status) == TF_OK) tf.TF_ShapeInferenceContextSetOutput(context, 0, shape, status);
    tf.TF_DeleteShapeHandle(shape);
}

using Lines = std::vector<const char *>;

template <class Op>
void define(
    const Lines &attributes, const Lines &inputs, const Lines &outputs,
    void (*shape)(TF_ShapeInferenceContext *, TF_Status *)) {
    if (!failure.empty()) return;
    const Status status;
    TF_OpDefinitionBuilder *op = tf.TF_NewOpDefinitionBuilder(Op::NAME);
    for (const char *line : attributes) tf.TF_OpDefinitionBuilderAddAttr(op, line);
    for (const char *line : inputs) tf.TF_OpDefinitionBuilderAddInput(op, line);
    for (const char *line : outputs) tf.TF_OpDefinitionBuilderAddOutput(op, line);
    tf.TF_OpDefinitionBuilderSetShapeInferenceFunction(op, shape);
    tf.TF_RegisterOpDefinition(op, status.raw);
    if (status.ok())
        tf.TF_RegisterKernelBuilder(
            Op::NAME, tf.TF_NewKernelBuilder(Op::NAME, "CPU", create<Op>, compute<Op>, destroy<Op>), status.raw);
    if (!status.ok()) failure = std::string(Op::NAME) + ": " + tf.TF_Message(status.raw);
}

// While TensorFlow loads this library it listens for operators that register themselves.
void register_all() {
    if (!find_tensorflow()) return;
#define PARTS                                                                                                         \
    "segments: list(int)", "starts: list(int)", "block_size: int", "rotated: int", "dither: int", "seed: int",          \
        "threads: int"
#define FLOATS "{float, half, bfloat16, double}"
    define<BlockNorms>(
        {"T: list(" FLOATS ") >= 0", PARTS, "residual_count: int >= 0", "norms_numel: int", "header0: int",
         "header1: int"},
        {"tensors: T", "residuals: residual_count * float", "gate: float", "step: int64"}, {"norms: float"},
        shape_unknown);
    define<Encode>(
        {"T: list(" FLOATS ") >= 0", PARTS, "residual_count: int >= 0", "norms_numel: int", "words_numel: int"},
        {"tensors: T", "residuals: residual_count * float", "norms: float", "rank: int32", "size: int32"},
        {"words: int32", "rests: residual_count * float"}, shape_unknown);
    define<Decode>(
        {"T: " FLOATS, "S: {float, double}", PARTS, "norms_numel: int", "words_numel: int", "first: int"},
        {"like: T", "words: int32", "norms: float", "size: int32", "scale: S"}, {"out: T"},
        shape_of_input);
    define<Verify>({"range: int", "message: string"}, {"norms: float"}, {"verified: float"}, shape_of_input);
    define<After>(
        {"T: type", "sent_bytes: int", "dense_bytes: int", "place: int"}, {"value: T", "gate: float"}, {"out: T"},
        shape_of_input);
#undef PARTS
#undef FLOATS
}

// Below everything that it uses: statics of a file are made in their order.
const struct Registration {
    Registration() { register_all(); }
} registration;

}  // namespace

extern "C" {

// The interface of the kernels that the operators were built to call.
GQSGD_API int gqsgd_tf_abi(void) { return GQSGD_ABI; }

// Why the operators are not registered; empty if they are.
GQSGD_API const char *gqsgd_tf_failure(void) { return failure.c_str(); }

// The compiled kernels to use from now on.
GQSGD_API void gqsgd_tf_bind(void *block_norms, void *encode, void *decode, int isa) {
    kernels = {
        (decltype(&gqsgd_block_norms))block_norms, (decltype(&gqsgd_encode))encode, (decltype(&gqsgd_decode))decode,
        isa};
}

// Payload bytes handed to Horovod since the last reset, and what the same tensors are in their own dtypes.
GQSGD_API void gqsgd_tf_traffic(int64_t *sent, int64_t *dense) {
    *sent = sent_bytes;
    *dense = dense_bytes;
}

GQSGD_API void gqsgd_tf_add_traffic(int64_t sent, int64_t dense) {
    sent_bytes += sent;
    dense_bytes += dense;
}

GQSGD_API void gqsgd_tf_reset_traffic(void) { sent_bytes = dense_bytes = 0; }
}
