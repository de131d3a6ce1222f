#include "rows.h"

namespace monolith {

Rows::Rows(std::size_t dim, std::size_t state_floats, std::size_t reserve_bytes)
    : dim_(dim),
      state_floats_(state_floats),
      tail_((dim + state_floats) * sizeof(float)),
      stride_(tail_ + kTailBytes),
      pool_(stride_, reserve_bytes) {}

char* Rows::add(std::uint64_t hash) {
  ++changes_;
  const std::uint64_t row = pool_.acquire();
  index_.insert({hash, row + 1});
  return pool_.at(row);
}

void Rows::remove(std::uint64_t hash) {
  ++changes_;
  ++removals_;
  IndexEntry* entry = index_.find(hash);
  pool_.release(entry->row - 1);
  index_.erase(entry);
}

void Rows::hash_ids(const std::int64_t* ids, Chunk& chunk) const {
  for (std::size_t i = 0; i < chunk.count; ++i) {
    chunk.hash[i] = hash_of(ids[chunk.begin + i]);
    const IndexEntry* home = index_.home(chunk.hash[i]);
    fetch(home);
    fetch(home + kLine);
  }
}

void Rows::resolve(Chunk& chunk, Need need) const {
  for (std::size_t i = 0; i < chunk.count; ++i) {
    chunk.row[i] = find(chunk.hash[i]);
    if (chunk.row[i] != nullptr) fetch_row(chunk.row[i], need);
  }
}

}  // namespace monolith
