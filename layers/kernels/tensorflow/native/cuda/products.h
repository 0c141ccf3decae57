// Matrix products by cuBLASLt: bfloat16 operands, float32 sums.
#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>

#include "driver.h"

namespace tfjs_lora::cuda {

/** A row-major matrix on the card; rows begin `stride` elements apart. */
struct View {
  const void* data;
  int64_t stride;
};

/** The number type of a product's result. */
enum class Output { bfloat16, float32 };

class Products {
 public:
  /** Size of the memory that cuBLASLt may use in addition to the operands. */
  static constexpr size_t kWorkspaceBytes = 32 << 20;

  Products();

  /**
   * Computes `out = left · right + factor · added` where `left` is `[m, k]` and `right` `[k, n]`, each stored as its
   * transpose if its flag is set.
   *
   * @param added in the number type of `out`, which it may be; read unless `factor` is 0
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
