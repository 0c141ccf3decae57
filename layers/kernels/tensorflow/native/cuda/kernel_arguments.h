// The arguments that the kernels in kernels/ take by value.
#pragma once

namespace tfjs_lora::cuda {
#include "kernels/arguments.h"
}  // namespace tfjs_lora::cuda
