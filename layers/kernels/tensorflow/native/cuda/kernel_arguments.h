// What the kernels of kernels/ are given by value.
#pragma once

namespace tfjs_lora::cuda {
#include "kernels/arguments.h"
}  // namespace tfjs_lora::cuda
