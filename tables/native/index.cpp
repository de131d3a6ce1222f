#include "index.h"

#include <algorithm>

namespace monolith {
namespace {

constexpr std::uint64_t kMoved = 32;  // lines that move at once: some microseconds

}  // namespace

Index::Index(std::size_t reserve_bytes, std::size_t least_bytes, const std::string& folder)
    : range_(reserve_bytes, least_bytes, folder), entries_(reinterpret_cast<IndexEntry*>(range_.start())) {
  start_growing();
}

void Index::make_room() {
  while (size_ >= limit_) move_some();
  range_.ensure((end_ + 1) * sizeof(IndexEntry));
}

void Index::insert(std::uint64_t hash, Row row) {
  make_room();
  place({code_of(hash), row});
  ++size_;
}

void Index::erase(std::uint64_t hash, Row row) {
  auto* hole = const_cast<IndexEntry*>(find_entry(hash, [row](Row found) { return found == row; }));
  for (IndexEntry* next = hole + 1; !next->empty() && entries_ + home_of(next->code) < next; ++hole, ++next)
    *hole = *next;
  *hole = {0, kNoRow};
  --size_;
}

void Index::place(IndexEntry added) {
  const std::size_t home = home_of(added.code);
  const std::size_t at = static_cast<std::size_t>(at_or_after(entries_ + home, added.code) - entries_);
  std::size_t gap = at;
  while (!entries_[gap].empty()) ++gap;
  ensure(gap + 1 + kLine);
  std::move_backward(entries_ + at, entries_ + gap, entries_ + gap + 1);
  entries_[at] = added;
}

void Index::ensure(std::size_t entries) {
  if (entries <= end_) return;
  range_.ensure(entries * sizeof(IndexEntry));
  end_ = entries;
}

void Index::start_growing() {
  const std::uint64_t more = lines_ + std::max<std::uint64_t>(lines_ / 8, 1);
  ensure(more * kLine + kLine);  // may throw: before the first change
  moved_from_ = lines_;
  boundary_ = kNothingMoved;
  more_lines_ = more;
  limit_ = static_cast<std::size_t>(kLoad * static_cast<double>(lines_ * kLine));
}

// Moves the entries of the next lines from the end to where `more_lines_` has them.
void Index::move_some() {
  const std::uint64_t first = moved_from_ - std::min(kMoved, moved_from_);
  const std::uint64_t boundary = ((first << 32) + lines_ - 1) / lines_;
  take_out(first * kLine, static_cast<std::uint32_t>(boundary));
  moved_from_ = first;
  boundary_ = boundary;
  std::size_t next = 0;
  for (const IndexEntry entry : moving_) {
    next = std::max(next, home_of(entry.code));
    if (entries_[next].empty() && (next + 1 + kLine <= end_))
      entries_[next++] = entry;
    else
      place(entry);
  }
  if (first == 0) {
    lines_ = more_lines_;
    return start_growing();
  }
  const double moved = 1.0 - static_cast<double>(first) / static_cast<double>(lines_);
  const double lines = static_cast<double>(lines_) + moved * static_cast<double>(more_lines_ - lines_);
  limit_ = static_cast<std::size_t>(kLoad * lines * kLine);
}

// Takes the entries whose upper halves are `from` or more, and have not moved yet, into `moving_`. Each may push the
// end by one; room for that is made first, since what is taken out must find its place.
void Index::take_out(std::size_t at, std::uint32_t from) {
  moving_.clear();
  each_to_move(at, from, [&](const IndexEntry& entry) { moving_.push_back(entry); });
  range_.ensure((end_ + moving_.size()) * sizeof(IndexEntry));
  each_to_move(at, from, [](IndexEntry& entry) { entry = {0, kNoRow}; });
}

template <class Visit>
void Index::each_to_move(std::size_t at, std::uint32_t from, Visit visit) {
  const std::size_t end = moved_from_ * kLine;  // a run may reach beyond
  for (IndexEntry* entry = entries_ + at;; ++entry) {
    const bool beyond = entry >= entries_ + end;
    if (entry->empty()) {
      if (beyond) return;
      continue;
    }
    const std::uint32_t upper = ~entry->code;
    if (upper >= boundary_) return;
    if (upper >= from) visit(*entry);  // those below were pushed here
  }
}

}  // namespace monolith
