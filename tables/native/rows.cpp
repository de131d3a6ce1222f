#include "rows.h"

namespace monolith {

namespace {

std::size_t value_bytes_of(Storage storage, std::size_t dim) {  // in whole words of 4 bytes
  return storage == Storage::float32 ? dim * sizeof(float) : (dim + 1) / 2 * sizeof(float);
}

template <class Half>
void decode_halves(const char* from, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; ++i) {
    std::uint16_t half;
    std::memcpy(&half, from + i * sizeof half, sizeof half);
    out[i] = Half::decode(half);
  }
}

// A draw serves two columns: its lower half the even one.
template <class Half>
void encode_halves(const float* values, std::size_t n, std::uint64_t chance, char* to) {
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint64_t word = draw(chance, i / 2 + 1);
    const std::uint16_t half = Half::encode(values[i], static_cast<std::uint32_t>(i % 2 == 0 ? word : word >> 32));
    std::memcpy(to + i * sizeof half, &half, sizeof half);
  }
}

}  // namespace

Rows::Rows(std::size_t dim, std::size_t state_floats, std::size_t reserve_bytes, Storage storage)
    : storage_(storage),
      dim_(dim),
      state_floats_(state_floats),
      value_bytes_(value_bytes_of(storage, dim)),
      tail_(value_bytes_ + state_floats * sizeof(float)),
      stride_(tail_ + kTailBytes),
      pool_(stride_, reserve_bytes) {}

void Rows::decode(const char* row, float* out) const {
  if (storage_ == Storage::bfloat16)
    decode_halves<BFloat16>(row, dim_, out);
  else
    decode_halves<Float16>(row, dim_, out);
}

void Rows::write(char* row, const float* values, std::uint64_t chance) const {
  if (storage_ == Storage::bfloat16)
    encode_halves<BFloat16>(values, dim_, chance, row);
  else if (storage_ == Storage::float16)
    encode_halves<Float16>(values, dim_, chance, row);
  else if (reinterpret_cast<const char*>(values) != row)
    std::memcpy(row, values, value_bytes_);
}

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
