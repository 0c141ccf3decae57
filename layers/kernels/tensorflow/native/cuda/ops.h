// The ops of a graphics card, beside those of the processor (../ops.h).
#pragma once
#include <string>

namespace tfjs_lora {

/** Registers those that the processor has too, after it has declared them. @returns what went wrong; empty if nothing */
std::string registerSharedCardOps();

/** Declares and registers those that only a card has. @returns what went wrong; empty if nothing */
std::string registerCardOps();

/** Where the kernels' sources are, and where they are kept once compiled; before the first op runs. */
void useCardFolders(const std::string& kernels, const std::string& cache);

}  // namespace tfjs_lora
