// One call at a time changes a table. A call from within another, which a score function could make, would wait for
// itself: it is refused.
#pragma once

#include <atomic>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace monolith {

struct CalledFromWithin : std::logic_error {
  CalledFromWithin() : logic_error("a score function calls its own table, of which it may only look rows up") {}
};

class WriterMutex {
 public:
  void lock() {
    if (owner_.load(std::memory_order_relaxed) == std::this_thread::get_id()) throw CalledFromWithin();
    mutex_.lock();
    owner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  }
  void unlock() {
    owner_.store(std::thread::id(), std::memory_order_relaxed);
    mutex_.unlock();
  }

 private:
  std::mutex mutex_;
  std::atomic<std::thread::id> owner_{std::thread::id()};
};

using Writing = std::unique_lock<WriterMutex>;

}  // namespace monolith
