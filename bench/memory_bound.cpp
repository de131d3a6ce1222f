// What a training step must move at least, whoever computes it: for each id one line of an index, its row read, and,
// after all were read, its row read and written. Ids are independent, so the core keeps as many lines in flight as it
// can. bench/table.py compiles and calls this.
#include <sys/mman.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

// Zeroed, in huge pages where there are any: the most favourable memory.
char* allocated(std::size_t bytes) {
  bytes = (bytes / kHugePage + 1) * kHugePage;
  char* start = static_cast<char*>(std::aligned_alloc(kHugePage, bytes));
  if (start == nullptr) std::abort();
#ifdef MADV_HUGEPAGE
  madvise(start, bytes, MADV_HUGEPAGE);
#endif
  std::memset(start, 0, bytes);
  return start;
}

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::uint32_t word(const char* at) {
  std::uint32_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

}  // namespace

extern "C" {

void* allocate(std::size_t bytes) { return allocated(bytes); }
void release(void* start) { std::free(start); }

// Seconds of forward (index and rows) and of backward (rows, written) over the n row numbers; returns what it read, so
// that nothing is left out. `index` has 22 bytes a row, `rows` has `stride` bytes a row.
std::uint64_t memory_bound(const char* index, char* rows, std::size_t stride, const std::int64_t* numbers,
                           std::size_t n, double* seconds) {
  std::uint64_t sum = 0;
  const double start = now_s();
  for (std::size_t i = 0; i < n; ++i) {
    sum += word(index + static_cast<std::size_t>(numbers[i]) * 22 / 64 * 64);
    const char* row = rows + static_cast<std::size_t>(numbers[i]) * stride;
    for (std::size_t at = 0; at < stride; at += 64) sum += word(row + at);
    sum += word(row + stride - 4);
  }
  const double middle = now_s();
  for (std::size_t i = 0; i < n; ++i) {
    char* row = rows + static_cast<std::size_t>(numbers[i]) * stride;
    for (std::size_t at = 0; at < stride + 63; at += 64) {
      char* place = row + (at < stride ? at : stride - 4);
      const std::uint32_t value = word(place) + 1;
      std::memcpy(place, &value, sizeof value);
    }
  }
  seconds[0] = middle - start;
  seconds[1] = now_s() - middle;
  return sum;
}
}
