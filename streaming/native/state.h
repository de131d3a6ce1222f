// What waits, as columns: in the joiner's state, in the segments of a snapshot, and back. `docs/formats.md` has the
// form.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "joiner.h"

namespace monolith::joining {

constexpr std::size_t kPendingNumbers = 11, kWaitingNumbers = 7, kParkedNumbers = 5;

// Members built up one by one. `lengths` are of request, item and the third part.
struct Columns {
  std::vector<std::int64_t> numbers;
  std::vector<std::uint32_t> lengths;
  std::string texts;

  void add(const Record& record);
  void add(const Waiting& entry, const Joiner& joiner);
  void add(const Parked& action);
  void add(const Text& text);
};

// The same as bytes that lie elsewhere.
struct ColumnViews {
  std::string_view numbers, lengths, texts;
};

Columns pending_of(const Joiner& joiner);
Columns waiting_of(const Joiner& joiner);
Columns parked_of(const Joiner& joiner);

// Put members into a joiner that has none of their keys. Throw std::invalid_argument for columns that do not fit.
void put_pending(Joiner& joiner, const ColumnViews& columns);
void put_waiting(Joiner& joiner, const ColumnViews& columns);
void put_parked(Joiner& joiner, const ColumnViews& columns);

// A segment's rows with the status of each (`segments.h`).
struct SegmentViews {
  ColumnViews rows;
  std::string_view statuses;
};

enum class Group { pending, waiting, parked };

// The rows that are there, as they are now, in the order in which `*_of` gives them. Throws as `put_*`.
Columns merged(Group group, const std::vector<SegmentViews>& segments);

}  // namespace monolith::joining
