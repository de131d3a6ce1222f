// The table at its limit of rows.
#include "policies/eviction.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "table/table.h"

namespace monolith {
namespace {

constexpr std::uint64_t kAllHashes = std::uint64_t{1} << 32;  // upper halves

std::uint64_t ceiling(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }

// An integer that sorts as the number does, which is not NaN.
std::int64_t sortable(double score) {
  std::int64_t bits;
  score += 0.0;  // -0.0 is 0.0
  std::memcpy(&bits, &score, sizeof bits);
  return bits < 0 ? bits ^ INT64_MAX : bits;
}

// How many of a sample go where `excess` rows of `others` must: the excess' share of it, a sixteenth at least, but no
// more than the excess, or than a small batch: one call then evicts for those after it.
std::size_t share_of(std::size_t sample, std::uint64_t excess, std::uint64_t others, std::uint64_t row_limit) {
  const std::uint64_t batch = std::clamp<std::uint64_t>(row_limit / 1024, 1, Eviction::kBatch);
  const std::uint64_t share =
      std::max(ceiling(sample, 16), ceiling(sample * excess, std::max<std::uint64_t>(others, 1)));
  return static_cast<std::size_t>(std::min({share, std::max(excess, batch), std::uint64_t{sample}}));
}

}  // namespace

void Table::evict(const Step& current) {
  if (row_limit_ == 0 || current.size() == 0) return;
  std::uint64_t hashes_passed = 0;  // since a row went: after a whole round there is none
  while (rows_.size() > row_limit_ && hashes_passed < kAllHashes) {
    std::vector<Candidate> sample = next_sample(current, hashes_passed);
    if (rows_.size() <= row_limit_ || sample.empty()) continue;
    const std::uint64_t others = rows_.size() - std::min<std::uint64_t>(rows_.size(), current.unique_count());
    const std::size_t count = share_of(sample.size(), rows_.size() - row_limit_, others, row_limit_);
    score(sample);
    std::nth_element(sample.begin(), sample.begin() + (count - 1), sample.end());
    for (std::size_t i = 0; i < count; ++i) {
      rows_.fetch_entry(sample[i].hash);
      tombstones_.fetch(sample[i].hash);
    }
    {
      WriterTurn turn(turnstile_);
      for (std::size_t i = 0; i < count; ++i) remove(sample[i].hash, sample[i].row, Reason::evicted);
    }
    tombstones_.keep_within(rows_.size());  // a limit that was lowered may take most of the table
    hashes_passed = 0;
  }
}

// The next rows from the cursor on that are not of the step. Those that have expired go at once.
std::vector<Candidate> Table::next_sample(const Step& current, std::uint64_t& hashes_passed) {
  std::vector<HashAndRow> met;
  met.reserve(Eviction::kSample);
  const std::uint32_t start = eviction_cursor_;
  const auto walk_to = [&](std::uint32_t first, std::uint64_t end) {  // where to go on
    std::uint64_t next = end;
    rows_.walk_to_sample(std::uint64_t{first} << 32, [&](std::uint64_t hash, Row row) {
      const std::uint64_t upper = hash >> 32;
      // One upper half stays together.
      const bool full = met.size() >= Eviction::kSample && met.back().hash >> 32 != upper;
      if (upper >= end) return false;
      if (full) {
        next = upper;
        return false;
      }
      met.push_back({hash, row});
      rows_.fetch_row(row, Need::stamps);
      return true;
    });
    return next;
  };
  std::uint64_t next = walk_to(start, kAllHashes);
  if (next == kAllHashes) next = walk_to(0, start);
  eviction_cursor_ = static_cast<std::uint32_t>(next);
  hashes_passed += next == start ? kAllHashes : (next - start) % kAllHashes;

  std::vector<Candidate> sample, gone;
  sample.reserve(met.size());
  for (const auto& [hash, row] : met) {
    const Candidate candidate{0, 0, hash, row};
    if (expired(row))
      gone.push_back(candidate);
    else if (!current.contains(rows_, candidate.hash, row))
      sample.push_back(candidate);
  }
  if (!gone.empty()) {
    WriterTurn turn(turnstile_);
    for (const Candidate& one : gone) remove(one.hash, one.row, expiry_of(one.row));
    hashes_passed = 0;
  }
  return sample;
}

void Table::score(std::vector<Candidate>& sample) const {
  if (options_.eviction.by == Eviction::By::score) return score_by_function(sample);
  for (Candidate& one : sample) {
    const std::int64_t last_seen = rows_.last_seen(one.row);
    const bool by_uses = options_.eviction.by == Eviction::By::uses;
    one.score = by_uses ? uses_at(one.row, clock_ms_) : last_seen;
    one.tie = last_seen;
  }
}

void Table::score_by_function(std::vector<Candidate>& candidates) const {
  Sample sample;
  sample.clock_ms = clock_ms_;
  std::vector<float> values(options_.dim);
  for (const Candidate& one : candidates) {
    sample.ids.push_back(id_of(one.hash));
    sample.last_seen_ms.push_back(rows_.last_seen(one.row));
    sample.admitted_ms.push_back(rows_.admitted(one.row));
    sample.uses.push_back(uses_at(one.row, clock_ms_));
    rows_.read(one.row, options_.dim, values.data());
    double squares = 0;
    for (const float value : values) squares += double{value} * value;
    sample.norms.push_back(std::sqrt(squares));
  }
  const std::vector<double> scores = options_.eviction.score(sample);
  for (std::size_t i = 0; i < candidates.size(); ++i) candidates[i].score = sortable(scores[i]);
}

}  // namespace monolith
