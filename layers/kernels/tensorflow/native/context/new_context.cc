// Two functions that take the place of others in the addon of tfjs-node, which is compiled with
// -DTFE_NewContext=tfjs_lora_new_context -Dnapi_define_properties=tfjs_lora_define_properties. With the first, the addon's
// context joins a cluster before it lists its devices, if TFJS_LORA_SERVER_DEF holds a serialized tensorflow.ServerDef in
// hex; TFJS_LORA_CLUSTER then says "joined" or what failed. Its server listens on the address in TFJS_LORA_LISTEN. With the
// second, the addon has two more functions, which watch the other ranks of the cluster and the time of a reduction.
#undef TFE_NewContext
#undef napi_define_properties
#include <node_api.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "listen_on.h"

extern "C" {
struct TFE_Context;
struct TFE_ContextOptions;
struct TF_Status;

TF_Status* TF_NewStatus();
void TF_DeleteStatus(TF_Status*);
int TF_GetCode(const TF_Status*);
const char* TF_Message(const TF_Status*);
void TF_SetStatus(TF_Status*, int code, const char* message);
TFE_Context* TFE_NewContext(const TFE_ContextOptions*, TF_Status*);
// Experimental functions, which a build of the library may lack.
__attribute__((weak)) void TFE_EnableCollectiveOps(TFE_Context*, const void* serverDef, size_t bytes, TF_Status*);
__attribute__((weak)) void TFE_AbortCollectiveOps(TFE_Context*, TF_Status*);
__attribute__((weak)) void TFE_CollectiveOpsCheckPeerHealth(TFE_Context*, const char* task, int64_t milliseconds,
                                                            TF_Status*);
}

namespace {

constexpr int kDeadlineExceeded = 4, kUnavailable = 14;
/** A rank that leaves this many checks in a row unanswered is lost. */
constexpr int kMostMissed = 2;

std::string bytesOf(const char* hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < strlen(hex); i += 2)
    bytes.push_back(static_cast<char>(strtol(std::string(hex + i, 2).c_str(), nullptr, 16)));
  return bytes;
}

/** Ends all reductions of the process with an error. */
void abortReductions(TFE_Context* context, int code, const std::string& message) {
  TF_Status* status = TF_NewStatus();
  TF_SetStatus(status, code, message.c_str());
  TFE_AbortCollectiveOps(context, status);
  TF_DeleteStatus(status);
}

/**
 * Aborts a reduction that takes too long. The op's own attribute for that returns to the caller while another thread still
 * computes on the caller's stack, which crashes the process.
 */
class Deadline {
 public:
  explicit Deadline(TFE_Context* context) : thread_([=] { run(context); }) {}

  ~Deadline() {
    set(0, true);
    thread_.join();
  }

