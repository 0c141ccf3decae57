// Matrix products by cuBLASLt: bfloat16 operands, float32 sums.
#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>

#include "driver.h"

namespace tfjs_lora::cuda {

/** A row-major matrix in the card's memory; rows begin `stride` elements apart. */
struct View {
  const void* data;
  int64_t stride;
};

/** The numbers that a product gives. */
enum class Output { bfloat16, float32 };

class Products {
 public:
  /** What cuBLASLt may use beside the operands. */
  static constexpr size_t kWorkspaceBytes = 32 << 20;

  Products();

  /**
   * `out = left · right + factor · added` where `left` is `[m, k]` and `right` `[k, n]`, each stored as its transpose
   * where the flag says so.
   *
   * @param added of the numbers of `out`, which it may be; read where `factor` is not 0
   */
  struct Call {
    int64_t m, n, k;
    View left;
    bool leftTransposed;
    View right;
    bool rightTransposed;
    Output output;
    void* out;
    int64_t outStride;
    float factor = 0;
    View added = {nullptr, 0};
  };
  void run(Stream, void* workspace, const Call&);

 private:
  struct Plan;
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int>;
  Plan& plan(const Key&, const Call&);

  void* handle_ = nullptr;
  std::mutex mutex_;
  std::map<Key, Plan*> plans_;
};

}  // namespace tfjs_lora::cuda
