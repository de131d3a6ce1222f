// A call's ids on their way to their rows, with memory fetched ahead of each stage: hash an id and fetch its index
// line; search the line and fetch the row; the caller's work. Each stage is kAhead ids before the next, id by id, so
// that what is fetched and what is computed overlap all the time. Not thread safe: the table takes turns.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "rows.h"

namespace monolith {

template <class Source>  // source(i): the hash of the i-th id
class Pipeline {
 public:
  Pipeline(const Rows& rows, Need need, std::size_t n, Source source)
      : rows_(rows), need_(need), n_(n), source_(source) {}

  bool more() const { return done_ < n_; }

  // Calls visit(i, hash, row) for the next `count` ids, or as many as are left. `row` is the one that the id has then,
  // kNoRow if it has none, whatever earlier visits added and removed.
  template <class Visit>
  [[gnu::flatten]] void next(std::size_t count, Visit visit) {
    if (done_ == 0) start();
    if (changes_ != rows_.changes()) search_again();
    const std::size_t end = done_ + std::min(count, n_ - done_);
    for (std::size_t i = done_; i < end; ++i) {
      if (i + 3 * kAhead < n_) hash_one(i + 3 * kAhead);
      if (i + 2 * kAhead < n_) search_one(i + 2 * kAhead);
      if (i + kAhead < n_) settle_one(i + kAhead);
      const std::uint64_t hash = hash_[i % kRing];
      visit(i, hash, changes_ == rows_.changes() ? rows_.confirmed(row_[i % kRing], hash) : rows_.find(hash));
    }
    done_ = end;
  }

 private:
  static constexpr std::size_t kAhead = 16;  // with the lines of a row, more than a core can have in flight
  static constexpr std::size_t kRing = 128;

  void start() {
    for (std::size_t i = 0; i < std::min(n_, 3 * kAhead); ++i) hash_one(i);
    search_again();
  }
  void search_again() {
    changes_ = rows_.changes();
    for (std::size_t i = done_; i < std::min(n_, done_ + 2 * kAhead); ++i) search_one(i);
    for (std::size_t i = done_; i < std::min(n_, done_ + kAhead); ++i) settle_one(i);
  }
  void hash_one(std::size_t i) {
    const std::uint64_t hash = source_(i);
    hash_[i % kRing] = hash;
    rows_.fetch_home(hash);
  }
  void search_one(std::size_t i) { row_[i % kRing] = rows_.search(hash_[i % kRing], need_); }
  void settle_one(std::size_t i) {  // one in ten searches goes on in the next line
    if (row_[i % kRing] == Index::kGoesOn) row_[i % kRing] = rows_.search_on(hash_[i % kRing], need_);
  }

  const Rows& rows_;
  const Need need_;
  const std::size_t n_;
  const Source source_;
  std::size_t done_ = 0;
  std::uint64_t changes_ = 0;  // what was searched holds as long as so many rows have come and gone
  std::uint64_t hash_[kRing];
  Row row_[kRing];  // candidates, which confirmed() makes sure of
};

}  // namespace monolith
