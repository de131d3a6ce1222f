// What one training step's forward found out about its ids, kept for its backward: no id is hashed or probed twice.
//
// The step's rows are listed, each once, and every other occurrence of an id has a place in that list. Finding a row's
// place needs no second hash table: the row's `slot` holds it, and is believed only if that place holds the row, so
// steps may overlap. Places are written under a key of the step: what an earlier step left there is then, but for one
// in 10^4, no place at all, and the list is not read at random to find that out. Rows are known by number, which holds
// until a row is removed; holds() says whether all is as it was.
//
// A large call is worked on by several threads: each takes the ids of one range of hashes, its group, so that no two
// touch the same row, and what comes out does not depend on their number. Where ids without a row share the rows of a
// tail, their occurrences are one more group, the last. A step belongs to one table and is not thread safe by itself:
// its table's calls are.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "rows/rows.h"
#include "table/parts.h"

namespace monolith {

// How many groups so many ids of a call are worth. `of` is how many ids the call has in all its tables: a table that
// has few of them is one group, since other tables are there to be worked on beside it.
unsigned groups_for(std::size_t ids, std::size_t of);

// An occurrence of an id without a row, and the number of the shared row that it reads.
struct Shared {
  std::size_t position;
  std::uint32_t number;
};

// The occurrences of a step's ids in one range of hashes, in order: the i-th is at position(i) of the call.
class Group {
 public:
  struct UniqueRow {
    Row row;
    std::uint32_t first;  // which occurrence is its first
  };
  struct Repeat {
    std::uint32_t i, place;  // an occurrence that is not its row's first, and where in the list the row is
  };

  // Takes those of the parts' ids that fall into the group `number` of `groups`.
  void begin(const Parts& parts, unsigned number, unsigned groups);
  void restart(std::uint32_t key);                                      // with the same ids, none of them resolved
  void take(const Rows& rows, const std::vector<Shared>& occurrences);  // and no others; they ascend by position

  std::size_t size() const { return size_; }
  std::uint64_t hash(std::size_t i) const { return hashes_[i]; }
  const std::uint64_t* hashes() const { return hashes_.data(); }
  std::size_t position(std::size_t i) const { return positions()[i]; }
  struct Positions {          // for loops, as RowView is
    const std::uint32_t* at;  // null: i is at i

    std::size_t operator[](std::size_t i) const { return at == nullptr ? i : at[i]; }
  };
  Positions positions() const { return {positions_.empty() ? nullptr : positions_.data()}; }
  std::size_t end(std::size_t feature) const { return ends_[feature]; }  // the feature's occurrences come before it

  // Adds to the list. By itself, so that its counts stay in registers while rows are written; one at a time.
  class Adder {
   public:
    Adder(Group& group, const Rows& rows)
        : group_(group),
          rows_(rows),
          unique_(group.unique_.data()),
          repeats_(group.repeats_.data()),
          key_(group.key_),
          last_(static_cast<std::uint32_t>(group.unique_.size() - 1)),
          unique_count_(group.unique_count_),
          repeat_count_(group.repeat_count_) {}
    ~Adder() {
      group_.unique_count_ = unique_count_;
      group_.repeat_count_ = repeat_count_;
    }
    Adder(const Adder&) = delete;
    Adder& operator=(const Adder&) = delete;

    // The i-th occurrence has the row.
    void add(Row row, std::size_t i) {
      const std::uint32_t believed = std::min(rows_.slot(row) ^ key_, last_);
      // Beyond the count are rows of other steps. The count comes into it last, so that ids do not wait for one
      // another.
      const bool repeated = (unique_[believed].row == row) & (believed < unique_count_);
      const std::uint32_t place = repeated ? believed : unique_count_;
      // Written in any case: whether an id is repeated cannot be predicted, and a wrong guess costs more.
      unique_[unique_count_] = {row, static_cast<std::uint32_t>(i)};
      repeats_[repeat_count_] = {static_cast<std::uint32_t>(i), place};
      rows_.set_slot(row, place ^ key_);
      unique_count_ += !repeated;
      repeat_count_ += repeated;
    }

   private:
    Group& group_;
    const RowView rows_;
    UniqueRow* const unique_;
    Repeat* const repeats_;
    const std::uint32_t key_, last_;
    std::uint32_t unique_count_, repeat_count_;
  };
  // The i-th occurrence has no row, at least not yet.
  void defer(std::size_t i) { deferred_.push_back(static_cast<std::uint32_t>(i)); }
  bool contains(const Rows& rows, Row row) const {
    const std::uint32_t place = rows.slot(row) ^ key_;
    return place < unique_count_ && unique_[place].row == row;
  }

