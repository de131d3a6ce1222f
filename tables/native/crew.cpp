#include "crew.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace monolith {
namespace {

std::atomic<unsigned> wanted{1};

using Work = std::function<void(unsigned)>;

// Threads that wait for a job. They never end by themselves: a crew lives as long as its process.
class Crew {
 public:
  explicit Crew(unsigned helpers) : process_(getpid()) {
    for (unsigned i = 0; i < helpers; ++i) std::thread([this] { serve(); }).detach();
  }
  bool of_this_process() const { return process_ == getpid(); }

  void run(unsigned parts, const Work& work, std::vector<std::exception_ptr>& errors) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      errors_ = &errors;
      parts_ = parts;
      next_ = 1;
      left_ = parts - 1;
    }
    begun_.notify_all();
    one(work, errors, 0);
    while (take_and_do()) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return left_ == 0; });
  }

 private:
  static void one(const Work& work, std::vector<std::exception_ptr>& errors, unsigned part) {
    try {
      work(part);
    } catch (...) {
      errors[part] = std::current_exception();
    }
  }

  bool take_and_do() {
    const Work* work;
    std::vector<std::exception_ptr>* errors;
    unsigned part;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (next_ >= parts_) return false;
      part = next_++;
      work = work_;
      errors = errors_;
    }
    one(*work, *errors, part);
    std::lock_guard<std::mutex> lock(mutex_);
    if (--left_ == 0) done_.notify_one();
    return true;
  }

  void serve() {
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        begun_.wait(lock, [this] { return next_ < parts_; });
      }
      take_and_do();
    }
  }

  const pid_t process_;
  std::mutex mutex_;
  std::condition_variable begun_, done_;
  const Work* work_ = nullptr;
  std::vector<std::exception_ptr>* errors_ = nullptr;
  unsigned parts_ = 0, next_ = 0, left_ = 0;
};

std::mutex in_use;
Crew* crew = nullptr;  // never deleted: its threads may wait in it when the process ends
unsigned crew_helpers = 0;

Crew& crew_of(unsigned helpers) {
  const bool forked = crew != nullptr && !crew->of_this_process();  // threads do not survive a fork
  if (crew == nullptr || forked || crew_helpers < helpers) {
    crew = new Crew(helpers);
    crew_helpers = helpers;
  }
  return *crew;
}

}  // namespace

unsigned crew_threads() { return wanted.load(std::memory_order_relaxed); }

void set_crew_threads(unsigned threads) { wanted = std::clamp(threads, 1u, kMaxThreads); }

void share_out(unsigned parts, const Work& work) {
  std::vector<std::exception_ptr> errors(parts);
  std::unique_lock<std::mutex> lock(in_use, std::try_to_lock);
  if (!lock.owns_lock())
    for (unsigned part = 0; part < parts; ++part) work(part);
  else
    crew_of(std::min(parts, kMaxThreads) - 1).run(parts, work, errors);
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace monolith
