// The rows and the index that finds them. Not thread safe but for last_seen: the table takes turns.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "index/hash.h"
#include "index/index.h"
#include "index/secret_order.h"
#include "memory/row_pool.h"
#include "rows/row_view.h"
#include "rows/stretch.h"

namespace monolith {

class Rows : public RowView {
 public:
  explicit Rows(const RowOptions& options);

  Row find(std::uint64_t hash) const {
    const std::uint64_t key = order_.index_key(hash);
    return index_.find(key, [&](Row row) { return lower_half(row) == static_cast<std::uint32_t>(key); });
  }
  // What a hash without a row reads: one of the shared rows, which are in no index, or kNoRow.
  Row shared_row(std::uint64_t hash) const { return shared_ == 0 ? kNoRow : shared_at(shared_number(hash, shared_)); }
  Row shared_at(std::uint32_t number) const { return number + 1; }
  std::uint32_t shared() const { return shared_; }  // how many there are
  // A row of unspecified contents for a hash that has none. Where there is no room, it throws and all is as it was.
  Row add(std::uint64_t hash);
  void remove(std::uint64_t hash, Row row);
  // Makes an empty table's index for so many rows.
  void reserve(std::size_t count) { index_.reserve(count); }

  const SecretOrder& order() const { return order_; }
  Index::Homes homes() const { return index_.homes(); }  // until a row is added
  void fetch_entry(std::uint64_t hash) const { fetch(homes().of(order_.index_key(hash))); }

  // Calls visit(hash, row) for all rows, in no order; they are fetched by then.
  template <class Visit>
  void each(Visit visit) const {
    FetchedAhead ahead(*this, visit);
    index_.each(ahead);
    ahead.finish();
  }
  // For the rows of a bucket, in the order of hashes.
  template <class Visit>
  void each(std::size_t bucket, Visit visit) const {
    const std::uint64_t first = std::uint64_t{bucket} << 54;
    bring_up(listed_, first);
    listed_.visit(
        first, [this](Row row) { fetch_row(row, Need::stamps); },
        [&](std::uint64_t hash, Row row) {
          if (bucket_of(hash) != bucket) return false;
          visit(hash, row);
          return true;
        });
  }

  // For all rows whose hash is not below, in the order of hashes, until visit() says false.
  template <class Visit>
  void walk(std::uint64_t hash, Visit visit) const {
    walk_on(listed_, hash, visit);
  }
  // The same for eviction, which is elsewhere in the table than a sweep.
  template <class Visit>
  void walk_to_sample(std::uint64_t hash, Visit visit) const {
    walk_on(sampled_, hash, visit);
  }

  std::size_t bucket_size(std::size_t bucket) const { return bucket_sizes_[bucket]; }
  std::uint64_t size() const { return pool_.used() - shared_; }  // without the shared ones
  std::uint64_t free() const { return pool_.free(); }
  std::size_t index_bytes() const { return index_.bytes(); }
  std::size_t list_bytes() const { return listed_.bytes() + sampled_.bytes(); }
  std::uint64_t passed() const { return index_.passed(); }  // entries that insertions went past or moved so far
  std::uint64_t changes() const { return changes_; }        // rises when what find() answered may no longer hold

 private:
  static constexpr std::size_t kAhead = 32;

  // Calls visit(hash, row) for entries of the index, some later: their rows are fetched meanwhile.
  template <class Visit>
  class FetchedAhead {
   public:
    FetchedAhead(const Rows& rows, Visit& visit) : rows_(rows), visit_(visit), disk_(rows.in_file()) {}

    void operator()(std::uint32_t upper, Row row) {
      if (count_ >= kAhead) visit(count_ - kAhead);
      if (count_ % kAhead == 0) from_disk_ = disk_.reads(kAhead);
      ahead_[count_++ % kAhead] = {upper, row};
      rows_.fetch_row(row, Need::stamps, from_disk_);
    }
    void finish() {
      for (std::size_t i = count_ - std::min(count_, kAhead); i < count_; ++i) visit(i);
    }

   private:
    void visit(std::size_t i) {
      const auto [upper, row] = ahead_[i % kAhead];
      visit_(rows_.order_.hash_of_index_key(std::uint64_t{upper} << 32 | rows_.lower_half(row)), row);
    }

    const Rows& rows_;
    Visit& visit_;
    DiskWatch disk_;
    std::pair<std::uint32_t, Row> ahead_[kAhead];
    std::size_t count_ = 0;
    bool from_disk_ = false;
  };

  template <class Visit>
  void walk_on(Stretch& stretch, std::uint64_t hash, Visit visit) const {
    for (;;) {
      bring_up(stretch, hash);
      if (!stretch.visit(hash, [](Row) {}, visit) || stretch.end() == kBuckets) return;
      hash = std::uint64_t{stretch.end()} << 54;
    }
  }
  void bring_up(Stretch& stretch, std::uint64_t hash) const;
  void list(Stretch& stretch, std::size_t first) const;
  void copy_entries(std::size_t first, std::size_t end, IndexEntry* next) const;

  const SecretOrder order_;
  std::uint32_t shared_;
  RowPool pool_;
  Index index_;
  std::vector<std::uint32_t> bucket_sizes_;
  mutable Stretch listed_, sampled_;
  std::uint64_t changes_ = 0;
};

}  // namespace monolith
