// What a training step must move at least, whoever computes it: for each id one line of an index read and its row read,
// and, after all were read, its row read and written. Ids are independent, so nothing waits but for memory. Lines are
// asked for `ahead` ids before they are used, in the first-level cache or the second; 0 leaves that to the core.
// bench/memory_bound.py compiles and calls this.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20, kLine = 64;

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Threads may meet in a row: relaxed accesses are plain ones to the core.
std::uint32_t word(const char* at) {
  return __atomic_load_n(reinterpret_cast<const std::uint32_t*>(at), __ATOMIC_RELAXED);
}
void add_one(char* at) { __atomic_store_n(reinterpret_cast<std::uint32_t*>(at), word(at) + 1, __ATOMIC_RELAXED); }

struct Memory {
  const char* index;
  std::size_t index_lines;
  char* rows;
  std::size_t row_count, stride;

  const char* index_line(std::int64_t number) const {
    return index + static_cast<std::size_t>(number) * index_lines / row_count * kLine;
  }
  char* row(std::int64_t number) const { return rows + static_cast<std::size_t>(number) * stride; }
};

// Calls visit(a place in each memory line of the row).
template <class Visit>
void each_line(char* row, std::size_t stride, Visit visit) {
  for (std::size_t at = 0; at < stride; at += kLine) visit(row + at);
  visit(row + stride - 4);
}

// How many ids ahead, and where to: a core may have more lines under way to its second-level cache.
struct Ahead {
  std::size_t ids, level;

  void fetch(const char* line) const {
    if (level == 1)
      __builtin_prefetch(line, 0, 3);
    else
      __builtin_prefetch(line, 0, 2);
  }
};

std::uint64_t read(const Memory& memory, const std::int64_t* numbers, std::size_t n, Ahead ahead) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (ahead.ids != 0 && i + ahead.ids < n) {
      ahead.fetch(memory.index_line(numbers[i + ahead.ids]));
      each_line(memory.row(numbers[i + ahead.ids]), memory.stride, [ahead](char* line) { ahead.fetch(line); });
    }
    sum += word(memory.index_line(numbers[i]));
    each_line(memory.row(numbers[i]), memory.stride, [&sum](char* line) { sum += word(line); });
  }
  return sum;
}

void write(const Memory& memory, const std::int64_t* numbers, std::size_t n, Ahead ahead) {
  for (std::size_t i = 0; i < n; ++i) {
    if (ahead.ids != 0 && i + ahead.ids < n)
      each_line(memory.row(numbers[i + ahead.ids]), memory.stride, [ahead](char* line) { ahead.fetch(line); });
    each_line(memory.row(numbers[i]), memory.stride, add_one);
  }
}

// Calls work(first, count, thread) on equal parts of n, and returns the seconds until all are done.
template <class Work>
double shared(std::size_t n, std::size_t threads, Work work) {
  const double start = now_s();
  std::vector<std::thread> others;
  const std::size_t part = (n + threads - 1) / threads;
  for (std::size_t t = 1; t < threads; ++t)
    others.emplace_back(work, std::min(n, t * part), std::min(part, n - std::min(n, t * part)), t);
  work(0, std::min(part, n), 0);
  for (std::thread& other : others) other.join();
  return now_s() - start;
}

}  // namespace

extern "C" {

// Zeroed, in huge pages where there are any: the most favourable memory.
void* allocate(std::size_t bytes) {
  bytes = (bytes / kHugePage + 1) * kHugePage;
  void* start = std::aligned_alloc(kHugePage, bytes);
  if (start == nullptr) std::abort();
#ifdef MADV_HUGEPAGE
  madvise(start, bytes, MADV_HUGEPAGE);
#endif
  std::memset(start, 0, bytes);
  return start;
}
void release(void* start) { std::free(start); }

// Sets `seconds` to those of forward (index and rows read) and of backward (rows read and written) over the n row
// numbers; `ahead` holds the distance and the cache level of each. Returns what was read, so that nothing is left out.
std::uint64_t memory_bound(const char* index, std::size_t index_bytes, char* rows, std::size_t row_count,
                           std::size_t stride, const std::int64_t* numbers, std::size_t n, std::size_t threads,
                           const std::size_t* ahead, double* seconds) {
  const Memory memory{index, index_bytes / kLine, rows, row_count, stride};
  std::vector<std::uint64_t> sums(threads);
  seconds[0] = shared(n, threads, [&](std::size_t first, std::size_t count, std::size_t thread) {
    sums[thread] = read(memory, numbers + first, count, {ahead[0], ahead[1]});
  });
  seconds[1] = shared(n, threads, [&](std::size_t first, std::size_t count, std::size_t) {
    write(memory, numbers + first, count, {ahead[2], ahead[3]});
  });
  std::uint64_t sum = 0;
  for (const std::uint64_t part : sums) sum += part;
  return sum;
}
}
