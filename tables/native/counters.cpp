#include "counters.h"

#include <algorithm>
#include <vector>

namespace monolith {

std::uint32_t Counters::count(std::uint64_t hash, std::int64_t t) {
  if (Counter* known = counters_.find(hash)) {
    const std::uint32_t before = decayed(*known, t);
    known->count = before == UINT32_MAX ? before : before + 1;
    known->last_ms = std::max(known->last_ms, t);
    return known->count;
  }
  const std::size_t bucket = bucket_of(hash);
  while (counters_[bucket].size() >= bound_) halve(bucket);
  counters_.insert({hash, t, 1});
  return 1;
}

void Counters::forget(std::uint64_t hash) {
  if (Counter* known = counters_.find(hash)) counters_.erase(known);
}

void Counters::sweep(std::size_t bucket, std::int64_t clock) {
  if (half_life_ms_ == 0) return;
  // Only what has decayed to nothing goes; a count that is still there keeps its own time, and decays exactly.
  recount(bucket, [&](const Counter& counter) { return decayed(counter, clock) == 0 ? 0 : counter.count; });
}

std::uint32_t Counters::decayed(const Counter& counter, std::int64_t t) const {
  if (half_life_ms_ == 0 || t <= counter.last_ms) return counter.count;
  const std::uint64_t quiet = static_cast<std::uint64_t>(t) - static_cast<std::uint64_t>(counter.last_ms);
  const std::uint64_t halvings = quiet / static_cast<std::uint64_t>(half_life_ms_);
  return halvings > 31 ? 0 : counter.count >> halvings;
}

void Counters::halve(std::size_t bucket) {
  recount(bucket, [](const Counter& counter) { return counter.count / 2; });
  ++halvings_;
}

template <class NewCount>
void Counters::recount(std::size_t bucket, NewCount new_count) {
  std::vector<std::uint64_t> gone;
  counters_[bucket].each([&](Counter& counter) {
    const std::uint32_t count = new_count(counter);
    if (count == 0)
      gone.push_back(counter.hash);
    else
      counter.count = count;
  });
  for (const std::uint64_t hash : gone) counters_.erase(counters_.find(hash));
}

}  // namespace monolith
