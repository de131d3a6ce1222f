// The rows and the index that finds them.
//
// A row is `values | state | tail` at one place, so that the memory lines fetched for the values bring what else a step
// needs. The tail holds when the id was last seen, the sequence in which the row was written last (`mark`), the lower
// half of its hash, which with the index entry makes the whole, and `slot`, scratch of the writer, which readers never
// look at; and, where the table's rules ask for them, when the row was made, how often its id was seen since, and which
// policy it is under. A row starts at a multiple of 8 bytes. Not thread safe but for last_seen, which the writer may
// raise while readers look: the table takes turns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "hash.h"
#include "index.h"
#include "row_pool.h"
#include "storage.h"

namespace monolith {

enum class Need { tail, values, all };  // what of a row the next stage reads

inline void fetch(const void* line) { __builtin_prefetch(line, 0, 3); }

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

class Rows {
 public:
  explicit Rows(const RowOptions& options);

  Row find(std::uint64_t hash) const {
    return index_.find(hash, [&](Row row) { return lower_half(row) == static_cast<std::uint32_t>(hash); });
  }
  // What a hash without a row reads: one of the shared rows, which are in no index, or kNoRow.
  Row shared_row(std::uint64_t hash) const { return shared_ == 0 ? kNoRow : shared_at(shared_number(hash, shared_)); }
  Row shared_at(std::uint32_t number) const { return number + 1; }
  std::uint32_t shared() const { return shared_; }  // how many there are
  // A row of unspecified contents for a hash that has none. Where there is no room, it throws and all is as it was.
  Row add(std::uint64_t hash);
  void remove(std::uint64_t hash, Row row);

  // Stages of the pipeline: each fetches what the next one reads.
  void fetch_home(std::uint64_t hash) const { fetch(index_.home(hash)); }
  Row search(std::uint64_t hash, Need need) const {  // a candidate, kNoRow, or kGoesOn
    const Row row = index_.search(hash);
    const auto* next_line = reinterpret_cast<const char*>(index_.home(hash) + Index::kLine);
    fetch_row(row == Index::kGoesOn ? next_line : at(row), need);
    return row;
  }
  Row search_on(std::uint64_t hash, Need need) const {  // a candidate or kNoRow
    const Row row = index_.search_on(hash);
    fetch_row(row, need);
    return row;
  }
  // The row of a candidate's hash: itself, but for one in 10^9.
  Row confirmed(Row candidate, std::uint64_t hash) const {
    if (candidate == kNoRow || lower_half(candidate) == static_cast<std::uint32_t>(hash)) return candidate;
    return find(hash);
  }

  template <class Visit>
  void each(std::size_t bucket, Visit visit) const {  // visit(hash, row)
    index_.each(bucket,
                [&](std::uint32_t upper, Row row) { visit(std::uint64_t{upper} << 32 | lower_half(row), row); });
  }

  // The same for all rows whose hash has at least this upper half, until visit() says false.
  template <class Visit>
  void walk(std::uint32_t first, Visit visit) const {  // visit(upper half of the hash, row)
    index_.walk(first, visit);
  }
  std::uint64_t hash(std::uint32_t upper, Row row) const { return std::uint64_t{upper} << 32 | lower_half(row); }

  char* at(Row row) const { return pool_.at(row); }
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

  std::int64_t last_seen(Row row) const { return __atomic_load_n(time_of(row), __ATOMIC_RELAXED); }
  void set_last_seen(Row row, std::int64_t ms) const { __atomic_store_n(time_of(row), ms, __ATOMIC_RELAXED); }
  std::uint32_t mark(Row row) const { return *word(row, 0); }
  std::uint32_t slot(Row row) const { return *word(row, 1); }
  void set_mark(Row row, std::uint32_t mark) const { *word(row, 0) = mark; }
  void set_slot(Row row, std::uint32_t slot) const { *word(row, 1) = slot; }

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

  void fetch_row(Row row, Need need) const { fetch_row(at(row), need); }

  std::size_t dim() const { return dim_; }
  std::size_t value_bytes() const { return value_bytes_; }
  std::size_t state_floats() const { return state_floats_; }
  std::size_t tail_bytes() const { return stride_ - value_bytes_ - state_floats_ * sizeof(float); }
  std::size_t bucket_size(std::size_t bucket) const { return bucket_sizes_[bucket]; }
  std::uint64_t size() const { return pool_.used() - shared_; }  // without the shared ones
  std::uint64_t free() const { return pool_.free(); }
  std::size_t stride() const { return stride_; }
  std::size_t index_bytes() const { return index_.bytes(); }
  std::uint64_t changes() const { return changes_; }  // rises when what find() answered may no longer hold

 private:
  // The lines of what is needed, one of them perhaps twice: how many calls that takes does not depend on where they
  // begin, so that the branch is predicted.
  void fetch_row(const char* begin, Need need) const {
    const char* const end = begin + stride_;
    for (const char* line = need == Need::tail ? begin + tail_ : begin; line < end; line += 64) fetch(line);
    fetch(end - 1);
  }
  template <class T>
  T* at(Row row, std::size_t place) const {
    return reinterpret_cast<T*>(at(row) + place);
  }
  std::int64_t* time_of(Row row) const { return at<std::int64_t>(row, time_); }
  std::uint32_t* word(Row row, std::size_t i) const { return at<std::uint32_t>(row, words_) + i; }
  std::uint32_t lower_half(Row row) const { return *reinterpret_cast<std::uint32_t*>(at(row) + lower_half_); }
  void decode(const char* row, float* out) const;

  Storage storage_;
  std::size_t dim_, state_floats_, value_bytes_;
  std::size_t tail_, time_, admitted_, words_;  // where in a row, in bytes
  std::size_t uses_, policy_, end_words_;       // which of the words; 0: not there
  std::size_t lower_half_, stride_;
  std::uint32_t shared_;
  RowPool pool_;
  Index index_;
  std::vector<std::uint32_t> bucket_sizes_;
  std::uint64_t changes_ = 0;
};

}  // namespace monolith
