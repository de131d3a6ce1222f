#include "records.h"

#include "messagepack.h"

namespace monolith::joining {

bool split(std::string_view list, Split& into) {
  messagepack::Cursor in(list);
  std::size_t count, parts;
  if (!in.array(count)) return false;
  into.key_ends.assign(1, 0);
  into.value_ends.assign(1, 0);
  const auto next = [&in](auto& bytes, auto& ends, auto& none) {
    std::string_view part;
    none.push_back(in.nil());
    if (!none.back() && !in.binary(part)) return false;
    bytes.insert(bytes.end(), part.begin(), part.end());
    ends.push_back(static_cast<std::int64_t>(bytes.size()));
    return true;
  };
  for (std::size_t i = 0; i < count; ++i) {
    std::int64_t time_ms;
    if (!in.array(parts) || parts != 3 || !next(into.keys, into.key_ends, into.no_key) ||
        !next(into.values, into.value_ends, into.no_value) || !in.integer(time_ms))
      return false;
    into.event_time_ms.push_back(time_ms);
  }
  return in.done();
}

}  // namespace monolith::joining
