#include "memory/pages_ahead.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "threads/at_fork.h"

namespace monolith {
namespace {

constexpr std::size_t kAtOnce = std::size_t{2} << 20;  // bytes: meanwhile this process maps and unmaps nothing else
#ifdef MADV_POPULATE_WRITE
constexpr int kPopulate = MADV_POPULATE_WRITE;
#else
constexpr int kPopulate = 23;  // the same, of Linux 5.14; what does not know it refuses it
#endif

class Faulter {
 public:
  // Until then, nothing is taken.
  void start() {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::thread([this] { serve(); }).detach();
    started_ = true;
  }

  void add(const void* owner, char* begin, char* end) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!started_) return;
      wanted_.push_back({owner, begin, end});
    }
    changed_.notify_all();
  }

  void stop(const void* owner) {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto of_owner = [owner](const Wanted& each) { return each.owner == owner; };
    wanted_.erase(std::remove_if(wanted_.begin(), wanted_.end(), of_owner), wanted_.end());
    changed_.wait(lock, [this, owner] { return working_for_ != owner; });
  }

 private:
  struct Wanted {
    const void* owner;
    char *begin, *end;
  };

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return !wanted_.empty(); });
      Wanted& next = wanted_.front();
      const std::size_t bytes = std::min(kAtOnce, static_cast<std::size_t>(next.end - next.begin));
      char* const pages = next.end -= bytes;
      working_for_ = next.owner;
      if (next.begin == next.end) wanted_.pop_front();
      lock.unlock();
      madvise(pages, bytes, kPopulate);  // a hint, as others are
      lock.lock();
      working_for_ = nullptr;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Wanted> wanted_;
  const void* working_for_ = nullptr;
  bool started_ = false;
};

// Never deleted: its thread may wait in it when the process ends. Threads do not survive a fork, and what they held
// stays locked, so a child starts without one.
std::atomic<Faulter*> faulter{nullptr};

Faulter& started_faulter() {
  if (Faulter* const now = faulter.load()) return *now;
  static const bool at_fork = in_child([] { faulter = nullptr; });
  static_cast<void>(at_fork);
  auto fresh = std::make_unique<Faulter>();
  Faulter* now = nullptr;
  if (!faulter.compare_exchange_strong(now, fresh.get())) return *now;  // another thread was faster
  Faulter* const started = fresh.release();
  started->start();
  return *started;
}

}  // namespace

void fault_ahead(const void* owner, char* begin, char* end) noexcept {
  try {
    if (begin != end) started_faulter().add(owner, begin, end);
  } catch (const std::exception&) {  // no memory, or no more threads: pages come when they are written to
  }
}

void stop_faulting(const void* owner) {
  if (Faulter* const now = faulter.load()) now->stop(owner);
}

}  // namespace monolith
