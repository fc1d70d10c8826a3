// The tensors of a bucket as an operator gets them: attributes that stay, addresses that come with each run.
#ifndef GQSGD_TF_PARTS_H
#define GQSGD_TF_PARTS_H

#include "../../kernels/csrc/kernels.h"
#include "context.h"

#include <string.h>

#include <string>
#include <vector>

namespace {

const size_t ITEM_BYTES[] = {4, 2, 2, 8};  // by gqsgd_segment.dtype

// The parts of tensors that an operator works on: rows of layout.SEGMENT, where each part begins in its tensor, and the
// codec without what only a run knows.
struct Parts {
    std::vector<gqsgd_segment> segments;
    std::vector<int64_t> starts;
    gqsgd_codec codec = {};
    int threads;

    explicit Parts(Attributes &attributes) {
        const std::vector<int64_t> rows = attributes.integers("segments");
        static_assert(sizeof(gqsgd_segment) == 6 * sizeof(int64_t), "a row of layout.SEGMENT");
        segments.resize(rows.size() / 6);
        if (!segments.empty()) memcpy(segments.data(), rows.data(), segments.size() * sizeof(gqsgd_segment));
        starts = attributes.integers("starts");
        codec.block_size = attributes.integer("block_size");
        codec.rotated = attributes.integer("rotated");
        codec.dither = attributes.integer("dither");
        codec.seed = (uint64_t)attributes.integer("seed");
        threads = (int)attributes.integer("threads");
    }

    int64_t count() const { return (int64_t)segments.size(); }

    int64_t bytes() const {
        int64_t total = 0;
        for (const gqsgd_segment &segment : segments) total += segment.numel * (int64_t)ITEM_BYTES[segment.dtype];
        return total;
    }

    // Address of part ``index`` in a tensor of ``numel`` elements at ``data``.
    uint64_t address(Call &call, int64_t index, const void *data, int64_t numel) const {
        const gqsgd_segment &segment = segments[index];
        if (starts[index] + segment.numel > numel)
            call.fail(
                "hvd_gqsgd: a tensor changed its shape: expected at least " +
                std::to_string(starts[index] + segment.numel) + " elements, got " + std::to_string(numel));
        return (uint64_t)data + (uint64_t)starts[index] * ITEM_BYTES[segment.dtype];
    }

    // The codec of a run; norms and decode need neither step nor rank, norms no size.
    gqsgd_codec in(int32_t size = 1, int64_t step = 0, int32_t rank = 0) const {
        gqsgd_codec own = codec;
        own.step = (uint64_t)step;
        own.size = own.summands = (uint64_t)size;
        own.rank = (uint64_t)rank;
        return own;
    }

    std::vector<uint64_t> addresses(Call &call) const {
        std::vector<uint64_t> found(segments.size());
        for (int64_t index = 0; index < count() && call.ok(); index++) {
            TF_Tensor *tensor = call.input((int)index);
            if (tensor)
                found[index] = address(call, index, tf.TF_TensorData(tensor), tf.TF_TensorElementCount(tensor));
        }
        return found;
    }

    // Of the residuals, one for each part or none at all, which are inputs from ``first`` on.
    std::vector<uint64_t> residuals(Call &call, int64_t first, int64_t number) const {
        std::vector<uint64_t> found((size_t)number);
        for (int64_t index = 0; index < number && call.ok(); index++)
            found[index] = (uint64_t)call.data<float>((int)(first + index), segments[index].numel);
        return found;
    }
};

const uint64_t *or_null(const std::vector<uint64_t> &addresses) {
    return addresses.empty() ? nullptr : addresses.data();
}

// Elastic runs learn their size when the graph runs: a lane must have a level for it.
void check_levels(Call &call, const Parts &parts, uint64_t size) {
    for (const gqsgd_segment &segment : parts.segments)
        if (size < 1 || (((uint64_t)1 << (segment.bits - 1)) - 1) / size < 1)
            return call.fail(
                "GlobalQSGD(bits=" + std::to_string(segment.bits) + "): expected at most " +
                std::to_string(((uint64_t)1 << (segment.bits - 1)) - 1) + " ranks, got " + std::to_string(size) +
                "; write more bits");
}

}  // namespace

#endif
