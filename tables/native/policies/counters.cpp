#include "policies/counters.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace monolith {

std::uint32_t Counters::count(std::uint64_t hash, std::int64_t t) {
  if (Counter* known = counters_.find(hash)) {
    known->count = one_more(left(*known, t));
    known->last_ms = std::max(known->last_ms, t);
    return known->count;
  }
  const std::size_t bucket = bucket_of(hash);
  if (counters_[bucket].size() < bound_)
    counters_.insert(hash, {0, t, 1});
  else
    decrement(bucket, t);
  return 1;
}

void Counters::restore(std::uint64_t hash, std::int64_t last_ms, std::uint32_t count) {
  Counter* const known = counters_.find(hash);
  if (known == nullptr)
    counters_.insert(hash, {0, last_ms, count});
  else if (std::pair(known->count, known->last_ms) < std::pair(count, last_ms))
    *known = {known->key, last_ms, count};
}

void Counters::forget(std::uint64_t hash) {
  if (Counter* known = counters_.find(hash)) counters_.erase(known);
}

void Counters::sweep(const HashRange& range, std::int64_t clock) {
  if (!decays()) return;
  // Only what has decayed to nothing goes; a count that is still there keeps its own time, and decays exactly.
  recount(range.bucket(),
          [&](Counter& counter) { return left(counter, clock) != 0 || !range.contains(counters_.hash_of(counter)); });
}

// Of each count one goes of what is left at time t, so that it decays on as if it had been one less all along.
void Counters::decrement(std::size_t bucket, std::int64_t t) {
  recount(bucket, [&](Counter& counter) {
    const std::uint32_t now = left(counter, t);
    if (now <= 1) return false;
    counter.count = (now - 1) << half_lives(counter.last_ms, t, half_life_ms_);
    return true;
  });
  ++decrements_;
}

// Drops the counters of which recount(counter) says false.
template <class Recount>
void Counters::recount(std::size_t bucket, Recount recount) {
  std::vector<std::uint64_t> gone;
  counters_[bucket].each([&](Counter& counter) {
    if (!recount(counter)) gone.push_back(counters_.hash_of(counter));
  });
  for (const std::uint64_t hash : gone) counters_.erase(counters_.find(hash));
}

}  // namespace monolith