  const UniqueRow* unique() const { return unique_.data(); }
  std::size_t unique_count() const { return unique_count_; }
  const Repeat* repeats() const { return repeats_.data(); }
  std::size_t repeat_count() const { return repeat_count_; }
  const std::vector<std::uint32_t>& deferred() const { return deferred_; }
  std::size_t bytes() const {
    return (hashes_.capacity() + unique_.capacity() + repeats_.capacity()) * sizeof(std::uint64_t) +
           (positions_.capacity() + deferred_.capacity()) * sizeof(std::uint32_t);
  }

 private:
  void reserve();
  void take_all(const Parts& parts);
  void take_some(const Parts& parts, unsigned number, unsigned groups);

  std::size_t size_ = 0;
  // Sized for the largest step so far: only what the counts name is of this one.
  std::vector<std::uint64_t> hashes_;
  std::vector<UniqueRow> unique_;
  std::vector<Repeat> repeats_;
  std::vector<std::size_t> ends_;         // of each feature
  std::vector<std::uint32_t> positions_;  // empty: the only group, which holds every position
  std::vector<std::uint32_t> deferred_;
  std::uint32_t unique_count_ = 0, repeat_count_ = 0, key_ = 0;
};

class Step {
 public:
  // What backward has to know of a part.
  struct Feature {
    std::size_t begin, end;  // its positions
    bool pooled, mean;
    std::vector<std::int32_t> lengths;
    std::vector<float> weights;

    float divisor(std::size_t sample) const {
      if (!mean || lengths.empty()) return 1.0f;
      return static_cast<float>(std::max(lengths[sample], std::int32_t{1}));
    }
  };

  void begin(const Parts& parts, unsigned groups, bool shared);
  void restart();
  // The occurrences that share rows, in any order.
  void share(const Rows& rows, std::vector<Shared>& occurrences);
  // Of a part of a table, whose parts all have the tail: those of all parts in place of its own, as one more feature,
  // by the numbers of their shared rows. `counts`: bad sums are to be counted here, and not by another part.
  void share_instead(const Rows& rows, const std::int64_t* numbers, std::size_t count, bool counts);
  std::vector<std::int64_t> sharing() const;  // positions of the occurrences that share rows
  void end(const Rows& rows, std::int64_t cutoff_ms, std::size_t absent, bool whole) {
    changes_ = rows.changes();
    cutoff_ms_ = cutoff_ms;
    absent_ = absent;
    whole_ = whole;
  }

  // True if every occurrence has the row it had at end(), and none that was absent has come.
  bool holds(const Rows& rows, std::int64_t cutoff_ms) const {
    return whole_ && changes_ == rows.changes() && cutoff_ms_ == cutoff_ms;
  }

  std::size_t size() const { return size_; }
  std::size_t own_size() const { return own_size_; }  // without what share_instead() added
  bool counts(std::size_t group) const { return group < by_hash_ || counts_shared_; }
  std::size_t unique_count() const {  // of rows that ids have for themselves
    std::size_t rows = 0;
    for (std::size_t k = 0; k < by_hash_; ++k) rows += groups_[k].unique_count();
    return rows;
  }
  std::size_t absent() const { return absent_; }  // occurrences that have no row
  std::vector<Group>& groups() { return groups_; }
  const std::vector<Group>& groups() const { return groups_; }
  std::size_t by_hash() const { return by_hash_; }  // how many groups are ranges of hashes: all, or all but the last
  bool contains(const Rows& rows, std::uint64_t hash, Row row) const {
    return groups_[number_of(hash, by_hash_)].contains(rows, row);
  }

  const std::vector<Feature>& features() const { return features_; }
  // The feature that a position belongs to, when that of a position nearby is `near`.
  std::size_t feature_at(std::size_t position, std::size_t near) const {
    while (position >= features_[near].end) ++near;
    while (position < features_[near].begin) --near;
    return near;
  }
  std::size_t sample_at(std::size_t position, const Feature& feature) const {
    return feature.pooled ? samples_[position] : position - feature.begin;
  }
  // The row of each position, while vectors are pooled; kNoRow: none.
  std::vector<Row>& rows_at() { return rows_at_; }
  std::size_t bytes() const;

  static std::size_t number_of(std::uint64_t hash, std::size_t groups) {
    return static_cast<std::size_t>(((hash >> 32) * groups) >> 32);
  }

 private:
  void keep(const Parts& parts);

  std::size_t size_ = 0, own_size_ = 0, absent_ = 0, by_hash_ = 1;
  std::vector<Group> groups_{1};
  std::vector<Feature> features_;
  std::vector<std::uint32_t> samples_;  // of each position, if any feature is pooled
  std::vector<Row> rows_at_;
  inline static std::atomic<std::uint32_t> steps_begun{1};
  std::uint64_t changes_ = 0;
  std::int64_t cutoff_ms_ = 0;
  bool whole_ = false, counts_shared_ = true;
};

}  // namespace monolith
