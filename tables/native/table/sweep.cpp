// The sweep: rows that expired or stayed small, and counters that decayed to nothing, go in passing, a bounded number
// of them at a time.
//
// It goes round the table in the order of hashes' upper halves, rows and counters side by side, from where it ended
// before. So what goes in a sweep is a function of the table's state, and not of where rows and counters lie.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "table/table.h"

namespace monolith {
namespace {

constexpr std::size_t kAhead = 32;  // rows fetched before they are looked at
constexpr std::size_t kATurn = 64;  // rows removed in one turn

}  // namespace

Swept Table::sweep(std::size_t buckets, std::uint64_t max_rows) {
  const Writing writing(writer_);
  std::uint64_t removed = 0, left = max_rows;
  std::uint64_t to_pass = std::min(buckets, kBuckets) * HashRange::kBucket;
  while (to_pass != 0 && left != 0) {
    HashRange range = HashRange::from(sweep_cursor_, to_pass);
    left -= std::min(left, first_looks(range, left));
    for (Counters& counters : counters_) counters.sweep(range, clock_ms_);
    removed += sweep_rows(range);
    to_pass -= range.size();
    sweep_cursor_ = static_cast<std::uint32_t>(range.end);  // round the end of all hashes
  }
  return {removed, max_rows - left};
}

std::uint64_t Table::sweepable() const {
  const Writing writing(writer_);
  std::uint64_t all = sweeps_rows_ ? rows_.size() : 0;
  for (const Counters& counters : counters_)
    if (counters.decays()) all += counters.size();
  return all;
}

// Ends the range behind the `most`-th row or counter that is to be looked at, if it has so many. How many it has then,
// those beside the last that have its upper half not counted.
std::uint64_t Table::first_looks(HashRange& range, std::uint64_t most) const {
  const std::size_t bucket = range.bucket();
  std::uint64_t all = sweeps_rows_ ? rows_.bucket_size(bucket) : 0;
  for (const Counters& counters : counters_)
    if (counters.decays()) all += counters[bucket].size();
  if (all == 0 || (range.whole() && all < most)) return all;

  std::vector<std::uint32_t> uppers;
  uppers.reserve(static_cast<std::size_t>(all));
  if (sweeps_rows_)
    rows_.walk(range.begin << 32, [&](std::uint64_t hash, Row) {
      if (hash >> 32 >= range.end || uppers.size() >= most) return false;
      uppers.push_back(static_cast<std::uint32_t>(hash >> 32));
      return true;
    });
  for (const Counters& counters : counters_)
    if (counters.decays())
      counters[bucket].each([&](const Counter& counter) {
        const std::uint64_t hash = counters.hash_of(counter);
        if (range.contains(hash)) uppers.push_back(static_cast<std::uint32_t>(hash >> 32));
      });
  if (uppers.size() < most) return uppers.size();
  const auto last = uppers.begin() + static_cast<std::ptrdiff_t>(most - 1);
  std::nth_element(uppers.begin(), last, uppers.end());
  range.end = std::uint64_t{*last} + 1;
  return most;
}

std::uint64_t Table::sweep_rows(HashRange range) {
  if (cutoff_ == INT64_MIN && !options_.pruning.prunes()) return 0;
  struct Gone {
    std::uint64_t hash;
    Row row;
    Reason reason;
  };
  std::vector<Gone> gone;
  std::vector<float> scratch(options_.dim);
  std::uint64_t pruned = 0;
  const auto look = [&](std::uint64_t hash, Row row) {
    if (expired(row)) {
      gone.push_back({hash, row, expiry_of(row)});
    } else if (options_.pruning.prunes() && stayed_small(row, scratch)) {
      gone.push_back({hash, row, Reason::pruned});
      ++pruned;
    }
  };
  if (range.whole())
    rows_.each(range.bucket(), look);
  else
    each_in(range, look);
  for (std::size_t begin = 0; begin < gone.size(); begin += kATurn) {
    WriterTurn turn(turnstile_);
    for (std::size_t i = begin; i < std::min(begin + kATurn, gone.size()); ++i)
      remove(gone[i].hash, gone[i].row, gone[i].reason);
  }
  statistics_.swept += gone.size() - pruned;
  tombstones_.keep_within(rows_.size());
  return gone.size();
}

// Whether the row's probation is over by the table's clock, and its values are no larger than the threshold in the
// mean.
bool Table::stayed_small(Row row, std::vector<float>& scratch) const {
  const Pruning& pruning = options_.pruning;
  if (clock_ms_ < INT64_MIN + pruning.probation_ms || rows_.admitted(row) > clock_ms_ - pruning.probation_ms)
    return false;
  rows_.read(row, options_.dim, scratch.data());
  double sum = 0;
  for (const float value : scratch) sum += std::fabs(double{value});
  return sum <= pruning.threshold * static_cast<double>(options_.dim);
}

// Calls visit(hash, row) for the rows of a part of a bucket, which are fetched by then.
template <class Visit>
void Table::each_in(HashRange range, Visit visit) const {
  std::vector<HashAndRow> met;
  rows_.walk(range.begin << 32, [&](std::uint64_t hash, Row row) {
    if (hash >> 32 >= range.end) return false;
    met.push_back({hash, row});
    return true;
  });
  DiskWatch disk(rows_.in_file());
  bool from_disk = false;
  for (std::size_t i = 0; i < met.size() + kAhead; ++i) {
    if (i % kAhead == 0) from_disk = disk.reads(kAhead);
    if (i < met.size()) rows_.fetch_row(met[i].row, Need::stamps, from_disk);
    if (i >= kAhead) visit(met[i - kAhead].hash, met[i - kAhead].row);
  }
}

}  // namespace monolith
