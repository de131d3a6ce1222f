// The rows and the index that finds them.
//
// A row is `values | state | last_seen_ms | mark | slot` at one place, so that the memory line fetched for the values
// brings what else a step needs. Fields are read and written with memcpy: a row starts at a multiple of 4 bytes only,
// which keeps the overhead beyond values and state at 16 bytes and the index entry.
// Not thread safe: the table takes turns. `slot` is scratch of the writer, which readers never look at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hash.h"
#include "row_pool.h"
#include "segment.h"
#include "storage.h"

namespace monolith {

struct IndexEntry {
  std::uint64_t hash;
  std::uint64_t row;  // its number + 1; 0: an empty entry

  bool empty() const { return row == 0; }
  static IndexEntry none() { return {kLastHash, 0}; }
};

// Ids on their way through the pipeline: hashed (their index lines are being fetched), then resolved (their rows are).
// 64 lines in flight is more than a core can track; longer chunks only make a turn longer.
struct Chunk {
  static constexpr std::size_t kSize = 64;
  std::size_t begin = 0;  // position of its first id in the call
  std::size_t count = 0;
  std::uint64_t hash[kSize];
  char* row[kSize];
  std::uint64_t changes = 0;   // its rows are what find() gave when so many changes were made ever
  bool recalled = false;       // its rows come from an earlier call, and hold as long as
  std::uint64_t removals = 0;  // so many rows were removed ever
};

enum class Need { tail, values, all };  // what of a row the next stage reads

inline void fetch(const void* line) { __builtin_prefetch(line, 0, 3); }

// The lines of [begin, end), one of them perhaps twice: how many calls that takes does not depend on where they begin,
// so that the branch is predicted.
inline void fetch_lines(const char* begin, const char* end) {
  for (const char* line = begin; line < end; line += 64) fetch(line);
  fetch(end - 1);
}

inline void fetch_floats(const float* values, std::size_t count) {
  for (std::size_t i = 0; i < count; i += 16) fetch(values + i);
}

class Rows {
 public:
  static constexpr std::size_t kTailBytes = 16;

  Rows(std::size_t dim, std::size_t state_floats, std::size_t reserve_bytes, Storage storage = Storage::float32);

  char* find(std::uint64_t hash) const {
    const IndexEntry* entry = index_.find(hash);
    return entry == nullptr ? nullptr : pool_.at(entry->row - 1);
  }
  char* add(std::uint64_t hash);  // a row of unspecified contents for a hash that has none
  void remove(std::uint64_t hash);
  void reserve(std::size_t bucket, std::size_t count) { index_.reserve(bucket, count); }

  // The two first stages of the pipeline. resolve() leaves nullptr for ids without a row.
  void hash_ids(const std::int64_t* ids, Chunk& chunk) const;
  void resolve(Chunk& chunk, Need need) const;

  template <class Visit>
  void each(std::size_t bucket, Visit visit) const {  // visit(hash, row)
    index_[bucket].each([&](const IndexEntry& entry) { visit(entry.hash, pool_.at(entry.row - 1)); });
  }

  // The values as float32: where they are, or decoded into `scratch` (dim).
  float* values(char* row, float* scratch) const {
    if (!narrow()) return reinterpret_cast<float*>(row);
    decode(row, scratch);
    return scratch;
  }
  template <class Dim>
  void read(const char* row, Dim dim, float* out) const {
    if (narrow())
      decode(row, out);
    else
      std::memcpy(out, row, dim * sizeof(float));
  }
  // Puts values into the row; where they do not fit, they are rounded by draws of the stream `chance`.
  void write(char* row, const float* values, std::uint64_t chance) const;
  bool narrow() const { return storage_ != Storage::float32; }
  float* state(char* row) const { return reinterpret_cast<float*>(row + value_bytes_); }
  std::int64_t last_seen(const char* row) const { return load<std::int64_t>(row + tail_); }
  std::uint32_t mark(const char* row) const { return load<std::uint32_t>(row + tail_ + 8); }
  std::uint32_t slot(const char* row) const { return load<std::uint32_t>(row + tail_ + 12); }
  void set_last_seen(char* row, std::int64_t ms) const { store(row + tail_, ms); }
  void set_mark(char* row, std::uint32_t mark) const { store(row + tail_ + 8, mark); }
  void set_slot(char* row, std::uint32_t slot) const { store(row + tail_ + 12, slot); }

  void fetch_row(const char* row, Need need) const {
    const char* const end = row + stride_;
    if (need == Need::values) fetch_lines(row, row + value_bytes_);
    fetch_lines(need == Need::all ? row : row + tail_, end);
  }

  std::size_t dim() const { return dim_; }
  std::size_t value_bytes() const { return value_bytes_; }
  std::size_t state_floats() const { return state_floats_; }
  std::size_t bucket_size(std::size_t bucket) const { return index_[bucket].size(); }
  std::uint64_t size() const { return pool_.used(); }
  std::uint64_t free() const { return pool_.free(); }
  std::size_t stride() const { return stride_; }
  std::size_t index_bytes() const { return index_.bytes(); }
  std::uint64_t changes() const { return changes_; }    // rises when what find() answered may no longer hold
  std::uint64_t removals() const { return removals_; }  // rises when a row that find() gave may no longer be there

 private:
  template <class T>
  static T load(const char* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  template <class T>
  static void store(char* to, T value) {
    std::memcpy(to, &value, sizeof value);
  }

  void decode(const char* row, float* out) const;

  Storage storage_;
  std::size_t dim_, state_floats_, value_bytes_, tail_, stride_;
  Buckets<IndexEntry> index_;
  RowPool pool_;
  std::uint64_t changes_ = 0;
  std::uint64_t removals_ = 0;
};

}  // namespace monolith
