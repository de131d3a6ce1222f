// How often ids that have no row were seen, in bounded memory and forgetting by event time.
//
// A bucket holds at most `bound` counters. When one more is needed, all counts of the bucket are halved and those that
// reach zero go, again until there is room: what is forgotten depends on the counts alone, not on where they lie.
// Not thread safe: the table takes turns.
#pragma once

#include <cstddef>
#include <cstdint>

#include "segment.h"

namespace monolith {

struct Counter {
  std::uint64_t hash;
  std::int64_t last_ms;  // event time of the latest occurrence
  std::uint32_t count;   // 0: an empty entry

  bool empty() const { return count == 0; }
  static Counter none() { return {kLastHash, 0, 0}; }
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
  void sweep(std::size_t bucket, std::int64_t clock);  // drops counters that decayed to zero
  void restore(
      const Counter& counter) {  // of a snapshot; dropped where the rule, which may be another now, does not count
    if (bound_ != 0) counters_.insert(counter);
  }
  void clear() { counters_.clear(); }

  const Segment<Counter>& operator[](std::size_t bucket) const { return counters_[bucket]; }
  std::size_t size() const { return counters_.size(); }
  std::size_t bytes() const { return counters_.bytes(); }
  std::uint64_t halvings() const { return halvings_; }
  void set_halvings(std::uint64_t halvings) { halvings_ = halvings; }

 private:
  std::uint32_t decayed(const Counter& counter, std::int64_t t) const;
  void halve(std::size_t bucket);
  template <class NewCount>
  void recount(std::size_t bucket, NewCount new_count);

  Buckets<Counter> counters_;
  std::size_t bound_;
  std::int64_t half_life_ms_;
  std::uint64_t halvings_ = 0;
};

}  // namespace monolith
