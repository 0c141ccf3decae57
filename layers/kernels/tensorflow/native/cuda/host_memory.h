// Host memory for the card, and copies between the two while kernels run.
#pragma once
#include <cstddef>
#include <mutex>
#include <vector>

#include "driver.h"

namespace tfjs_lora::cuda {

/** Pinned memory, and a stream of its own for copies to and from it. */
class HostMemory {
 public:
  /** Returns memory, to be given back. @throws std::runtime_error if the host has no more */
  void* take(size_t bytes);
  /**
   * Gives memory back and keeps it, because it takes long to get. Copies may still run; those of its next owner follow
   * them.
   */
  void give(void* memory);
  /** Frees the memory that is not taken, after all copies are done. */
  void freeSpare();

  /** Copies to the host what `stream` has computed so far. */
  void store(Stream stream, void* to, const void* from, size_t bytes);
  /** Copies to the card after `stream` has finished its work on the memory so far. */
  void fetch(Stream stream, void* to, const void* from, size_t bytes);
  /** Makes later work on `stream` wait for the copies so far. */
  void wait(Stream stream);

 private:
  struct Part {
    void* memory;
    size_t bytes;
    bool isTaken;
  };

  Stream copies();
  void order(Stream earlier, Stream later);
  void freeSpareParts();

  std::mutex mutex_;
  std::vector<Part> parts_;
  Stream copies_ = nullptr;
  void* event_ = nullptr;
};

}  // namespace tfjs_lora::cuda
