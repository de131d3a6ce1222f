#include "index/index.h"

#include <algorithm>

#include "memory/simd.h"

namespace monolith {
namespace {

constexpr std::uint64_t kMoved = 32;  // lines that move at once: some microseconds

}  // namespace

Index::Index(std::size_t reserve_bytes, std::size_t least_bytes, const std::string& folder)
    : range_(reserve_bytes, least_bytes, folder), homes_{reinterpret_cast<IndexEntry*>(range_.start())} {
  start_growing();
}

void Index::Homes::of(const std::uint64_t* keys, std::size_t n, const IndexEntry** homes) const {
  with_simd([=, self = *this] {
    for (std::size_t i = 0; i < n; ++i) homes[i] = self.of(keys[i]);
  });
}

void Index::reserve(std::size_t count) {
  if (size_ != 0 || count < limit_) return;
  const std::uint64_t before = homes_.lines;
  homes_.lines = static_cast<std::uint64_t>(static_cast<double>(count) / (kLoad * kLine)) + 1;
  try {
    start_growing();
  } catch (...) {
    homes_.lines = before;
    throw;
  }
}

void Index::make_room() {
  while (size_ >= limit_) move_some();
  range_.ensure((end_ + 1) * sizeof(IndexEntry));
}

void Index::insert(std::uint64_t key, Row row) {
  make_room();
  place({code_of(key), row});
  ++size_;
}

void Index::erase(std::uint64_t key, Row row) {
  auto* hole = const_cast<IndexEntry*>(find_entry(key, [row](Row found) { return found == row; }));
  for (IndexEntry* next = hole + 1; !next->empty() && homes_.at(next->code) < next; ++hole, ++next) *hole = *next;
  *hole = {0, kNoRow};
  --size_;
}

void Index::place(IndexEntry added) {
  const std::size_t home = homes_.number(added.code);
  const std::size_t at = static_cast<std::size_t>(at_or_after(homes_.entries + home, added.code) - homes_.entries);
  std::size_t gap = at;
  while (!homes_.entries[gap].empty()) ++gap;
  ensure(gap + 1 + kLine);
  std::move_backward(homes_.entries + at, homes_.entries + gap, homes_.entries + gap + 1);
  homes_.entries[at] = added;
  passed_ += gap - home;
}

void Index::ensure(std::size_t entries) {
  if (entries <= end_) return;
  range_.ensure(entries * sizeof(IndexEntry));
  end_ = entries;
}

void Index::start_growing() {
  const std::uint64_t more = homes_.lines + std::max<std::uint64_t>(homes_.lines / 8, 1);
  ensure(more * kLine + kLine);  // may throw: before the first change
  moved_from_ = homes_.lines;
  homes_.boundary = kNothingMoved;
  homes_.more_lines = more;
  limit_ = static_cast<std::size_t>(kLoad * static_cast<double>(homes_.lines * kLine));
}

void Index::expect_growth() {
  const std::uint64_t next = homes_.more_lines + homes_.more_lines / 8;
  range_.expect(end_ * sizeof(IndexEntry), (next + 1) * kLine * sizeof(IndexEntry));
}

// Moves the entries of the next lines from the end to where `homes_.more_lines` has them.
void Index::move_some() {
  const std::uint64_t first = moved_from_ - std::min(kMoved, moved_from_);
  const std::uint64_t boundary = ((first << 32) + homes_.lines - 1) / homes_.lines;
  take_out(first * kLine, static_cast<std::uint32_t>(boundary));
  moved_from_ = first;
  homes_.boundary = boundary;
  std::size_t next = 0;
  for (const IndexEntry entry : moving_) {
    next = std::max(next, homes_.number(entry.code));
    if (homes_.entries[next].empty() && (next + 1 + kLine <= end_))
      homes_.entries[next++] = entry;
    else
      place(entry);
  }
  if (first == 0) {
    homes_.lines = homes_.more_lines;
    return start_growing();
  }
  const double moved = 1.0 - static_cast<double>(first) / static_cast<double>(homes_.lines);
  const double lines =
      static_cast<double>(homes_.lines) + moved * static_cast<double>(homes_.more_lines - homes_.lines);
  limit_ = static_cast<std::size_t>(kLoad * lines * kLine);
  if (first < homes_.lines / 4) expect_growth();
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
  for (IndexEntry* entry = homes_.entries + at;; ++entry) {
    const bool beyond = entry >= homes_.entries + end;
    if (entry->empty()) {
      if (beyond) return;
      continue;
    }
    const std::uint32_t upper = ~entry->code;
    if (upper >= homes_.boundary) return;
    if (upper >= from) visit(*entry);  // those below were pushed here
  }
}

}  // namespace monolith