  /** @param seconds from now; 0 for none */
  void set(double seconds, bool ends = false) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      const auto length = std::chrono::duration<double>(seconds);
      at_ = seconds > 0 ? Clock::now() + std::chrono::duration_cast<Clock::duration>(length) : Clock::time_point();
      ends_ = ends;
    }
    wake_.notify_all();
  }

 private:
  using Clock = std::chrono::steady_clock;

  void run(TFE_Context* context) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!ends_) {
      if (at_ == Clock::time_point()) {
        wake_.wait(lock);
      } else if (Clock::now() < at_) {
        wake_.wait_until(lock, at_);
      } else {
        at_ = Clock::time_point();
        lock.unlock();
        abortReductions(context, kDeadlineExceeded, "the reduction timed out");
        lock.lock();
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  Clock::time_point at_;
  bool ends_ = false;
  std::thread thread_;
};

/** Asks the other ranks in turn whether they answer, until the process ends. */
class Watch {
 public:
  Watch(TFE_Context* context, int size, int own, int milliseconds)
      : thread_([=] { run(context, size, own, milliseconds); }) {}

  ~Watch() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ends_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

 private:
  void run(TFE_Context* context, int size, int own, int milliseconds) {
    std::vector<int> missed(size, 0);
    while (sleep(milliseconds)) {
      for (int rank = 0; rank < size; rank++) {
        if (rank == own) continue;
        TF_Status* status = TF_NewStatus();
        const std::string task = "/job:worker/replica:0/task:" + std::to_string(rank);
        TFE_CollectiveOpsCheckPeerHealth(context, task.c_str(), milliseconds, status);
        missed[rank] = TF_GetCode(status) == 0 ? 0 : missed[rank] + 1;
        TF_DeleteStatus(status);
        if (missed[rank] < kMostMissed) continue;
        abortReductions(context, kUnavailable, "rank " + std::to_string(rank) + " does not answer");
        return;
      }
    }
  }

  /** Returns false once the process ends. */
  bool sleep(int milliseconds) {
    std::unique_lock<std::mutex> lock(mutex_);
    return !wake_.wait_for(lock, std::chrono::milliseconds(milliseconds), [this] { return ends_; });
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  bool ends_ = false;
  std::thread thread_;
};

TFE_Context* joined = nullptr;
Watch* watch = nullptr;
Deadline* deadline = nullptr;

int32_t integerOf(napi_env env, napi_value value) {
  int32_t number = 0;
  napi_get_value_int32(env, value, &number);
  return number;
}

/**
 * `watchRanks(rank: number, size: number, milliseconds: number): void` begins to check in turn whether the other ranks
 * answer. They must all listen already: TensorFlow gives up on a rank that refused a connection before.
 */
napi_value watchRanks(napi_env env, napi_callback_info info) {
  size_t count = 3;
  napi_value arguments[3];
  napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
  if (!joined || watch) return nullptr;
  watch = new Watch(joined, integerOf(env, arguments[1]), integerOf(env, arguments[0]), integerOf(env, arguments[2]));
  atexit([] { delete watch; });
  return nullptr;
}

/** `limitReduction(seconds: number): void` aborts a reduction that has not ended by then; 0 lifts the limit. */
napi_value limitReduction(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
  if (!joined) return nullptr;
  if (!deadline) {
    deadline = new Deadline(joined);
    atexit([] { delete deadline; });
  }
  double seconds = 0;
  napi_get_value_double(env, argument, &seconds);
  deadline->set(std::min(seconds, 1e9));
  return nullptr;
}

}  // namespace

extern "C" napi_status tfjs_lora_define_properties(napi_env env, napi_value exports, size_t count,
                                                   const napi_property_descriptor* properties) {
  const std::pair<const char*, napi_callback> own[] = {{"watchRanks", watchRanks}, {"limitReduction", limitReduction}};
  for (const auto& [name, callback] : own) {
    napi_value function;
    napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function);
    napi_set_named_property(env, exports, name, function);
  }
  return napi_define_properties(env, exports, count, properties);
}

extern "C" TFE_Context* tfjs_lora_new_context(const TFE_ContextOptions* options, TF_Status* status) {
  TFE_Context* context = TFE_NewContext(options, status);
  const char* hex = getenv("TFJS_LORA_SERVER_DEF");
  if (TF_GetCode(status) != 0 || !hex) return context;
  std::string failure;
  if (!TFE_EnableCollectiveOps || !TFE_AbortCollectiveOps || !TFE_CollectiveOpsCheckPeerHealth) {
    failure = "this build of TensorFlow has no collective ops";
  } else if (const char* address = getenv("TFJS_LORA_LISTEN"); address && !listenOn(address)) {
    failure = std::string("it cannot be made to listen on ") + address + " only";
  } else {
    const std::string bytes = bytesOf(hex);
    TF_Status* result = TF_NewStatus();
    TFE_EnableCollectiveOps(context, bytes.data(), bytes.size(), result);
    if (TF_GetCode(result) == 0) joined = context;
    else failure = TF_Message(result);
    TF_DeleteStatus(result);
  }
  unsetenv("TFJS_LORA_SERVER_DEF");  // not for processes that this one starts
  setenv("TFJS_LORA_CLUSTER", joined ? "joined" : failure.c_str(), 1);
  return context;
}
