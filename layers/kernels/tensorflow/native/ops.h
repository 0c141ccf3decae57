// All fused ops. Each function registers the ops of the file with its name, and returns an error message or nothing.
#pragma once
#include <string>

#include "fused_op.h"

namespace tfjs_lora {

std::string registerAdamWUpdates();
std::string registerAttention();
std::string registerDecodeAttention();
std::string registerDequantize();
std::string registerFlat();
std::string registerLowRank();
std::string registerRMSNorm();
std::string registerRotaryEmbedding();
std::string registerSwiGLU();

}  // namespace tfjs_lora
