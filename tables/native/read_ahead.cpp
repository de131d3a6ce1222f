#include "read_ahead.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

namespace monolith {
namespace {

constexpr unsigned kBlocksALook = 8;
constexpr long kMostLooks = 128;  // after the last missing page, in which pages are still asked for

#ifdef RUSAGE_THREAD
constexpr int kWho = RUSAGE_THREAD;
#else
constexpr int kWho = RUSAGE_SELF;
#endif

long waits() {
  rusage usage{};
  getrusage(kWho, &usage);
  return usage.ru_majflt;
}

}  // namespace

// While pages are asked for, few are found missing; so each of them keeps that up for some time.
bool waits_for_disk() {
  thread_local long before = waits(), looks_left = 0;
  thread_local unsigned blocks = 0;
  if (blocks++ % kBlocksALook == 0) {
    const long now = waits();
    looks_left = now == before ? std::max(looks_left - 1, 0L) : std::min(looks_left + now - before, kMostLooks);
    before = now;
  }
  return looks_left != 0;
}

void ask_for(const void* begin, std::size_t bytes) {
  static const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto at = reinterpret_cast<std::uintptr_t>(begin);
  const std::uintptr_t first = at / page * page;
  madvise(reinterpret_cast<void*>(first), at + bytes - first, MADV_WILLNEED);  // a hint
}

}  // namespace monolith
