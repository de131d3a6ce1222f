#include "memory/result_memory.h"

#include <sys/mman.h>

#include <array>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>

namespace monolith {
namespace {

constexpr std::size_t kPage = std::size_t{2} << 20;  // a huge one

struct alignas(64) Block {  // followed by its values
  std::size_t floats;

  float* values() { return reinterpret_cast<float*>(this + 1); }
  static Block* of(float* values) { return reinterpret_cast<Block*>(values) - 1; }
};

std::mutex mutex;
std::array<Block*, 2> spare{};  // the one that was returned last is last

Block* fitting_spare(std::size_t floats) {
  const std::lock_guard<std::mutex> lock(mutex);
  for (std::size_t i = spare.size(); i-- != 0;)
    if (spare[i] != nullptr && floats <= spare[i]->floats && spare[i]->floats <= 2 * floats)
      return std::exchange(spare[i], nullptr);
  return nullptr;
}

}  // namespace

float* take_memory(std::size_t floats) {
  if (Block* const block = fitting_spare(floats)) return block->values();
  const std::size_t bytes = (sizeof(Block) + floats * sizeof(float) + kPage - 1) / kPage * kPage;
  void* const memory = std::aligned_alloc(kPage, bytes);
  if (memory == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(memory, bytes, MADV_HUGEPAGE);  // a hint
#endif
  return (new (memory) Block{floats})->values();
}

void return_memory(float* taken) noexcept {
  Block* gone = Block::of(taken);
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (spare[1] != nullptr) std::swap(spare[0], spare[1]);
    std::swap(spare[1], gone);
  }
  std::free(gone);
}

}  // namespace monolith
