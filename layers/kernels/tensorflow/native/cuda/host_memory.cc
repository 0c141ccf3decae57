#include "host_memory.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace tfjs_lora::cuda {
namespace {

constexpr unsigned kNonBlocking = 1;    // CUstream_flags
constexpr unsigned kDisableTiming = 2;  // CUevent_flags
/** Sizes are rounded up to a multiple of this, because batches differ in length from step to step. */
constexpr size_t kStep = 64 << 20;

uint64_t address(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

}  // namespace

void* HostMemory::take(size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Part* best = nullptr;
  for (Part& part : parts_) {
    if (!part.isTaken && part.bytes >= bytes && (!best || part.bytes < best->bytes)) best = &part;
  }
  if (!best) {
    freeSpareParts();  // they are too small
    Part made = {nullptr, (bytes + kStep - 1) / kStep * kStep, false};
    if (driver().MemHostAlloc(&made.memory, made.bytes, 0) != 0) {
      throw std::runtime_error("expected " + std::to_string(made.bytes >> 20) +
                               " MiB of memory that the host can pin for gradientCheckpointing 'offload', got none");
    }
    parts_.push_back(made);
    best = &parts_.back();
  }
  best->isTaken = true;
  return best->memory;
}

void HostMemory::give(void* memory) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Part& part : parts_) part.isTaken = part.isTaken && part.memory != memory;
}

void HostMemory::freeSpare() {
  const std::lock_guard<std::mutex> lock(mutex_);
  freeSpareParts();
}

void HostMemory::freeSpareParts() {
  const auto spare = std::partition(parts_.begin(), parts_.end(), [](const Part& part) { return part.isTaken; });
  if (spare == parts_.end()) return;
  check(driver().StreamSynchronize(copies()), "cuStreamSynchronize");
  for (auto part = spare; part != parts_.end(); ++part) driver().MemFreeHost(part->memory);
  parts_.erase(spare, parts_.end());
}

void HostMemory::store(Stream stream, void* to, const void* from, size_t bytes) {
  order(stream, copies());
  check(driver().MemcpyDtoHAsync(to, address(from), bytes, copies()), "cuMemcpyDtoHAsync");
}

void HostMemory::fetch(Stream stream, void* to, const void* from, size_t bytes) {
  order(stream, copies());
  check(driver().MemcpyHtoDAsync(address(to), from, bytes, copies()), "cuMemcpyHtoDAsync");
}

void HostMemory::wait(Stream stream) { order(copies(), stream); }

Stream HostMemory::copies() {
  if (!copies_) {
    check(driver().EventCreate(&event_, kDisableTiming), "cuEventCreate");
    check(driver().StreamCreate(&copies_, kNonBlocking), "cuStreamCreate");
  }
  return copies_;
}

void HostMemory::order(Stream earlier, Stream later) {
  check(driver().EventRecord(event_, earlier), "cuEventRecord");
  check(driver().StreamWaitEvent(later, event_, 0), "cuStreamWaitEvent");  // waits for the event as it is recorded now
}

}  // namespace tfjs_lora::cuda
