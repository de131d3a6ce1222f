// When an id without a row gets one.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <variant>

#include "index/hash.h"
#include "policies/counters.h"

namespace monolith {

inline std::int64_t milliseconds(std::optional<double> seconds) { return seconds ? std::llround(*seconds * 1000) : 0; }

struct Always {
  CounterLimits limits() const { return {0, 0}; }
  bool admits(Counters&, std::uint64_t, std::uint64_t, std::int64_t) const { return true; }
};

struct Never {
  CounterLimits limits() const { return {0, 0}; }
  bool admits(Counters&, std::uint64_t, std::uint64_t, std::int64_t) const { return false; }
};

struct MinCount {
  std::uint32_t count;
  std::optional<double> half_life_s;
  std::size_t max_counters;

  CounterLimits limits() const { return {max_counters, milliseconds(half_life_s)}; }
  bool admits(Counters& counters, std::uint64_t, std::uint64_t hash, std::int64_t t) const {
    return count <= 1 || counters.count(hash, t) >= count;
  }
};

struct Probability {
  double p;
  std::optional<double> half_life_s;
  std::size_t max_counters;

  CounterLimits limits() const { return {max_counters, milliseconds(half_life_s)}; }
  bool admits(Counters& counters, std::uint64_t table_key, std::uint64_t hash, std::int64_t t) const {
    if (p >= 1.0) return true;
    std::uint64_t id_key = mix64(table_key ^ hash ^ kStream);
    // A count that was halved comes by the same numbers again: the time makes new draws of them.
    if (half_life_s) id_key = mix64(id_key ^ mix64(static_cast<std::uint64_t>(t)));
    return static_cast<double>(draw(id_key, counters.count(hash, t)) >> 11) * 0x1p-53 < p;
  }

 private:
  static constexpr std::uint64_t kStream = 0x5851F42D4C957F2Du;  // apart from the draws of the initial values
};

using Admission = std::variant<Always, Never, MinCount, Probability>;

}  // namespace monolith
