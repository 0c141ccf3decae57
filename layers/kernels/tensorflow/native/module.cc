// A Node addon: loading it registers the ops with the TensorFlow in the process.
#include <node_api.h>

#include "ops.h"
#ifdef TFJS_LORA_CARD
#include "cuda/ops.h"
#endif

namespace {

/** Whether the processor has the instructions this is compiled for; see FLAGS in src/tools/setup/buildFusedOps.ts. */
bool hasInstructions() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

std::string registerAll() {
  if (!hasInstructions()) return "this processor has no AVX2";
  for (auto* registered :
       {tfjs_lora::registerAdamWUpdates, tfjs_lora::registerAttention, tfjs_lora::registerDecodeAttention,
        tfjs_lora::registerDequantize, tfjs_lora::registerFlat, tfjs_lora::registerLowRank,
        tfjs_lora::registerRMSNorm, tfjs_lora::registerRotaryEmbedding, tfjs_lora::registerSwiGLU
#ifdef TFJS_LORA_CARD
        ,
        tfjs_lora::registerSharedCardOps, tfjs_lora::registerCardOps
#endif
       }) {
    const std::string message = registered();
    if (!message.empty()) return message;
  }
  return "";
}

#ifdef TFJS_LORA_CARD
std::string textOf(napi_env env, napi_value value) {
  size_t length = 0;
  napi_get_value_string_utf8(env, value, nullptr, 0, &length);
  std::string text(length + 1, '\0');  // with the terminator, which the next call writes
  napi_get_value_string_utf8(env, value, text.data(), text.size(), &length);
  text.resize(length);
  return text;
}

/** `useCardFolders(kernels: string, cache: string): void` */
napi_value useCardFolders(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value arguments[2];
  napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
  tfjs_lora::useCardFolders(textOf(env, arguments[0]), textOf(env, arguments[1]));
  return nullptr;
}
#endif

}  // namespace

extern "C" NAPI_MODULE_EXPORT napi_value napi_register_module_v1(napi_env env, napi_value exports) {
  static const std::string failure = registerAll();
  if (!failure.empty()) napi_throw_error(env, nullptr, failure.c_str());
#ifdef TFJS_LORA_CARD
  napi_value function;
  napi_create_function(env, "useCardFolders", NAPI_AUTO_LENGTH, useCardFolders, nullptr, &function);
  napi_set_named_property(env, exports, "useCardFolders", function);
#endif
  return exports;
}
