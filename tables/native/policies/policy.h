// When the ids of a table, or of one of its features, get a row and lose it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "policies/admission.h"

namespace monolith {

struct Lifetime {
  std::int64_t idle_ms = 0;  // since the id was last seen; 0: no such limit
  std::int64_t age_ms = 0;   // since the row was made; 0: no such limit
};

// Rows of which the time is earlier have expired.
struct Cutoffs {
  std::int64_t idle = INT64_MIN, age = INT64_MIN;

  static Cutoffs at(std::int64_t clock_ms, const Lifetime& lifetime) {
    return {before(clock_ms, lifetime.idle_ms), before(clock_ms, lifetime.age_ms)};
  }

 private:
  static std::int64_t before(std::int64_t clock_ms, std::int64_t limit_ms) {
    return limit_ms == 0 || clock_ms < INT64_MIN + limit_ms ? INT64_MIN : clock_ms - limit_ms;
  }
};

// Rows that stayed small: at the end of its probation a row of which the mean size of a value is no more than
// `threshold` goes with the sweep that meets it.
struct Pruning {
  double threshold = -1;          // below 0: none goes
  std::int64_t probation_ms = 0;  // since the row was made

  bool prunes() const { return threshold >= 0; }
};

struct Policy {
  Admission admission;
  Lifetime lifetime;
  std::uint32_t counters = 0;  // the policy whose counters it counts with: its own number, or 0, the table's

  CounterLimits limits() const {
    return std::visit([](const auto& rule) { return rule.limits(); }, admission);
  }
};

// Which policy each occurrence of a call is under: runs that follow on one another. None at all: the table's.
struct Runs {
  const std::uint32_t* policies = nullptr;
  const std::int64_t* ends = nullptr;  // the position after the run's last
  std::size_t count = 0;

  std::uint32_t policy_at(std::size_t position) const {
    for (std::size_t run = 0; run < count; ++run)
      if (position < static_cast<std::size_t>(ends[run])) return policies[run];
    return 0;
  }
};

}  // namespace monolith
