// What one training step's forward found out about its ids, kept for its backward: no id is hashed or probed twice.
//
// Every occurrence has a place in the list of the step's rows, each of which is in it once. Finding a row's place needs
// no second hash table: the row's `slot` holds it, and is believed only if that place holds the row, so steps may
// overlap. Places are written under a key of the step: what an earlier step left there is then, but for one in 10^4, no
// place at all, and the list is not read at random to find that out. Rows are known by number, which holds until a row
// is removed; holds() says whether all is as it was. A step belongs to one table and is not thread safe by itself: its
// table's calls are.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "rows.h"

namespace monolith {

class Step {
 public:
  static constexpr std::uint32_t kAbsent = UINT32_MAX;

  struct UniqueRow {
    Row row;
    std::uint32_t first;  // position of its first occurrence
  };

  void begin(const std::int64_t* ids, std::size_t n) {
    ids_.assign(ids, ids + n);
    restart();
  }
  void restart() {  // with the same ids
    if (unique_.size() < ids_.size() + 1) grow();
    unique_count_ = repeat_count_ = absent_ = 0;
    key_ = steps_begun.fetch_add(1, std::memory_order_relaxed) * 0x9E3779B9u;  // 2^32 / golden ratio: far apart
  }

  // The next occurrence, in order: its row, or kNoRow.
  void add(const Rows& rows, Row row, std::size_t position) {
    if (row == kNoRow) {
      place_[position] = kAbsent;
      ++absent_;
      return;
    }
    const std::uint32_t slot = rows.slot(row) ^ key_;
    // Beyond the count are rows of other steps. The count comes into it last, so that ids do not wait for one another.
    const std::uint32_t believed = slot < unique_.size() ? slot : 0;
    const bool repeated = (unique_[believed].row == row) & (believed < unique_count_);
    const std::uint32_t place = repeated ? believed : unique_count_;
    // Written in any case: whether an id is repeated cannot be predicted, and a wrong guess costs more.
    unique_[unique_count_] = {row, static_cast<std::uint32_t>(position)};
    repeats_[repeat_count_] = static_cast<std::uint32_t>(position);
    rows.set_slot(row, place ^ key_);
    place_[position] = place;
    unique_count_ += !repeated;
    repeat_count_ += repeated;
  }
  void end(const Rows& rows, std::int64_t cutoff_ms) {
    changes_ = rows.changes();
    cutoff_ms_ = cutoff_ms;
  }

  // True if every occurrence has the row it had at end(), and none that was absent has come.
  bool holds(const Rows& rows, std::int64_t cutoff_ms) const {
    return changes_ == rows.changes() && cutoff_ms_ == cutoff_ms;
  }

  std::size_t size() const { return ids_.size(); }
  const std::int64_t* ids() const { return ids_.data(); }
  std::size_t absent() const { return absent_; }
  std::uint32_t place(std::size_t position) const { return place_[position]; }
  std::size_t unique_count() const { return unique_count_; }
  const UniqueRow* unique() const { return unique_.data(); }
  Row row(std::size_t position) const { return place_[position] == kAbsent ? kNoRow : unique_[place_[position]].row; }
  // Positions of all occurrences but their row's first, ascending.
  const std::uint32_t* repeats() const { return repeats_.data(); }
  std::size_t repeat_count() const { return repeat_count_; }
  std::size_t bytes() const {
    return ids_.capacity() * sizeof(std::int64_t) + unique_.capacity() * sizeof(UniqueRow) +
           (place_.capacity() + repeats_.capacity()) * sizeof(std::uint32_t);
  }

 private:
  void grow() {
    place_.resize(ids_.size());
    repeats_.resize(ids_.size() + 1);
    unique_.resize(ids_.size() + 1);
  }

  std::vector<std::int64_t> ids_;
  // Sized for the largest step so far: only what the counts name is of this one.
  std::vector<std::uint32_t> place_, repeats_;
  std::vector<UniqueRow> unique_;
  inline static std::atomic<std::uint32_t> steps_begun{1};
  std::uint32_t unique_count_ = 0, repeat_count_ = 0, key_ = 0;
  std::size_t absent_ = 0;
  std::uint64_t changes_ = 0;
  std::int64_t cutoff_ms_ = 0;
};

}  // namespace monolith
