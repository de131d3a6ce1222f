// Memory that is made ready ahead: it comes, only where it was asked for, and may go at any moment.
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

#include "check.h"
#include "memory/range.h"

using namespace monolith;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kReserve = 64 * kMiB;

std::size_t resident(const Range& range, std::size_t begin, std::size_t end) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> there((end - begin) / page);
  CHECK(mincore(range.start() + begin, end - begin, there.data()) == 0);
  std::size_t pages = 0;
  for (const unsigned char each : there) pages += each & 1;
  return pages * page;
}

bool kernel_can() {
  constexpr int kPopulate = 23;
  void* const page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const bool can = madvise(page, 4096, kPopulate) == 0;
  munmap(page, 4096);
  return can;
}

void wait_for(const Range& range, std::size_t begin, std::size_t end) {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (kernel_can() && resident(range, begin, end) < end - begin) {
    CHECK(std::chrono::steady_clock::now() < give_up);
    std::this_thread::yield();
  }
}

void expected_pages_come() {
  Range range(kReserve, kReserve, "");
  range.ensure(17 * kMiB);
  range.expect(17 * kMiB, 21 * kMiB);
  wait_for(range, 18 * kMiB, 22 * kMiB);
  CHECK(resident(range, 22 * kMiB, kReserve) == 0);
  for (std::size_t at = 0; at < 22 * kMiB; at += 4096) CHECK(range.start()[at] == 0);
}

void small_ranges_expect_nothing() {
  Range range(kReserve, kReserve, "");
  range.ensure(15 * kMiB);
  range.expect(15 * kMiB, 20 * kMiB);
  Range later(kReserve, kReserve, "");  // asked for after it, so made ready after it
  later.expect(17 * kMiB, 20 * kMiB);
  wait_for(later, 18 * kMiB, 20 * kMiB);
  CHECK(resident(range, 0, kReserve) == 0);
}

void nothing_comes_for_a_range_that_went() {
  for (int i = 0; i < 20; ++i) {
    Range marker(kReserve, kReserve, "");
    {
      Range gone(kReserve, kReserve, "");
      gone.expect(17 * kMiB, 64 * kMiB);
      if (i % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(100 * i));
    }
    const Range next(kReserve, kReserve, "");  // most likely where that one was
    marker.expect(17 * kMiB, 20 * kMiB);
    wait_for(marker, 18 * kMiB, 20 * kMiB);
    CHECK(resident(next, 0, kReserve) == 0);
  }
}

void threads_expect_at_once() {
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&wrong] {
      for (int k = 0; k < 5; ++k) {
        Range range(kReserve, kReserve, "");
        for (std::size_t end = 18 * kMiB; end < 30 * kMiB; end += 2 * kMiB) {
          range.ensure(end);
          range.expect(end, end + 2 * kMiB);
          range.start()[end - 1] = 1;
        }
        for (std::size_t end = 18 * kMiB; end < 30 * kMiB; end += 2 * kMiB)
          wrong += range.start()[end - 1] != 1 || range.start()[end - 2] != 0;
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

}  // namespace

std::vector<Test> pages_tests() {
  if (!kernel_can()) std::printf("pages: this kernel makes none ready, so none are waited for\n");
  return {{"pages: those that are expected come", expected_pages_come},
          {"pages: a small range expects nothing", small_ranges_expect_nothing},
          {"pages: none come for a range that went", nothing_comes_for_a_range_that_went},
          {"pages: several threads expect some at once", threads_expect_at_once}};
}
