// Memory of the host beside the card's, and copies between the two while kernels run.
#pragma once
#include <cstddef>
#include <mutex>
#include <vector>

#include "driver.h"

namespace tfjs_lora::cuda {

/** Pinned memory, and a stream of its own for copies to and from it. */
class HostMemory {
 public:
  /** Memory until it is given back. @throws std::runtime_error where the host has no more */
  void* take(size_t bytes);
  /** Copies may still run: whoever takes the memory next copies after them. It takes long to get, so it is kept. */
  void give(void* memory);
  /** Frees what nobody has taken, once all copies are done. */
  void freeSpare();

  /** Copies to the host what `stream` has computed so far. */
  void store(Stream stream, void* to, const void* from, size_t bytes);
  /** Copies to the card, where `stream` has done with the memory so far. */
  void fetch(Stream stream, void* to, const void* from, size_t bytes);
  /** What `stream` computes from now on waits for the copies so far. */
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
