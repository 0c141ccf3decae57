#include "device.h"

#include <memory>
#include <stdexcept>

namespace tfjs_lora::cuda {
namespace {

/** The engine needs bfloat16 in the tensor cores, and copies that threads do not wait for. */
constexpr int kLeastCapability = 80;

}  // namespace

volatile uint32_t* Answers::next() {
  constexpr unsigned kPortableAndMapped = 3;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!memory_) {
    void* made = nullptr;
    check(driver().MemHostAlloc(&made, kCount * kSize * sizeof(uint32_t), kPortableAndMapped), "cuMemHostAlloc");
    memory_ = static_cast<uint32_t*>(made);
  }
  volatile uint32_t* place = memory_ + kSize * at_;
  at_ = (at_ + 1) % kCount;
  for (int i = 0; i < kSize; i++) place[i] = kNone;
  return place;
}

Device& deviceOf(Stream stream, const std::string& kernels, const std::string& cache) {
  static std::mutex mutex;
  static auto& devices = *new std::map<void*, std::unique_ptr<Device>>;  // tensors in host memory may outlive this library
  void* context = nullptr;
  check(driver().StreamGetCtx(stream, &context), "cuStreamGetCtx");
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<Device>& device = devices[context];
  if (!device) {
    const InContextOf inContext(stream);
    auto opened = std::make_unique<Device>(kernels, cache);
    const int capability = opened->kernels.capability();
    if (capability < kLeastCapability) {
      throw std::runtime_error("compute capability " + std::to_string(capability / 10) + "." +
                               std::to_string(capability % 10) + " is below 8.0");
    }
    device = std::move(opened);
  }
  return *device;
}

void unpackWeight(Device& device, Stream stream, const Matrix& m, Rows to) {
  constexpr int kThreads = 256;
  Kernels& kernels = device.kernels;
  const int64_t size = m.rows * m.cols;
  const Grid eights = gridFor(size / 8, kThreads);
  switch (m.kind) {
    case Matrix::bfloat16:
      kernels.launch(stream, "weights:fromBFloat16", eights, kThreads, 0, m.data, to.data, to.stride, m.rows, m.cols);
      break;
    case Matrix::float16:
      kernels.launch(stream, "weights:fromFloat16", eights, kThreads, 0, m.data, to.data, to.stride, m.rows, m.cols);
      break;
    case Matrix::float32:
      kernels.launch(stream, "weights:fromFloat32", eights, kThreads, 0, m.data, to.data, to.stride, m.rows, m.cols);
      break;
    case Matrix::int8:
      kernels.launch(stream, "weights:fromInt8", eights, kThreads, 0, m.data, m.scales, to.data, to.stride, m.rows, m.cols);
      break;
    case Matrix::nf4:
    case Matrix::fp4: {
      const bool isNested = m.nestedBlockSize > 0;
      const uint8_t* codes = isNested ? m.absmaxCodes : nullptr;
      kernels.launch(stream, "weights:fromFourBit", gridFor(size / 16, kThreads), kThreads, 0, m.data,
                     isNested ? m.nestedAbsmax : m.absmax, codes, m.map, m.offset, m.blockSize, m.nestedBlockSize,
                     static_cast<int>(m.kind == Matrix::fp4), to.data, to.stride, m.rows, m.cols);
      break;
    }
  }
}

}  // namespace tfjs_lora::cuda
