// What the ways of computing one position at a time have in common.
#pragma once
#include <vector>

#include "engine.h"
#include "kernel_arguments.h"

namespace tfjs_lora::cuda {

/** Where the results of a product go: `[batch, rows of all]` and `[batch, ranks of all]`. */
struct ProductResults {
  float *y, *low;
};

/**
 * Products of one input, as kernels take them, without the input.
 *
 * @param norm of the input; null where it has none
 * @param results gets where each projection's is
 */
Product productOf(const std::vector<const Projection*>&, int batch, ProductResults, const float* norm, float epsilon,
                  std::vector<Result>& results);

/** What attention over the cache of block `i` is given, without `past` and `span`. */
Decode attentionOf(const Stack&, const Caches&, size_t i, const std::vector<Result>& queryKeyValue, float* parts);

}  // namespace tfjs_lora::cuda
