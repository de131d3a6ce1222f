// How often ids that have no row were seen, in bounded memory and forgetting by event time.
//
// A bucket holds at most `bound` counters. Where an id comes for which there is no room, every count of the bucket goes
// down by one instead, those at zero go, and the id is not kept (Misra and Gries, "Finding repeated elements", 1982).
// Each time that takes bound + 1 occurrences out of the bucket, so of n that were counted in it an id's count misses at
// most n / (bound + 1), and has none too many; and the work is O(1) an occurrence, for it is paid by those that were
// taken out. What is kept depends on the counts alone, not on where they lie. Not thread safe: the table takes turns.
#pragma once

#include <cstddef>
#include <cstdint>

#include "index/hash_range.h"
#include "index/segment.h"
#include "policies/decay.h"

namespace monolith {

struct Counter {
  std::uint64_t key;     // of its id's hash
  std::int64_t last_ms;  // event time of the latest occurrence, which the count is of
  std::uint32_t count;   // 0: an empty entry

  bool empty() const { return count == 0; }
  static Counter none() { return {kLastKey, 0, 0}; }
};

struct CounterLimits {
  std::size_t max_counters;   // 0: the rule does not count
  std::int64_t half_life_ms;  // 0: counts are kept for ever
};

class Counters {
 public:
  explicit Counters(CounterLimits limits)
      : bound_((limits.max_counters + kBuckets - 1) / kBuckets), half_life_ms_(limits.half_life_ms) {}

  // Counts one more occurrence at event time t and returns how many that makes.
  std::uint32_t count(std::uint64_t hash, std::int64_t t);
  void forget(std::uint64_t hash);
  bool decays() const { return half_life_ms_ != 0; }
  void sweep(const HashRange& range, std::int64_t clock);  // drops counters that decayed to zero
  // A counter of a snapshot. It is kept where the rule, which may be another now, does not count, and beyond a bound
  // that was lowered. Where policies that counted apart now count together, an id may come twice: its larger count
  // stays.
  void restore(std::uint64_t hash, std::int64_t last_ms, std::uint32_t count);
  void clear() { counters_.clear(); }

  const Segment<Counter>& operator[](std::size_t bucket) const { return counters_[bucket]; }
  std::uint64_t hash_of(const Counter& counter) const { return counters_.hash_of(counter); }
  std::size_t size() const { return counters_.size(); }
  std::size_t bytes() const { return counters_.bytes(); }
  std::uint64_t passed() const { return counters_.passed(); }
  std::uint64_t decrements() const { return decrements_; }  // times that all counts of a bucket went down by one

 private:
  std::uint32_t left(const Counter& counter, std::int64_t t) const {
    return decayed(counter.count, counter.last_ms, t, half_life_ms_);
  }
  void decrement(std::size_t bucket, std::int64_t t);
  template <class Recount>
  void recount(std::size_t bucket, Recount recount);

  Buckets<Counter> counters_;
  std::size_t bound_;
  std::int64_t half_life_ms_;
  std::uint64_t decrements_ = 0;
};

}  // namespace monolith
