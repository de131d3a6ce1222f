// The rows and the index that finds them. Not thread safe but for last_seen: the table takes turns.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "hash.h"
#include "index.h"
#include "row_pool.h"
#include "row_view.h"

namespace monolith {

class Rows : public RowView {
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

  Index::Homes homes() const { return index_.homes(); }  // until a row is added

  // Calls visit(hash, row) for the rows of the bucket; the index walks ahead, so that they are fetched by then.
  template <class Visit>
  void each(std::size_t bucket, Visit visit) const {
    std::pair<std::uint32_t, Row> ahead[kAhead];
    std::size_t count = 0;
    DiskWatch disk(in_file());
    bool from_disk = false;
    const auto visit_at = [&](std::size_t i) {
      const auto [upper, row] = ahead[i % kAhead];
      visit(hash(upper, row), row);
    };
    index_.each(bucket, [&](std::uint32_t upper, Row row) {
      if (count >= kAhead) visit_at(count - kAhead);
      if (count % kAhead == 0) from_disk = disk.reads(kAhead);
      ahead[count++ % kAhead] = {upper, row};
      fetch_row(row, Need::tail, from_disk);
    });
    for (std::size_t i = count - std::min(count, kAhead); i < count; ++i) visit_at(i);
  }

  // The same for all rows whose hash has at least this upper half, until visit() says false.
  template <class Visit>
  void walk(std::uint32_t first, Visit visit) const {  // visit(upper half of the hash, row)
    index_.walk(first, visit);
  }
  std::uint64_t hash(std::uint32_t upper, Row row) const { return std::uint64_t{upper} << 32 | lower_half(row); }

  std::size_t bucket_size(std::size_t bucket) const { return bucket_sizes_[bucket]; }
  std::uint64_t size() const { return pool_.used() - shared_; }  // without the shared ones
  std::uint64_t free() const { return pool_.free(); }
  std::size_t index_bytes() const { return index_.bytes(); }
  std::uint64_t changes() const { return changes_; }  // rises when what find() answered may no longer hold

 private:
  static constexpr std::size_t kAhead = 32;

  std::uint32_t shared_;
  RowPool pool_;
  Index index_;
  std::vector<std::uint32_t> bucket_sizes_;
  std::uint64_t changes_ = 0;
};

}  // namespace monolith
