// A Node addon without functions: loading it registers the ops with the TensorFlow in the process.
#include <node_api.h>

#include "ops.h"

namespace {

/** What it is compiled for; see FLAGS in src/setup/buildFusedOps.ts. */
bool hasInstructions() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

}  // namespace

extern "C" NAPI_MODULE_EXPORT napi_value napi_register_module_v1(napi_env env, napi_value exports) {
  static const std::string failure = [] {
    if (!hasInstructions()) return std::string("this processor has no AVX2");
    for (auto* registered :
         {tfjs_lora::registerAdamWUpdates, tfjs_lora::registerAttention, tfjs_lora::registerDecodeAttention,
          tfjs_lora::registerDequantize, tfjs_lora::registerLowRank, tfjs_lora::registerRMSNorm,
          tfjs_lora::registerRotaryEmbedding, tfjs_lora::registerSwiGLU}) {
      const std::string message = registered();
      if (!message.empty()) return message;
    }
    return std::string();
  }();
  if (!failure.empty()) napi_throw_error(env, nullptr, failure.c_str());
  return exports;
}
