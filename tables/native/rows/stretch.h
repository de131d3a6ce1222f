// The rows of some neighbouring buckets, in the order of their ids' hashes.
//
// Sweeps, eviction and export go through a table by hash, of which the index, in its secret order, knows nothing. So
// the rows of the buckets at hand are listed and sorted. The list is kept while rows come and go: a row that goes is
// struck out, rows that come are a second, small list beside the first, which takes them in when they are many. Not
// thread safe: the table takes turns.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "index/hash.h"
#include "memory/row_pool.h"

namespace monolith {

struct HashAndRow {
  std::uint64_t hash;
  Row row;
};

class Stretch {
 public:
  // Worth a look at the index, where the buckets have so many: one look finds those of all of them.
  static constexpr std::size_t kRows = 16384;
  static constexpr std::size_t kWhole = 2 * kRows;  // a table of no more is listed as a whole
  static constexpr std::size_t kAhead = 32;         // how many rows before its turn a row is announced

  bool covers(std::size_t bucket) const { return first_ <= bucket && bucket < end_; }
  std::size_t end() const { return end_; }  // the first bucket that is not covered any more

  // Covers the buckets [first, end), whose rows are these, in any order.
  void take(std::size_t first, std::size_t end, const std::vector<HashAndRow>& rows);
  void came(std::uint64_t hash, Row row) {
    if (!covers(bucket_of(hash))) return;
    if (come_.size() - sorted_ == kRows) return forget();
    come_.push_back({hash, row});
  }
  void went(std::uint64_t hash) {
    if (covers(bucket_of(hash))) strike(hash);
  }
  // Puts what came since in order, to be called before visit(): find(hash) is a hash's row now, or kNoRow.
  template <class Find>
  void bring_up(Find find) {
    if (doubtful_)
      for (auto each = unsorted(); each != come_.end(); ++each) each->row = find(each->hash);
    if (sorted_ != come_.size()) sort_in();
    if (sorted_ > kFewer + rows_.size() / 8 || struck_ > kFewer + rows_.size() / 4) fold();
  }

  // Calls visit(hash, row) for the rows from a hash on, in the order of hashes, until it says false. Whether it never
  // did. ahead(row) is told of most rows some before their turn.
  template <class Ahead, class Visit>
  bool visit(std::uint64_t hash, Ahead ahead, Visit visit) const {
    const HashAndRow* come = at_or_after(come_, hash);
    const HashAndRow *const come_end = come_.data() + come_.size(), *const end = rows_.data() + rows_.size();
    const auto goes_on = [&](const HashAndRow& each) { return each.row == kNoRow || visit(each.hash, each.row); };
    for (const HashAndRow* next = at_or_after(rows_, hash); next != end; ++next) {
      for (; come != come_end && come->hash < next->hash; ++come)
        if (!goes_on(*come)) return false;
      if (end - next > std::ptrdiff_t{kAhead}) ahead(next[kAhead].row);
      if (!goes_on(*next)) return false;
    }
    for (; come != come_end; ++come)
      if (!goes_on(*come)) return false;
    return true;
  }

  std::size_t bytes() const { return (rows_.capacity() + come_.capacity()) * sizeof(HashAndRow); }

 private:
  static constexpr std::size_t kFewer = 64;  // too few to be worth a pass over the list

  static bool before(const HashAndRow& each, std::uint64_t hash) { return each.hash < hash; }
  static const HashAndRow* at_or_after(const std::vector<HashAndRow>& rows, std::uint64_t hash) {
    return std::lower_bound(rows.data(), rows.data() + rows.size(), hash, before);
  }
  std::vector<HashAndRow>::iterator unsorted() { return come_.begin() + static_cast<std::ptrdiff_t>(sorted_); }
  void strike(std::uint64_t hash);
  void sort_in();
  void fold();
  void forget();

  std::size_t first_ = 0, end_ = 0;  // buckets
  std::vector<HashAndRow> rows_;     // kNoRow: struck out, as in those that came
  std::vector<HashAndRow> come_;
  std::size_t sorted_ = 0;  // of those that came: the first ones
  std::size_t struck_ = 0;  // of rows_
  bool doubtful_ = false;   // whether some that came, and are not sorted, went again
};

}  // namespace monolith
