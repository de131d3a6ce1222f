// How counts forget: halved, rounded down, for every whole half-life of event time that passed without the id.
#pragma once

#include <cstdint>

namespace monolith {

// Whole half-lives from last_ms to t. 0 as half-life: none ever.
inline std::uint64_t half_lives(std::int64_t last_ms, std::int64_t t, std::int64_t half_life_ms) {
  if (half_life_ms == 0 || t <= last_ms) return 0;
  const std::uint64_t quiet = static_cast<std::uint64_t>(t) - static_cast<std::uint64_t>(last_ms);
  return quiet / static_cast<std::uint64_t>(half_life_ms);
}

// What is left at event time t of a count that stood at last_ms.
inline std::uint32_t decayed(std::uint32_t count, std::int64_t last_ms, std::int64_t t, std::int64_t half_life_ms) {
  const std::uint64_t halvings = half_lives(last_ms, t, half_life_ms);
  return halvings > 31 ? 0 : count >> halvings;
}

inline std::uint32_t one_more(std::uint32_t count) { return count == UINT32_MAX ? count : count + 1; }

}  // namespace monolith
