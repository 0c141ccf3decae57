#include "driver.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <set>
#include <sstream>
#include <stdexcept>
#include <vector>

namespace tfjs_lora::cuda {
namespace {

constexpr int kMultiprocessors = 16, kCapabilityMajor = 75, kCapabilityMinor = 76, kSharedBytes = 97;  // CUdevice_attribute
constexpr int kMaxDynamicSharedBytes = 8;                                              // CUfunction_attribute
constexpr int kProgrammaticStreamSerialization = 6;                                    // CUlaunchAttributeID
constexpr int kHopper = 90;
/** 48 KB, minus some for a kernel's own variables. */
constexpr size_t kSharedBytesByDefault = 40 << 10;

Driver loadDriver() {
  void* library = openLibrary("the NVIDIA driver", {"libcuda.so.1"});
  Driver d;
  const auto set = [&](auto& function, const char* name) { find(function, library, name); };
  set(d.GetErrorString, "cuGetErrorString");
  set(d.StreamGetCtx, "cuStreamGetCtx");
  set(d.CtxPushCurrent, "cuCtxPushCurrent_v2");
  set(d.CtxPopCurrent, "cuCtxPopCurrent_v2");
  set(d.CtxGetDevice, "cuCtxGetDevice");
  set(d.DeviceGetAttribute, "cuDeviceGetAttribute");
  set(d.ModuleLoadData, "cuModuleLoadData");
  set(d.ModuleGetFunction, "cuModuleGetFunction");
  set(d.FuncSetAttribute, "cuFuncSetAttribute");
  set(d.LaunchKernel, "cuLaunchKernel");
  d.LaunchKernelEx = reinterpret_cast<decltype(d.LaunchKernelEx)>(dlsym(library, "cuLaunchKernelEx"));
  set(d.StreamCreate, "cuStreamCreate");
  set(d.StreamSynchronize, "cuStreamSynchronize");
  set(d.StreamWaitEvent, "cuStreamWaitEvent");
  set(d.EventCreate, "cuEventCreate");
  set(d.EventRecord, "cuEventRecord");
  set(d.MemHostAlloc, "cuMemHostAlloc");
  set(d.MemFreeHost, "cuMemFreeHost");
  set(d.MemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2");
  set(d.LaunchCooperativeKernel, "cuLaunchCooperativeKernel");
  set(d.StreamQuery, "cuStreamQuery");
  set(d.MemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2");
  set(d.MemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2");
  return d;
}

int attributeOf(int attribute, int device) {
  int value = 0;
  check(driver().DeviceGetAttribute(&value, attribute, device), "cuDeviceGetAttribute");
  return value;
}

std::string readFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": expected a readable file of the fused ops, got none");
  std::stringstream contents;
  contents << file.rdbuf();
  return contents.str();
}

std::string readKernels(const std::string& folder, const std::string& file, std::set<std::string>& seen) {
  if (!seen.insert(file).second) return "";
  std::stringstream lines(readFile(folder + "/" + file));
  std::string line, whole;
  const std::string include = "#include \"";
  while (std::getline(lines, line)) {
    if (line.rfind(include, 0) == 0) {
      whole += readKernels(folder, line.substr(include.size(), line.rfind('"') - include.size()), seen);
    } else if (line != "#pragma once") {
      whole += line + "\n";
    }
  }
  return whole;
}

/** Hashes with FNV-1a, to name a file of the cache. */
std::string hashOf(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const unsigned char c : text) hash = (hash ^ c) * 0x100000001b3;
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
  return digits;
}

/** Functions of the compiler by their names, without `nvrtc`. */
struct Compiler {
  int (*Version)(int* major, int* minor);
  int (*CreateProgram)(void** program, const char* source, const char* name, int headers, const char* const*,
                       const char* const*);
  int (*CompileProgram)(void* program, int count, const char* const* options);
  int (*GetProgramLogSize)(void* program, size_t*);
  int (*GetProgramLog)(void* program, char*);
  int (*GetCUBINSize)(void* program, size_t*);
  int (*GetCUBIN)(void* program, char*);
  int (*DestroyProgram)(void** program);
};

const Compiler& compiler() {
  static const Compiler loaded = [] {
    void* library = openLibrary("CUDA's run-time compiler", {"libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so"});
    Compiler c;
    const auto set = [&](auto& function, const char* name) { find(function, library, name); };
    set(c.Version, "nvrtcVersion");
    set(c.CreateProgram, "nvrtcCreateProgram");
    set(c.CompileProgram, "nvrtcCompileProgram");
    set(c.GetProgramLogSize, "nvrtcGetProgramLogSize");
    set(c.GetProgramLog, "nvrtcGetProgramLog");
    set(c.GetCUBINSize, "nvrtcGetCUBINSize");
    set(c.GetCUBIN, "nvrtcGetCUBIN");
    set(c.DestroyProgram, "nvrtcDestroyProgram");
    return c;
  }();
  return loaded;
}

}  // namespace

void* openLibrary(const char* what, const std::initializer_list<const char*>& names) {
  for (const char* name : names) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
  }
  throw std::runtime_error(std::string(what) + " (" + *names.begin() + ") is missing");
}

void* symbolOf(void* library, const char* name) {
  if (void* symbol = dlsym(library, name)) return symbol;
  throw std::runtime_error(std::string(name) + " is missing: a newer driver or CUDA library is needed");
}

const Driver& driver() {
  static const Driver loaded = loadDriver();
  return loaded;
}

