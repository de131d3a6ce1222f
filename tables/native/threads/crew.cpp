#include "threads/crew.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "threads/at_fork.h"

namespace monolith {
namespace {

using Work = std::function<void(unsigned)>;

std::atomic<unsigned> wanted{1};

// The call of share_out() that it lies on the stack of waits until nothing is left.
struct Job {
  Job(unsigned parts, const Work& work, const Job* within)
      : work(work), parts(parts), outermost(within == nullptr ? this : within), left(parts), errors(parts) {}

  const Work& work;
  const unsigned parts;
  const Job* const outermost;  // the job that the calls of share_out() around this one began with, or itself
  unsigned next = 0;           // the first part that nobody took
  std::atomic<unsigned> left;  // parts that have not returned
  std::vector<std::exception_ptr> errors;
};

thread_local const Job* at_work_for = nullptr;  // the outermost job of the part that this thread is in

// Jobs come in twos and threes, and a thread that sleeps takes 50 us to wake, as long as 2,000 ids: so before it sleeps
// it looks a while whether there is something to do.
template <class Ready>
void look_out_for(Ready ready) {
  constexpr int kLooks = 100;  // of some 0.3 us, in which others may run
  for (int i = 0; i < kLooks && !ready(); ++i) std::this_thread::yield();
}

class Crew {
 public:
  void run(Job& job) {
    Lock lock(mutex_);
    start_helpers();
    open_.push_back(&job);
    ++news_;
    for (unsigned i = 1; i < job.parts; ++i) idle_.notify_one();
    if (job.outermost != &job) waiting_.notify_all();
    while (job.next < job.parts) do_one_of(job, lock);
    while (job.left != 0) wait_for(job, lock);
  }

  void threads_changed() {
    const Lock lock(mutex_);
    ++news_;
    idle_.notify_all();
  }

 private:
  using Lock = std::unique_lock<std::mutex>;

  // Takes the job's next part and does it, with the lock released meanwhile.
  void do_one_of(Job& job, Lock& lock) {
    const unsigned part = job.next++;
    if (job.next == job.parts) open_.erase(std::find(open_.begin(), open_.end(), &job));
    lock.unlock();
    const Job* const before = at_work_for;
    at_work_for = job.outermost;
    try {
      job.work(part);
    } catch (...) {
      job.errors[part] = std::current_exception();
    }
    at_work_for = before;
    lock.lock();
    if (--job.left != 0) return;
    ++news_;
    waiting_.notify_all();
  }

  // Until something has changed.
  void wait_for(const Job& job, Lock& lock) {
    if (Job* const other = newest_within(job)) return do_one_of(*other, lock);
    const auto ready = [&] { return job.left == 0 || newest_within(job) != nullptr; };
    look_out(lock);
    waiting_.wait(lock, ready);
  }
  Job* newest_within(const Job& job) const {
    const auto within = [&](const Job* each) { return each->outermost == job.outermost && each != job.outermost; };
    const auto found = std::find_if(open_.rbegin(), open_.rend(), within);
    return found == open_.rend() ? nullptr : *found;
  }

  void serve() {
    Lock lock(mutex_);
    while (helpers_ < crew_threads()) {
      if (!open_.empty()) {
        do_one_of(*open_.back(), lock);
      } else {
        look_out(lock);
        idle_.wait(lock, [this] { return !open_.empty() || helpers_ >= crew_threads(); });
      }
    }
    --helpers_;
  }

  void look_out(Lock& lock) {
    const std::uint64_t seen = news_;
    lock.unlock();
    look_out_for([&] { return news_ != seen; });
    lock.lock();
  }

  void start_helpers() {
    try {
      for (; helpers_ + 1 < crew_threads(); ++helpers_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {  // the system gives no more: those that there are do all
    }
  }

  std::mutex mutex_;
  std::condition_variable idle_, waiting_;
  std::vector<Job*> open_;  // with parts that nobody took, the newest last
  unsigned helpers_ = 0;
  std::atomic<std::uint64_t> news_{0};  // rises with everything that a thread may look out for
};

// Never destroyed: its threads may wait in it when the process ends. They do not survive a fork, so a child begins with
// a crew that has none.
alignas(Crew) unsigned char place[sizeof(Crew)];
Crew* const crew = new (place) Crew;

void begin_anew() { new (place) Crew; }

}  // namespace

unsigned crew_threads() { return wanted.load(std::memory_order_relaxed); }

void set_crew_threads(unsigned threads) {
  wanted = std::clamp(threads, 1u, kMaxThreads);
  crew->threads_changed();
}

void share_out(unsigned parts, const Work& work) {
  static const bool at_fork = in_child(begin_anew);
  static_cast<void>(at_fork);
  if (crew_threads() == 1) {
    for (unsigned part = 0; part < parts; ++part) work(part);
    return;
  }
  Job job(parts, work, at_work_for);
  crew->run(job);
  for (const std::exception_ptr& error : job.errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace monolith
