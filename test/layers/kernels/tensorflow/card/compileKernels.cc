// Compiles every file of kernels for its cards, as the engine does at their first use; needs NVRTC but no card.
//
//   compileKernels FOLDER, of the sources
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <vector>

#include "driver.h"

int main(int, char** arguments) {
  using namespace tfjs_lora::cuda;
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(arguments[1])) {
    if (entry.path().extension() == ".cu") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  int failures = 0;
  for (const std::string& name : names) {
    const bool isForHopper = name.find("Hopper") != std::string::npos;
    for (const int capability : {80, 86, 89, 90}) {
      if (isForHopper && capability != 90) continue;
      try {
        const size_t bytes = compileKernels(readKernels(arguments[1], name + ".cu"), name, capability).size();
        std::printf("%s.cu for %d: %zu bytes\n", name.c_str(), capability, bytes);
      } catch (const std::exception& error) {
        failures++;
        std::printf("FAILED: %s\n", error.what());
      }
    }
  }
  if (names.empty()) std::printf("FAILED: expected kernels in %s, got none\n", arguments[1]);
  return failures > 0 || names.empty();
}
