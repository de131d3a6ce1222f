#include "crew.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "at_fork.h"

namespace monolith {
namespace {

std::atomic<unsigned> wanted{1};

using Work = std::function<void(unsigned)>;

// Jobs come in twos and threes, and a thread that sleeps takes 50 us to wake, as long as 2,000 ids: so before it sleeps
// it looks a while whether there is something to do.
template <class Ready>
void look_out_for(Ready ready) {
  constexpr int kLooks = 100;  // of some 0.3 us, in which others may run
  for (int i = 0; i < kLooks && !ready(); ++i) std::this_thread::yield();
}

// Threads that wait for a job. They never end by themselves: a crew lives as long as its process.
class Crew {
 public:
  explicit Crew(unsigned helpers) {
    for (unsigned i = 0; i < helpers; ++i) std::thread([this] { serve(); }).detach();
  }

  // With `helpers` threads at most beside this one.
  void run(unsigned parts, unsigned helpers, const Work& work, std::vector<std::exception_ptr>& errors) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      errors_ = &errors;
      parts_ = parts;
      next_ = 1;
      left_ = parts - 1;
      seats_ = helpers;
      ++job_;
    }
    begun_.notify_all();
    one(work, errors, 0);
    while (take_and_do(job_)) continue;  // which only this thread changes
    look_out_for([this] { return left_ == 0; });
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

  // False: the job has no more parts, or is over, and who sits here has no seat at the next.
  bool take_and_do(std::uint64_t job) {
    const Work* work;
    std::vector<std::exception_ptr>* errors;
    unsigned part;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (job != job_ || next_ >= parts_) return false;
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
    for (std::uint64_t job = 0;;) {
      look_out_for([this, job] { return job_ != job; });
      {
        std::unique_lock<std::mutex> lock(mutex_);
        begun_.wait(lock, [this] { return next_ < parts_ && seats_ != 0; });
        --seats_;
        job = job_;
      }
      while (take_and_do(job)) continue;
    }
  }

  std::mutex mutex_;
  std::condition_variable begun_, done_;
  const Work* work_ = nullptr;
  std::vector<std::exception_ptr>* errors_ = nullptr;
  std::atomic<std::uint64_t> job_{0};
  std::atomic<unsigned> left_{0};
  unsigned parts_ = 0, next_ = 0, seats_ = 0;
};

std::mutex in_use;  // if another thread had it at a fork, the child works alone
// Never deleted: its threads may wait in it when the process ends. They do not survive a fork, so a child starts
// without one.
std::atomic<Crew*> crew{nullptr};
unsigned crew_helpers = 0;

Crew& crew_of(unsigned helpers) {
  static const bool at_fork = in_child([] { crew = nullptr; });
  static_cast<void>(at_fork);
  if (crew == nullptr || crew_helpers < helpers) {
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
  const unsigned helpers = std::min(parts, crew_threads()) - 1;
  if (helpers == 0 || !lock.owns_lock())
    for (unsigned part = 0; part < parts; ++part) work(part);
  else
    crew_of(helpers).run(parts, helpers, work, errors);
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace monolith
