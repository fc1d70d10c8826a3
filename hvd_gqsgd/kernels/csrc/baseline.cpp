// The kernels for every processor of the architecture that the compiler targets.
#include "variants.h"

#define GQSGD_WIDE 4

namespace {
#include "body.inc"
}

const Variant baseline_variant = {block_norms, encode, decode, pack, merge, compensate, expand};
