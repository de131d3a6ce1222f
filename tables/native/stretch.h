// The rows of some neighbouring buckets, in the order of their ids' hashes.
//
// Sweeps, eviction and export go through a table by hash, of which the index, in its secret order, knows nothing. So
// the rows of the buckets at hand are listed and sorted; the list is kept while rows come and go, since a small table's
// is asked for again and again. Not thread safe: the table takes turns.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "hash.h"
#include "row_pool.h"

namespace monolith {

struct HashAndRow {
  std::uint64_t hash;
  Row row;
};

class Stretch {
 public:
  // Worth a look at the index, where the buckets have so many: one look finds those of all of them.
  static constexpr std::size_t kRows = 16384;

  bool covers(std::size_t bucket) const { return first_ <= bucket && bucket < end_; }
  std::size_t end() const { return end_; }  // the first bucket that is not covered any more

  // Says that the hash's row came or went.
  void changed(std::uint64_t hash) {
    if (!covers(bucket_of(hash))) return;
    if (changed_.size() == kRows) return forget();
    highest_changed_ = changed_.empty() ? hash : std::max(highest_changed_, hash);
    changed_.push_back(hash);
  }
  // Whether a row came or went whose hash is not below.
  bool has_changed_from(std::uint64_t hash) const { return !changed_.empty() && highest_changed_ >= hash; }
  void forget() {
    first_ = end_ = 0;
    rows_.clear();
    changed_.clear();
  }

  // Covers the buckets [first, end), whose rows are these, in any order.
  void take(std::size_t first, std::size_t end, const std::vector<HashAndRow>& rows);
  // Puts right what has changed: find(hash) is a hash's row now, or kNoRow.
  template <class Find>
  void update(Find find) {
    std::vector<HashAndRow> now;
    std::sort(changed_.begin(), changed_.end());
    changed_.erase(std::unique(changed_.begin(), changed_.end()), changed_.end());
    for (const std::uint64_t hash : changed_)
      if (const Row row = find(hash)) now.push_back({hash, row});
    merge(now);
  }

  // The rows from a hash on.
  std::vector<HashAndRow>::const_iterator from(std::uint64_t hash) const {
    return std::lower_bound(rows_.begin(), rows_.end(), hash,
                            [](const HashAndRow& each, std::uint64_t wanted) { return each.hash < wanted; });
  }
  std::vector<HashAndRow>::const_iterator last() const { return rows_.end(); }
  std::size_t bytes() const {
    return rows_.capacity() * sizeof(HashAndRow) + changed_.capacity() * sizeof(std::uint64_t);
  }

 private:
  void merge(const std::vector<HashAndRow>& now);

  std::size_t first_ = 0, end_ = 0;  // buckets
  std::vector<HashAndRow> rows_;
  std::uint64_t highest_changed_ = 0;
  std::vector<std::uint64_t> changed_;  // hashes whose rows came or went since
};

}  // namespace monolith
