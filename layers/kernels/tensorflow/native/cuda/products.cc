#include "products.h"

#include <stdexcept>
#include <string>

namespace tfjs_lora::cuda {
namespace {

constexpr int kBFloat16 = 14, kFloat32 = 0;   // cudaDataType
constexpr int kComputeFloat32 = 68;           // cublasComputeType_t
constexpr int kTransposeA = 3, kTransposeB = 4;  // cublasLtMatmulDescAttributes_t
constexpr int kMaxWorkspaceBytes = 1;         // cublasLtMatmulPreferenceAttributes_t
constexpr int kMinAlignments[] = {5, 6, 7, 8};
constexpr uint32_t kAlignment = 16;  // of the operands, because parts of matrices begin at any vector
constexpr int32_t kNo = 0, kYes = 1;          // cublasOperation_t

/** cublasLtMatmulAlgo_t and cublasLtMatmulHeuristicResult_t, whose sizes are part of the interface. */
struct Algorithm {
  uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  size_t workspaceBytes;
  int state;
  float waves;
  int reserved[4];
};

/** Functions of cuBLASLt by their names, without `cublasLt`. */
struct CublasLt {
  int (*Create)(void** handle);
  int (*MatmulDescCreate)(void**, int compute, int scaleType);
  int (*MatmulDescSetAttribute)(void*, int attribute, const void*, size_t);
  int (*MatrixLayoutCreate)(void**, int type, uint64_t rows, uint64_t cols, int64_t stride);
  int (*MatmulPreferenceCreate)(void**);
  int (*MatmulPreferenceSetAttribute)(void*, int attribute, const void*, size_t);
  int (*MatmulPreferenceDestroy)(void*);
  int (*MatmulAlgoGetHeuristic)(void* handle, void* operation, void* a, void* b, void* c, void* d, void* preference,
                                int wanted, Heuristic*, int* found);
  int (*Matmul)(void* handle, void* operation, const void* alpha, const void* a, void* aLayout, const void* b,
                void* bLayout, const void* beta, const void* c, void* cLayout, void* d, void* dLayout, const Algorithm*,
                void* workspace, size_t workspaceBytes, Stream);
};

const CublasLt& cublasLt() {
  static const CublasLt loaded = [] {
    void* library = openLibrary("cuBLASLt", {"libcublasLt.so.12", "libcublasLt.so.13", "libcublasLt.so"});
    CublasLt c;
    const auto set = [&](auto& function, const char* name) { find(function, library, std::string("cublasLt") + name); };
    set(c.Create, "Create");
    set(c.MatmulDescCreate, "MatmulDescCreate");
    set(c.MatmulDescSetAttribute, "MatmulDescSetAttribute");
    set(c.MatrixLayoutCreate, "MatrixLayoutCreate");
    set(c.MatmulPreferenceCreate, "MatmulPreferenceCreate");
    set(c.MatmulPreferenceSetAttribute, "MatmulPreferenceSetAttribute");
    set(c.MatmulPreferenceDestroy, "MatmulPreferenceDestroy");
    set(c.MatmulAlgoGetHeuristic, "MatmulAlgoGetHeuristic");
    set(c.Matmul, "Matmul");
    return c;
  }();
  return loaded;
}

void must(int status, const char* what) {
  if (status != 0) throw std::runtime_error(std::string(what) + ": cuBLASLt status " + std::to_string(status));
}

}  // namespace

struct Products::Plan {
  void *operation, *a, *b, *c, *d;
  Algorithm algorithm;
};

Products::Products() { must(cublasLt().Create(&handle_), "cublasLtCreate"); }

Products::Plan& Products::plan(const Key& key, const Call& call) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (const auto known = plans_.find(key); known != plans_.end()) return *known->second;
  const CublasLt& lt = cublasLt();
  // cuBLASLt stores columns, so it sees each matrix as its transpose and computes outᵀ = rightᵀ · leftᵀ.
  auto* plan = new Plan;
  const int type = call.output == Output::float32 ? kFloat32 : kBFloat16;
  must(lt.MatmulDescCreate(&plan->operation, kComputeFloat32, kFloat32), "cublasLtMatmulDescCreate");
  const int32_t a = call.rightTransposed ? kYes : kNo, b = call.leftTransposed ? kYes : kNo;
  must(lt.MatmulDescSetAttribute(plan->operation, kTransposeA, &a, sizeof a), "transpose");
  must(lt.MatmulDescSetAttribute(plan->operation, kTransposeB, &b, sizeof b), "transpose");
  const auto layout = [&](void** to, int type, int64_t rows, int64_t cols, int64_t stride) {
    must(lt.MatrixLayoutCreate(to, type, cols, rows, stride), "cublasLtMatrixLayoutCreate");
  };
  const auto [leftRows, leftCols] =
      call.leftTransposed ? std::pair(call.k, call.m) : std::pair(call.m, call.k);
  const auto [rightRows, rightCols] =
      call.rightTransposed ? std::pair(call.n, call.k) : std::pair(call.k, call.n);
  layout(&plan->a, kBFloat16, rightRows, rightCols, call.right.stride);
  layout(&plan->b, kBFloat16, leftRows, leftCols, call.left.stride);
  layout(&plan->c, type, call.m, call.n, call.factor == 0 ? call.outStride : call.added.stride);
  layout(&plan->d, type, call.m, call.n, call.outStride);
  void* preference = nullptr;
  must(lt.MatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const size_t bytes = kWorkspaceBytes;
  must(lt.MatmulPreferenceSetAttribute(preference, kMaxWorkspaceBytes, &bytes, sizeof bytes), "workspace");
  for (const int each : kMinAlignments) {
    must(lt.MatmulPreferenceSetAttribute(preference, each, &kAlignment, sizeof kAlignment), "alignment");
  }
  Heuristic best;
  int found = 0;
  const int status = lt.MatmulAlgoGetHeuristic(handle_, plan->operation, plan->a, plan->b, plan->c, plan->d, preference, 1,
                                               &best, &found);
  lt.MatmulPreferenceDestroy(preference);
  if (status != 0 || found == 0) {
    throw std::runtime_error("cuBLASLt has no product of [" + std::to_string(call.m) + ", " + std::to_string(call.k) +
                             "] and [" + std::to_string(call.k) + ", " + std::to_string(call.n) + "]");
  }
  plan->algorithm = best.algorithm;
  return *(plans_[key] = plan);
}

void Products::run(Stream stream, void* workspace, const Call& call) {
  if (call.m == 0 || call.n == 0) return;
  const int flags = (call.leftTransposed ? 1 : 0) | (call.rightTransposed ? 2 : 0) |
                    (call.output == Output::float32 ? 4 : 0) | (call.factor != 0 ? 8 : 0);
  const Key key{call.m, call.n, call.k, call.left.stride, call.right.stride, call.outStride, call.added.stride, flags};
  const Plan& ready = plan(key, call);
  const float one = 1;
  const void* added = call.factor == 0 ? call.out : call.added.data;
  must(cublasLt().Matmul(handle_, ready.operation, &one, call.right.data, ready.a, call.left.data, ready.b, &call.factor,
                         added, ready.c, call.out, ready.d, &ready.algorithm, workspace, kWorkspaceBytes, stream),
       "cublasLtMatmul");
}

}  // namespace tfjs_lora::cuda
