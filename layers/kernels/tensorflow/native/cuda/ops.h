// The ops of a graphics card, in addition to those of the CPU (../ops.h).
#pragma once
#include <string>

namespace tfjs_lora {

/** Registers the ops that the CPU has too, after it has declared them. @returns an error message; empty on success */
std::string registerSharedCardOps();

/** Declares and registers the ops that only a card has. @returns an error message; empty on success */
std::string registerCardOps();

/** Sets the folders of the kernels' sources and of compiled kernels; call it before the first op runs. */
void useCardFolders(const std::string& kernels, const std::string& cache);

}  // namespace tfjs_lora
