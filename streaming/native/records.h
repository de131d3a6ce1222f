// Records as the log keeps them, to columns; `streaming/log_batch.py` has the last word about what is no such list.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace monolith::joining {

// MessagePack of a list of [key, value, event time].
struct Split {
  std::vector<std::uint8_t> keys, values;
  std::vector<std::int64_t> key_ends, value_ends;  // n + 1, from 0
  std::vector<std::uint8_t> no_key, no_value;      // nil
  std::vector<std::int64_t> event_time_ms;
};
bool split(std::string_view list, Split& into);  // false: not such a list, beyond doubt

}  // namespace monolith::joining
