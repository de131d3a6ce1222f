#include "memory/read_ahead.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>

namespace monolith {
namespace {

constexpr std::size_t kALook = 256;   // rows; to look takes a third of a microsecond
constexpr long kWorthAsking = 8 * 8;  // blocks of 512 bytes read meanwhile: waiting for so many is as dear as asking

#ifdef RUSAGE_THREAD
constexpr int kWho = RUSAGE_THREAD;
#else
constexpr int kWho = RUSAGE_SELF;
#endif

// What this thread has read from disks, and of that what it read for tables since it looked last.
thread_local long read_before = 0, read_here = 0;
thread_local std::size_t rows_since = 0;
thread_local bool reading = false;

long blocks_read() {
  rusage usage{};
  getrusage(kWho, &usage);
  return usage.ru_inblock;
}

}  // namespace

void DiskWatch::begin() { read_before = blocks_read(); }

void DiskWatch::end() { read_here += blocks_read() - read_before; }

bool DiskWatch::reads_now(std::size_t rows) {
  if ((rows_since += rows) >= kALook) {
    end();
    begin();
    reading = read_here >= kWorthAsking;
    read_here = 0;
    rows_since = 0;
  }
  return reading;
}

void ask_for(const void* begin, std::size_t bytes) {
  static const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto at = reinterpret_cast<std::uintptr_t>(begin);
  const std::uintptr_t first = at / page * page;
  madvise(reinterpret_cast<void*>(first), at + bytes - first, MADV_WILLNEED);  // a hint
}

}  // namespace monolith
