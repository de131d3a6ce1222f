// Where the rows are, and what lies where in them.
//
// A row is `values | state | stamps` at one place, so that the memory lines fetched for the values bring what else a
// step needs. The stamps say when the id was last seen, the sequence in which the row was written last (`mark`), the
// lower half of its hash, which with the index entry makes the whole, and `slot`, scratch of the writer, which readers
// never look at; and, where the table's rules ask for them, when the row was made, how often its id was seen since, and
// which policy it is under. A row starts at a multiple of 8 bytes.
//
// A view is a few numbers that hold for the table's life. Loops over rows take a copy: what they write may be anything,
// as far as the compiler knows, but not their own variables, which it keeps in registers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "memory/read_ahead.h"
#include "memory/row_pool.h"
#include "rows/storage.h"

namespace monolith {

enum class Need { stamps, values, all };  // what of a row the next stage reads

// Into the second-level cache: a core has more lines in flight towards it than towards the first.
inline void fetch(const void* line) { __builtin_prefetch(line, 0, 2); }

// The lines after the first, one of them perhaps twice: how many calls that takes does not depend on where they begin,
// so that the branch is predicted.
inline void fetch_rest(const char* begin, std::size_t bytes) {
  for (std::size_t at = 64; at < bytes; at += 64) fetch(begin + at);
  fetch(begin + bytes - 1);
}

inline void fetch_floats(const float* values, std::size_t count) {
  for (std::size_t i = 0; i < count; i += 16) fetch(values + i);
}

struct RowOptions {
  std::size_t dim, state_floats;
  Storage storage = Storage::float32;
  std::size_t reserve_bytes = 0;  // of address space; 0: twice the machine's memory, or the disk
  std::string folder;             // of the file that holds them; empty: memory
  bool admitted = false, uses = false, policies = false;  // what else a row has
  std::uint32_t shared = 0;                               // rows that ids without one share
};

class RowView {
 public:
  char* at(Row row) const { return start_ + row * stride_; }
  // The values as float32: where they are, or decoded into `scratch` (dim).
  float* values(Row row, float* scratch) const {
    if (!narrow()) return reinterpret_cast<float*>(at(row));
    decode(at(row), scratch);
    return scratch;
  }
  template <class Dim>
  void read(Row row, Dim dim, float* out) const {
    if (narrow())
      decode(at(row), out);
    else
      std::memcpy(out, at(row), dim * sizeof(float));
  }
  // Puts values into the row; where they do not fit, they are rounded by draws of the stream `chance`.
  void write(Row row, const float* values, std::uint64_t chance) const;
  bool narrow() const { return storage_ != Storage::float32; }
  float* state(Row row) const { return reinterpret_cast<float*>(at(row) + value_bytes_); }

  // Atomic: the writer may raise it while readers look.
  std::int64_t last_seen(Row row) const { return __atomic_load_n(time_of(row), __ATOMIC_RELAXED); }
  void set_last_seen(Row row, std::int64_t ms) const { __atomic_store_n(time_of(row), ms, __ATOMIC_RELAXED); }
  std::uint32_t mark(Row row) const { return *word(row, 0); }
  std::uint32_t slot(Row row) const { return *word(row, 1); }
  void set_mark(Row row, std::uint32_t mark) const { *word(row, 0) = mark; }
  void set_slot(Row row, std::uint32_t slot) const { *word(row, 1) = slot; }
  std::uint32_t lower_half(Row row) const { return *at<std::uint32_t>(row, lower_half_); }

  // Only where the options have them; else they are last_seen, 1 and 0, and are not set.
  bool has_admitted() const { return admitted_ != 0; }
  bool has_uses() const { return uses_ != 0; }
  bool has_policies() const { return policy_ != 0; }
  std::int64_t admitted(Row row) const { return has_admitted() ? *at<std::int64_t>(row, admitted_) : last_seen(row); }
  std::uint32_t uses(Row row) const { return has_uses() ? *word(row, uses_) : 1; }
  std::uint32_t policy(Row row) const { return has_policies() ? *word(row, policy_) : 0; }
  void set_admitted(Row row, std::int64_t ms) const {
    if (has_admitted()) *at<std::int64_t>(row, admitted_) = ms;
  }
  void set_uses(Row row, std::uint32_t uses) const {
    if (has_uses()) *word(row, uses_) = uses;
  }
  void set_policy(Row row, std::uint32_t policy) const {
    if (has_policies()) *word(row, policy_) = policy;
  }

  void fetch_row(Row row, Need need) const {
    fetch(needed(row, need));
    fetch_rest(needed(row, need), bytes(need));
  }
  // The same, from the disk as well.
  void fetch_row(Row row, Need need, bool from_disk) const {
    fetch_row(row, need);
    if (from_disk) ask_for_row(row, need);
  }
  void ask_for_row(Row row, Need need) const {
    if (row != kNoRow) ask_for(needed(row, need), bytes(need));
  }
  bool in_file() const { return in_file_; }
  const char* needed(Row row, Need need) const { return at(row) + (need == Need::stamps ? stamps_ : 0); }
  std::size_t bytes(Need need) const { return need == Need::stamps ? stride_ - stamps_ : stride_; }

  std::size_t dim() const { return dim_; }
  std::size_t value_bytes() const { return value_bytes_; }
  std::size_t state_floats() const { return state_floats_; }
  std::size_t stamp_bytes() const { return stride_ - value_bytes_ - state_floats_ * sizeof(float); }
  std::size_t stride() const { return stride_; }

 protected:
  explicit RowView(const RowOptions& options);

  void begin_at(char* start) { start_ = start; }
  void set_lower_half(Row row, std::uint32_t half) const { *at<std::uint32_t>(row, lower_half_) = half; }

 private:
  template <class T>
  T* at(Row row, std::size_t place) const {
    return reinterpret_cast<T*>(at(row) + place);
  }
  std::int64_t* time_of(Row row) const { return at<std::int64_t>(row, time_); }
  std::uint32_t* word(Row row, std::size_t i) const { return at<std::uint32_t>(row, words_) + i; }
  void decode(const char* row, float* out) const;

  Storage storage_;
  std::size_t dim_, state_floats_, value_bytes_;
  std::size_t stamps_, time_, admitted_, words_;  // where in a row, in bytes
  std::size_t uses_, policy_, end_words_;         // which of the words; 0: not there
  std::size_t lower_half_, stride_;
  bool in_file_;
  char* start_ = nullptr;  // of row 0
};

}  // namespace monolith
