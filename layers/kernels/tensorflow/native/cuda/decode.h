// What both ways of computing one position at a time share.
#pragma once
#include <vector>

#include "engine.h"
#include "kernel_arguments.h"

namespace tfjs_lora::cuda {

/** The memory for a product's results: `[batch, rows of all]` and `[batch, ranks of all]`. */
struct ProductResults {
  float *y, *low;
};

/**
 * Returns the products of one input, as kernels take them, without the input.
 *
 * @param norm norm of the input; null if it has none
 * @param results gets the place of each projection's result
 */
Product productOf(const std::vector<const Projection*>&, int batch, ProductResults, const float* norm, float epsilon,
                  std::vector<Result>& results);

/** Returns the arguments of attention over the cache of block `i`, without `past` and `span`. */
Decode attentionOf(const Stack&, const Caches&, size_t i, const std::vector<Result>& queryKeyValue, float* parts);

}  // namespace tfjs_lora::cuda
