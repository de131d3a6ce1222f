// One list of work for all threads: what is added within a part is taken by whoever has nothing to do.
#include "threads/crew.h"

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

using namespace monolith;

namespace {

class Threads {  // for the length of a test
 public:
  explicit Threads(unsigned threads) : before_(crew_threads()) { set_crew_threads(threads); }
  ~Threads() { set_crew_threads(before_); }

 private:
  const unsigned before_;
};

// True once `count` threads are in this call at the same time; false where they are not for a long while.
bool meet(std::atomic<unsigned>& arrived, unsigned count) {
  ++arrived;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (arrived < count && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  return arrived >= count;
}

void each_part_is_done_once() {
  for (const unsigned threads : {1, 2, 4}) {
    const Threads set(threads);
    for (const unsigned parts : {0, 1, 2, 3, 9, 100}) {
      std::vector<std::atomic<unsigned>> done(parts * 5);
      in_parallel(parts, [&](unsigned part) { in_parallel(5, [&](unsigned inner) { ++done[part * 5 + inner]; }); });
      for (const auto& each : done) CHECK(each == 1);
    }
  }
}

// As a collection with one large table and others that are soon done.
void parts_within_a_part_go_to_the_other_threads() {
  for (const unsigned threads : {2, 4}) {
    const Threads set(threads);
    for (const unsigned large : {0, 1, 2}) {
      std::atomic<unsigned> arrived{0}, met{0};
      in_parallel(3, [&](unsigned table) {
        if (table == large) in_parallel(threads, [&](unsigned) { met += meet(arrived, threads); });
      });
      CHECK(met == threads);
    }
  }
}

void first_error_in_order_comes_through_and_all_parts_run() {
  const Threads set(2);
  std::atomic<unsigned> done{0};
  std::string said;
  try {
    in_parallel(4, [&](unsigned part) {
      in_parallel(3, [&](unsigned inner) {
        ++done;
        if (part >= 1 && inner >= 1) throw std::runtime_error(std::to_string(part * 10 + inner));
      });
    });
  } catch (const std::runtime_error& error) {
    said = error.what();
  }
  CHECK(said == "11");
  CHECK(done == 12);
}

void many_threads_call_while_their_number_changes() {
  const Threads set(3);
  std::atomic<std::uint64_t> sum{0};
  std::vector<std::thread> callers;
  for (unsigned caller = 0; caller < 4; ++caller)
    callers.emplace_back([&sum, caller] {
      for (unsigned round = 0; round < 200; ++round) {
        if (caller == 0) set_crew_threads(1 + round % 5);
        in_parallel(3, [&](unsigned) { in_parallel(4, [&](unsigned inner) { sum += inner; }); });
      }
    });
  for (auto& caller : callers) caller.join();
  CHECK(sum == 4 * 200 * 3 * 6);
}

}  // namespace

std::vector<Test> crew_tests() {
  return {
      {"each part is done once", each_part_is_done_once},
      {"parts within a part go to the other threads", parts_within_a_part_go_to_the_other_threads},
      {"first error in order comes through, and all parts run", first_error_in_order_comes_through_and_all_parts_run},
      {"many threads call while their number changes", many_threads_call_while_their_number_changes},
  };
}
