// Compiles one file of kernels for its cards, as the engine does at their first use; needs NVRTC but no card.
//
//   compileKernels FILE.cu
#include <cstdio>
#include <filesystem>
#include <stdexcept>

#include "driver.h"

int main(int, char** arguments) {
  using namespace tfjs_lora::cuda;
  const std::filesystem::path file = arguments[1];
  const std::string name = file.stem().string();
  const bool isForHopper = name.find("Hopper") != std::string::npos;
  bool isFailed = false;
  for (const int capability : {80, 86, 89, 90}) {
    if (isForHopper && capability != 90) continue;
    try {
      const size_t bytes = compileKernels(readKernels(file.parent_path(), file.filename()), name, capability).size();
      std::printf("%s.cu for %d: %zu bytes\n", name.c_str(), capability, bytes);
    } catch (const std::exception& error) {
      isFailed = true;
      std::printf("FAILED: %s\n", error.what());
    }
  }
  return isFailed;
}