void check(int status, const char* what) {
  if (status == 0) return;
  const char* words = nullptr;
  driver().GetErrorString(status, &words);
  throw std::runtime_error(std::string(what) + ": " + (words ? words : "unknown error") + " (" +
                           std::to_string(status) + ")");
}

std::string readKernels(const std::string& folder, const std::string& file) {
  std::set<std::string> seen;
  return readKernels(folder, file, seen);
}

std::string compileKernels(const std::string& source, const std::string& name, int capability) {
  const Compiler& c = compiler();
  const auto must = [&](int status, const char* what) {
    if (status != 0) throw std::runtime_error(name + ".cu: " + what + " failed (" + std::to_string(status) + ")");
  };
  void* program = nullptr;
  must(c.CreateProgram(&program, source.c_str(), (name + ".cu").c_str(), 0, nullptr, nullptr), "nvrtcCreateProgram");
  // Code for 9.0a may use all features of such a card, and runs on no other.
  const std::string architecture = "-arch=sm_" + std::to_string(capability) + (capability == 90 ? "a" : "");
  const char* options[] = {architecture.c_str(), "-std=c++17", "-default-device"};
  const int status = c.CompileProgram(program, 3, options);
  if (status != 0) {
    size_t size = 0;
    c.GetProgramLogSize(program, &size);
    std::string log(size, '\0');
    c.GetProgramLog(program, log.data());
    c.DestroyProgram(&program);
    throw std::runtime_error(name + ".cu for " + architecture + ": " + log.substr(0, 2000));
  }
  size_t size = 0;
  must(c.GetCUBINSize(program, &size), "nvrtcGetCUBINSize");
  std::string code(size, '\0');
  must(c.GetCUBIN(program, code.data()), "nvrtcGetCUBIN");
  c.DestroyProgram(&program);
  return code;
}

Kernels::Kernels(std::string folder, std::string cache) : folder_(std::move(folder)), cache_(std::move(cache)) {
  int device = 0;
  check(driver().CtxGetDevice(&device), "cuCtxGetDevice");
  capability_ = 10 * attributeOf(kCapabilityMajor, device) + attributeOf(kCapabilityMinor, device);
  multiprocessors_ = attributeOf(kMultiprocessors, device);
  sharedBytes_ = attributeOf(kSharedBytes, device);
}

void* Kernels::module(const std::string& file) {
  if (const auto known = modules_.find(file); known != modules_.end()) return known->second;
  const std::string source = readKernels(folder_, file + ".cu");
  int major = 0, minor = 0;
  compiler().Version(&major, &minor);
  const std::string version = std::to_string(major) + "." + std::to_string(minor);
  const std::string path =
      cache_ + "/" + file + "-sm" + std::to_string(capability_) + "-" + hashOf(version + source) + ".cubin";
  std::string code;
  if (!cache_.empty()) {
    std::ifstream kept(path, std::ios::binary);
    if (kept) code.assign(std::istreambuf_iterator<char>(kept), {});
  }
  void* loaded = nullptr;
  if (code.empty() || driver().ModuleLoadData(&loaded, code.data()) != 0) {
    code = compileKernels(source, file, capability_);
    check(driver().ModuleLoadData(&loaded, code.data()), file.c_str());
    if (!cache_.empty()) {  // first under another name, because several processes may write it
      const std::string temporary = path + "." + std::to_string(getpid());
      std::ofstream(temporary, std::ios::binary) << code;
      std::rename(temporary.c_str(), path.c_str());
    }
  }
  return modules_[file] = loaded;
}

Function Kernels::function(const std::string& name, size_t sharedBytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Known& known = functions_[name];
  if (!known.function) {
    const size_t colon = name.find(':');
    check(driver().ModuleGetFunction(&known.function, module(name.substr(0, colon)), name.c_str() + colon + 1), name.c_str());
    known.sharedBytes = kSharedBytesByDefault;
  }
  if (sharedBytes > known.sharedBytes) {
    check(driver().FuncSetAttribute(known.function, kMaxDynamicSharedBytes, static_cast<int>(sharedBytes)), name.c_str());
    known.sharedBytes = sharedBytes;
  }
  return known.function;
}

void Kernels::start(Stream stream, Function function, const char* name, Grid grid, int threads, size_t sharedBytes,
                    void** parameters, Start how) {
  if (grid.x * grid.y * grid.z == 0) return;
  const Driver& d = driver();
  const auto size = [](int64_t length) { return static_cast<unsigned>(length); };
  if (how == Start::together) {
    return check(d.LaunchCooperativeKernel(function, size(grid.x), size(grid.y), size(grid.z), size(threads), 1, 1,
                                           size(sharedBytes), stream, parameters),
                 name);
  }
  if (how == Start::ahead && capability_ >= kHopper && d.LaunchKernelEx) {
    LaunchAttribute attribute = {};
    attribute.id = kProgrammaticStreamSerialization;
    attribute.value = 1;
    const LaunchConfiguration configuration = {size(grid.x), size(grid.y), size(grid.z), size(threads), 1, 1,
                                               size(sharedBytes), stream, &attribute, 1};
    return check(d.LaunchKernelEx(&configuration, function, parameters, nullptr), name);
  }
  check(d.LaunchKernel(function, size(grid.x), size(grid.y), size(grid.z), size(threads), 1, 1, size(sharedBytes), stream,
                       parameters, nullptr),
        name);
}

}  // namespace tfjs_lora::cuda
