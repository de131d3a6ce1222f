#include "row_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <new>

namespace monolith {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kLeastReserve = std::size_t{1} << 30;
constexpr std::uint64_t kMaxRows = std::uint64_t{1} << 32;  // the free list holds 32-bit numbers

std::size_t twice_the_memory() {
  const auto pages = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES));
  const auto memory = pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return std::max(2 * memory, kLeastReserve) / kHugePage * kHugePage;
}

}  // namespace

RowPool::RowPool(std::size_t stride_bytes, std::size_t reserve_bytes) : stride_(stride_bytes) {
  // A limit on address space (ulimit -v) may refuse the whole; a smaller range still makes a working table.
  const std::size_t least = reserve_bytes == 0 ? kLeastReserve : reserve_bytes;
  for (reserved_ = reserve_bytes == 0 ? twice_the_memory() : reserve_bytes; reserved_ >= least; reserved_ /= 2) {
    void* range = mmap(nullptr, reserved_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) continue;
    start_ = static_cast<char*>(range);
#ifdef MADV_HUGEPAGE
    madvise(range, reserved_, MADV_HUGEPAGE);  // a hint: rows are read at random, so each 4 KiB page is a TLB miss
#endif
    return;
  }
  throw std::bad_alloc();
}

RowPool::~RowPool() { munmap(start_, reserved_); }

std::uint64_t RowPool::acquire() {
  if (!free_.empty()) {
    const std::uint64_t row = free_.back();
    free_.pop_back();
    return row;
  }
  if (next_ == kMaxRows || (next_ + 1) * stride_ > reserved_) throw std::bad_alloc();
  return next_++;
}

}  // namespace monolith
