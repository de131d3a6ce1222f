// Event times of one call: none (the clock's), one for all, or one for each occurrence. Milliseconds since the epoch.
#pragma once

#include <cstddef>
#include <cstdint>

namespace monolith {

struct Times {
  const std::int64_t* ms = nullptr;
  std::size_t count = 0;

  bool given() const { return count != 0; }
  bool each() const { return count > 1; }
  std::int64_t at(std::size_t i) const { return ms[each() ? i : 0]; }
};

}  // namespace monolith
