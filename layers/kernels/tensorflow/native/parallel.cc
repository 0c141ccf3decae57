#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>

namespace tfjs_lora {
namespace {

/** Threads that wait for the next loop; they live as long as the process. */
class Pool {
 public:
  Pool() {
    for (int i = 1; i < threadCount(); i++) std::thread([this] { help(); }).detach();
  }

  bool tryRun(int64_t count, const std::function<void(int64_t)>& body) {
    std::unique_lock<std::mutex> alone(alone_, std::try_to_lock);
    if (!alone.owns_lock()) return false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      body_ = &body;
      count_ = count;
      next_ = 0;
      round_++;
    }
    begun_.notify_all();
    work(body, count);
    std::unique_lock<std::mutex> lock(mutex_);
    body_ = nullptr;  // a thread that wakes only now has nothing to do
    ended_.wait(lock, [this] { return busy_ == 0; });
    return true;
  }

 private:
  void help() {
    int64_t seen = 0;
    for (std::unique_lock<std::mutex> lock(mutex_);;) {
      begun_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      if (!body_) continue;
      const auto& body = *body_;
      const int64_t count = count_;
      busy_++;
      lock.unlock();
      work(body, count);
      lock.lock();
      if (--busy_ == 0) ended_.notify_one();
    }
  }

  void work(const std::function<void(int64_t)>& body, int64_t count) {
    for (int64_t part; (part = next_.fetch_add(1)) < count;) body(part);
  }

  std::mutex alone_, mutex_;
  std::condition_variable begun_, ended_;
  const std::function<void(int64_t)>* body_ = nullptr;
  int64_t count_ = 0, round_ = 0;
  std::atomic<int64_t> next_{0};
  int busy_ = 0;
};

Pool& pool() {
  static Pool& shared = *new Pool;  // never destroyed: its threads may outlive main
  return shared;
}

}  // namespace

int threadCount() {
  static const int count = [] {  // asking the system takes longer than a small op
    const char* given = std::getenv("TF_NUM_INTRAOP_THREADS");
    const int asked = given ? std::atoi(given) : 0;
    return asked > 0 ? asked : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  }();
  return count;
}

void parallelFor(int64_t count, int64_t work, const std::function<void(int64_t)>& body) {
  const bool isWorth = count > 1 && work >= kWorthAThread;
  if (isWorth && pool().tryRun(count, body)) return;
  for (int64_t part = 0; part < count; part++) body(part);
}

void parallelRanges(int64_t size, int64_t cost, const std::function<void(int64_t, int64_t)>& body) {
  const int64_t most = 4 * threadCount();  // several per thread, because some threads are slower
  const int64_t parts = std::max<int64_t>(1, std::min({size, most, size * cost / (kWorthAThread / 2)}));
  parallelFor(parts, size * cost, [&](int64_t part) { body(part * size / parts, (part + 1) * size / parts); });
}

}  // namespace tfjs_lora
