// Compiles one file of kernels for a compute capability, as the engine does at their first use; needs NVRTC but no card.
//
//   compileKernels FILE.cu 80
//
// 80 and 90 are enough, because the code for 8.6 and 8.9 is that for 8.0: the files may test `__CUDA_ARCH__ >= 900` only.
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>

#include "driver.h"

int main(int, char** arguments) {
  using namespace tfjs_lora::cuda;
  const std::filesystem::path file = arguments[1];
  const int capability = std::stoi(arguments[2]);
  const std::string name = file.stem().string();
  if (name.find("Hopper") != std::string::npos && capability != 90) return 0;
  try {
    const std::string source = readKernels(file.parent_path(), file.filename());
    const std::string condition = "__CUDA_ARCH__";
    for (size_t at = 0; (at = source.find(condition, at)) != std::string::npos; at += condition.size())
      if (source.compare(at + condition.size(), 7, " >= 900") != 0)
        throw std::runtime_error(name + ".cu: expected only __CUDA_ARCH__ >= 900. Compile it for more capabilities here.");
    std::printf("%s.cu for %d: %zu bytes\n", name.c_str(), capability, compileKernels(source, name, capability).size());
    return 0;
  } catch (const std::exception& error) {
    std::printf("FAILED: %s\n", error.what());
    return 1;
  }
}
