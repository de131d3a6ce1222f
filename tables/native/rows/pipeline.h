// A call's ids on their way to their rows, with memory fetched ahead of each stage: hash an id and fetch its index
// line; search that line and fetch the row; for one id in six, search the next line; see that it is the row.
//
// Ids go in blocks, each stage a block ahead of the next, so a block's lines are under way while others are worked on.
// A stage has short loops of its own, without a branch that cannot be predicted: their variables stay in registers, and
// the core works on as many ids at once as it has room for. Not thread safe: the table takes turns.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "rows/rows.h"

namespace monolith {

// Some of the ids, in order: the first one's number, and the hash and the row (kNoRow: none) of each.
struct Found {
  std::size_t first, count;
  const std::uint64_t* hashes;
  Row* rows;  // for the caller to write to as well
};

// Where a pipeline has its hashes from: source(first, n, room) gives those of n ids, in the room for them or elsewhere.
struct Ids {
  const std::int64_t* at;
  std::optional<std::uint64_t> salt = {};

  const std::uint64_t* operator()(std::size_t first, std::size_t n, std::uint64_t* room) const {
    hash_ids(at + first, n, salt, room);
    return room;
  }
};
struct Hashes {
  const std::uint64_t* at;

  const std::uint64_t* operator()(std::size_t first, std::size_t, std::uint64_t*) const { return at + first; }
};

template <class Source>
class Pipeline {
 public:
  Pipeline(const Rows& rows, Need need, std::size_t n, Source source)
      : rows_(rows), need_(need), n_(n), source_(source), disk_(rows.in_file()) {}

  std::size_t done() const { return done_; }  // ids that were handed out
  bool more() const { return done_ < n_; }

  // The next ids, some but not more than `limit`, with the rows that they have now. Valid until the next call.
  [[gnu::noinline]] Found next(std::size_t limit) {
    if (done_ % kBlock == 0) from_disk_ = disk_.reads(kBlock);
    if (changes_ != rows_.changes()) search_again();
    const std::size_t block = done_ / kBlock;
    if (done_ % kBlock == 0) {
      hash(block + 3);
      advance(block);
    }
    const std::size_t first = done_;
    done_ = std::min({first + limit, (block + 1) * kBlock, n_});
    return {first, done_ - first, hashes_[block % kBlocks] + first % kBlock, row_ + first % kRing};
  }

  // The row that the k-th of those has by now, if the caller added or removed some in the meantime.
  Row now(const Found& found, std::size_t k) const {
    return changes_ == rows_.changes() ? found.rows[k] : rows_.find(found.hashes[k]);
  }

 private:
  static constexpr std::size_t kBlock = 32;  // with the lines of a row, more than a core can have in flight
  static constexpr std::size_t kBlocks = 4, kRing = kBlocks * kBlock;

  struct Range {
    std::size_t begin, end;
  };
  Range ids(std::size_t block) const { return {std::min(n_, block * kBlock), std::min(n_, (block + 1) * kBlock)}; }

  // Before a block is handed out: it is settled, the next is searched, the one after that is hashed.
  void advance(std::size_t block) {
    search(block + 2);
    settle(block + 1);
    confirm(block);
  }
  void search_again() {
    const std::size_t block = done_ / kBlock, searched = done_ % kBlock == 0 ? 2 : 3;
    changes_ = rows_.changes();
    for (std::size_t k = block; k <= block + searched; ++k) hash(k);
    search(block);
    search(block + 1);
    settle(block);
    if (searched == 3) advance(block);
  }

  [[gnu::noinline]] void hash(std::size_t block) {
    const auto [begin, end] = ids(block);
    const std::size_t at = begin % kRing, n = end - begin;
    hashes_[block % kBlocks] = source_(begin, n, room_ + at);
    rows_.order().index_keys(hashes_[block % kBlocks], n, keys_ + at);
    rows_.homes().of(keys_ + at, n, home_ + at);
    for (std::size_t i = at; i < at + n; ++i) fetch(home_[i]);
    if (from_disk_) ask_for_lines(block);
  }
  [[gnu::noinline]] void search(std::size_t block) {
    std::uint8_t* const going_on = going_on_[block % kBlocks];
    std::uint32_t count = 0;
    const auto [begin, end] = ids(block);
    for (std::size_t k = 0; k < end - begin; ++k) {
      bool goes_on;
      row_[begin % kRing + k] = Index::search(home_[begin % kRing + k], keys_[begin % kRing + k], goes_on);
      going_on[count] = static_cast<std::uint8_t>(k);
      count += goes_on;
    }
    count_[block % kBlocks] = count;
    fetch_found(block);
    if (from_disk_) ask_for_rows(block);
  }
  // In a loop of its own: behind a fetch that misses the TLB the core goes on for some hundred instructions only.
  void fetch_found(std::size_t block) const {
    const char* const start = rows_.needed(0, need_);
    const std::size_t stride = rows_.stride(), bytes = rows_.bytes(need_);
    const auto [begin, end] = ids(block);
    for (std::uint32_t j = 0; j < count_[block % kBlocks]; ++j)
      fetch(home_[begin % kRing + going_on_[block % kBlocks][j]] + Index::kLine);
    for (std::size_t i = begin; i < end; ++i) {
      const char* const line = start + row_[i % kRing] * stride;
      fetch(line);
      fetch_rest(line, bytes);
    }
  }
  [[gnu::noinline]] void settle(std::size_t block) {
    for (std::uint32_t j = 0; j < count_[block % kBlocks]; ++j) {
      const std::size_t k = going_on_[block % kBlocks][j], i = block * kBlock % kRing + k;
      row_[i] = Index::search_on(home_[i], keys_[i]);
      rows_.fetch_row(row_[i], need_, from_disk_);
    }
  }
  [[gnu::noinline]] void confirm(std::size_t block) {  // that a candidate is the row: all but one in 10^9 are
    const RowView view = rows_;
    const std::uint64_t* const hashes = hashes_[block % kBlocks];
    const auto [begin, end] = ids(block);
    for (std::size_t k = 0; k < end - begin; ++k) {
      Row& row = row_[begin % kRing + k];
      if (row != kNoRow && view.lower_half(row) != static_cast<std::uint32_t>(keys_[begin % kRing + k]))
        row = rows_.find(hashes[k]);
    }
  }

  [[gnu::cold]] void ask_for_lines(std::size_t block) const {
    const auto [begin, end] = ids(block);
    for (std::size_t i = begin; i < end; ++i) ask_for(home_[i % kRing], Index::kLine * sizeof(IndexEntry));
  }
  [[gnu::cold]] void ask_for_rows(std::size_t block) const {
    const auto [begin, end] = ids(block);
    for (std::size_t i = begin; i < end; ++i) rows_.ask_for_row(row_[i % kRing], need_);
  }

  const Rows& rows_;
  const Need need_;
  const std::size_t n_;
  const Source source_;
  DiskWatch disk_;
  std::size_t done_ = 0;
  bool from_disk_ = false;
  std::uint64_t changes_ = ~std::uint64_t{0};  // what was searched holds as long as no rows come or go
  const std::uint64_t* hashes_[kBlocks];       // each block's: in room_, or where the source has them
  std::uint64_t room_[kRing];
  std::uint64_t keys_[kRing];
  const IndexEntry* home_[kRing];
  Row row_[kRing];
  std::uint8_t going_on_[kBlocks][kBlock];  // places in the block
  std::uint32_t count_[kBlocks];            // of those, in each block
};

}  // namespace monolith
