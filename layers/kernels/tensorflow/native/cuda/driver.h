// The parts of CUDA's driver and of its run-time compiler that the engine calls. Both are opened when they are first
// needed, because the machine that compiles this needs neither headers nor a toolkit.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>

namespace tfjs_lora::cuda {

using Stream = void*;
using Function = void*;

/** CUlaunchAttribute and CUlaunchConfig, whose layouts are part of the interface. */
struct LaunchAttribute {
  int id;
  char unused[4];
  union {
    char bytes[64];
    int value;
  };
};
struct LaunchConfiguration {
  unsigned gridX, gridY, gridZ, blockX, blockY, blockZ, sharedBytes;
  Stream stream;
  LaunchAttribute* attributes;
  unsigned attributeCount;
};

/** Functions of `libcuda.so.1` by their names, without `cu`. */
struct Driver {
  int (*GetErrorString)(int, const char**);
  int (*StreamGetCtx)(Stream, void** context);
  int (*CtxPushCurrent)(void*);
  int (*CtxPopCurrent)(void**);
  int (*CtxGetDevice)(int*);
  int (*DeviceGetAttribute)(int*, int attribute, int device);
  int (*ModuleLoadData)(void** module, const void* image);
  int (*ModuleGetFunction)(Function*, void* module, const char* name);
  int (*FuncSetAttribute)(Function, int attribute, int value);
  int (*LaunchKernel)(Function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX, unsigned blockY,
                      unsigned blockZ, unsigned sharedBytes, Stream, void** parameters, void** extra);
  /** Null if the driver is older. */
  int (*LaunchKernelEx)(const LaunchConfiguration*, Function, void** parameters, void** extra);
  int (*StreamCreate)(Stream*, unsigned flags);
  int (*StreamSynchronize)(Stream);
  int (*StreamWaitEvent)(Stream, void* event, unsigned flags);
  int (*EventCreate)(void** event, unsigned flags);
  int (*EventRecord)(void* event, Stream);
  int (*MemHostAlloc)(void** memory, size_t bytes, unsigned flags);
  int (*MemFreeHost)(void* memory);
  int (*MemcpyDtoHAsync)(void* to, uint64_t from, size_t bytes, Stream);
  int (*LaunchCooperativeKernel)(Function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX, unsigned blockY,
                                 unsigned blockZ, unsigned sharedBytes, Stream, void** parameters);
  int (*StreamQuery)(Stream);
  int (*MemcpyHtoDAsync)(uint64_t to, const void* from, size_t bytes, Stream);
  int (*MemcpyDtoDAsync)(uint64_t to, uint64_t from, size_t bytes, Stream);
};

/** @throws std::runtime_error if there is no driver */
const Driver& driver();

/** @throws std::runtime_error with the driver's message unless `status` is 0 */
void check(int status, const char* what);

/** Opens the first of `names` that exists. @throws std::runtime_error that names `what` */
void* openLibrary(const char* what, const std::initializer_list<const char*>& names);
/** @throws std::runtime_error if `library` lacks `name` */
void* symbolOf(void* library, const char* name);

/** Sets `function` to the one with this name. */
template <class Function>
void find(Function& function, void* library, const std::string& name) {
  function = reinterpret_cast<Function>(symbolOf(library, name.c_str()));
}

/** Makes the context of a stream the thread's current one for as long as this lives. */
class InContextOf {
 public:
  explicit InContextOf(Stream stream) {
    void* context = nullptr;
    check(driver().StreamGetCtx(stream, &context), "cuStreamGetCtx");
    check(driver().CtxPushCurrent(context), "cuCtxPushCurrent");
  }
  ~InContextOf() {
    void* context = nullptr;
    driver().CtxPopCurrent(&context);
  }
  InContextOf(const InContextOf&) = delete;
};

/** Number of blocks of threads along each axis. */
struct Grid {
  int64_t x = 1, y = 1, z = 1;
};

/** The kernels of one card; each file of them is compiled at its first use. */
class Kernels {
 public:
  /**
   * Makes the kernels of the card of the thread's context.
   *
   * @param folder folder with `*.cu` and the `*.cuh` they include
   * @param cache folder for compiled kernels; empty for none
   */
  Kernels(std::string folder, std::string cache);

  /** Compute capability: 90 for 9.0. */
  int capability() const { return capability_; }
  int multiprocessors() const { return multiprocessors_; }
  /** The most shared memory of a block of threads, in bytes. */
  size_t sharedBytes() const { return sharedBytes_; }

  /**
   * Starts a kernel.
   *
   * @param name `<file>:<kernel>`, the kernel `extern "C"`
   * @param sharedBytes dynamic shared memory
   * @param arguments exactly as the kernel declares them
   */
  template <class... Arguments>
  void launch(Stream stream, const char* name, Grid grid, int threads, size_t sharedBytes, Arguments... arguments) {
    void* parameters[] = {&arguments...};
    start(stream, function(name, sharedBytes), name, grid, threads, sharedBytes, parameters, Start::inTurn);
  }

  /** {@link launch} of a kernel that may begin before the one before it has ended, and waits for that one itself. */
  template <class... Arguments>
  void launchAhead(Stream stream, const char* name, Grid grid, int threads, size_t sharedBytes, Arguments... arguments) {
    void* parameters[] = {&arguments...};
    start(stream, function(name, sharedBytes), name, grid, threads, sharedBytes, parameters, Start::ahead);
  }

  /**
   * {@link launch} of a kernel whose blocks wait for each other: all of them run at the same time, or the start fails.
   */
  template <class... Arguments>
  void launchTogether(Stream stream, const char* name, Grid grid, int threads, size_t sharedBytes, Arguments... arguments) {
    void* parameters[] = {&arguments...};
    start(stream, function(name, sharedBytes), name, grid, threads, sharedBytes, parameters, Start::together);
  }

 private:
  enum class Start { inTurn, ahead, together };
  struct Known {
    Function function;
    size_t sharedBytes;
  };

  Function function(const std::string& name, size_t sharedBytes);
  void* module(const std::string& file);
  void start(Stream, Function, const char* name, Grid, int threads, size_t sharedBytes, void** parameters, Start);

  const std::string folder_, cache_;
  int capability_ = 0, multiprocessors_ = 0;
  size_t sharedBytes_ = 0;
  std::mutex mutex_;
  std::map<std::string, void*> modules_;
  std::unordered_map<std::string, Known> functions_;
};

/** Returns machine code for a compute capability. @throws std::runtime_error with the compiler's first words */
std::string compileKernels(const std::string& source, const std::string& name, int capability);

/** Returns the source of a file of kernels, with the included files in place of their names. */
std::string readKernels(const std::string& folder, const std::string& file);

}  // namespace tfjs_lora::cuda
