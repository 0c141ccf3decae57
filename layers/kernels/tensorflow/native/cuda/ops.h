// The ops of a graphics card, beside those of the processor (../ops.h), some of which they share the names of.
#pragma once
#include <string>

namespace tfjs_lora {

/** Registers them, after those of the processor. @returns what went wrong; empty if nothing */
std::string registerCardOps();

/** Where the kernels' sources are, and where they are kept once compiled; before the first op runs. */
void useCardFolders(const std::string& kernels, const std::string& cache);

}  // namespace tfjs_lora
