// Finds rows by keys, the hashes of their ids in a secret order: one sorted array with gaps, in eight bytes an entry.
//
// The home of a key is the line `key * lines / 2^64`, which rises with the key, so the array is sorted: a probe is one
// comparison an entry, a miss stops early, and the entries of a range of keys lie side by side. An entry holds the
// upper half of its key and the number of its row; the row holds the lower half (Cleary's quotienting, "Compact hash
// tables using bidirectional linear probing", 1984), so a match of the upper half is a candidate, which the row
// confirms. Two ids never share an entry.
//
// The array grows by an eighth at a time, and while it does so it stays one: lines from the end downwards move up to
// where the larger number of lines has them, a few with each entry that is added, and a boundary says which keys have
// moved. So there is no moment at which everything moves or two copies exist, and the load is the same at any size.
// Whoever knows how many entries will come has the array made for them at once. What an insertion costs depends on the
// keys being spread, which `secret_order.h` sees to: a crowd of keys is a run of entries, that each one more goes
// through.
//
// Eight entries are one memory line, at which homes lie: of six searches five end in it, 99 of 100 in it or the next.
// So the line is searched without a branch, and the next one is fetched only where it is needed. Not thread safe: the
// table takes turns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "memory/line.h"
#include "memory/range.h"
#include "memory/row_pool.h"

namespace monolith {

// `code` is the complement of the key's upper half, so that zeroed memory is empty entries, which sort last.
struct IndexEntry {
  std::uint32_t code;
  Row row;  // kNoRow: an empty entry

  bool empty() const { return row == kNoRow; }
};

class Index {
 public:
  static constexpr std::size_t kLine = 8;  // entries

  Index(std::size_t reserve_bytes, std::size_t least_bytes, const std::string& folder);

  static std::uint32_t code_of(std::uint64_t key) { return ~static_cast<std::uint32_t>(key >> 32); }

  // Where searches start: a few numbers that hold until an entry is added, copied by loops, as RowView is.
  struct Homes {
    IndexEntry* entries;
    std::uint64_t lines = 2;       // homes of keys below the boundary
    std::uint64_t more_lines = 0;  // homes of those from it on
    std::uint64_t boundary = 0;    // of upper halves

    std::size_t number(std::uint32_t code) const {
      const std::uint64_t upper = static_cast<std::uint32_t>(~code);
      const std::uint64_t moved = -std::uint64_t{upper >= boundary};  // all ones, or none
      return static_cast<std::size_t>((upper * (lines ^ ((lines ^ more_lines) & moved))) >> 32) * kLine;
    }
    IndexEntry* at(std::uint32_t code) const { return entries + number(code); }
    const IndexEntry* of(std::uint64_t key) const { return at(code_of(key)); }
    // Of n keys, several at once.
    void of(const std::uint64_t* keys, std::size_t n, const IndexEntry** homes) const;
  };
  Homes homes() const { return homes_; }

  // The first row in the home line of a key that has the same upper half; kNoRow: there is none, and if `goes_on`,
  // there may be one in a later line.
  static Row search(const IndexEntry* home, std::uint64_t key, bool& goes_on) {
    const std::uint32_t code = code_of(key);
    const std::uint32_t mask = matches(&home->code, code);
    const Row first = home[static_cast<unsigned>(__builtin_ctz(mask | 1u << 14)) / 2].row;
    goes_on = (mask == 0) & (home[kLine - 1].code > code);
    return first & -Row{mask != 0};  // compilers would branch on a choice
  }
  static Row search_on(const IndexEntry* home, std::uint64_t key) {  // in the later lines
    const std::uint32_t code = code_of(key);
    const IndexEntry* const next = home + kLine;
    const std::uint32_t mask = matches(&next->code, code);
    if (mask != 0) return next[static_cast<unsigned>(__builtin_ctz(mask)) / 2].row;
    const IndexEntry* entry = at_or_after(next, code);
    return entry->code == code ? entry->row : kNoRow;
  }
  // The row of the key: that candidate which confirms(row). kNoRow: there is none.
  template <class Confirms>
  Row find(std::uint64_t key, Confirms confirms) const {
    const IndexEntry* entry = find_entry(key, confirms);
    return entry == nullptr ? kNoRow : entry->row;
  }

  // For one more entry: the next insert() cannot fail. Throws std::bad_alloc or std::system_error, and then every entry
  // is found as before.
  void make_room();
  void insert(std::uint64_t key, Row row);  // of a key that is not there
  void erase(std::uint64_t key, Row row);   // of one that is

  // Makes the array for so many entries, as long as it has none: they all come without growth.
  void reserve(std::size_t count);

  // Copies the entries whose upper halves are in [first, last], in their order, and returns their end; `out` has room
  // for one more. Without a branch an entry: where a few of many ranges are asked for, none could be predicted.
  IndexEntry* copy_between(std::uint32_t first, std::uint32_t last, IndexEntry* out) const {
    const std::uint32_t most = ~first, least = ~last;  // codes fall
    const IndexEntry* entry = homes_.at(most);
    const IndexEntry* line_end = homes_.at(least) + kLine;
    const IndexEntry* const end = homes_.entries + end_;
    for (;; line_end += kLine) {
      for (; entry != line_end; ++entry) {
        *out = *entry;
        out += (entry->code - least <= most - least) & !entry->empty();
      }
      if (entry[-1].empty() || entry[-1].code < least || entry >= end) return out;  // no gap before an entry's home
    }
  }

  // Calls visit(upper half of the key, row) for each entry, in their order.
  template <class Visit>
  void each(Visit&& visit) const {
    for (const IndexEntry *entry = homes_.entries, *end = entry + end_; entry != end; ++entry)
      if (!entry->empty()) visit(~entry->code, entry->row);
  }

  std::size_t size() const { return size_; }
  std::size_t bytes() const { return end_ * sizeof(IndexEntry); }
  std::uint64_t passed() const { return passed_; }  // entries that insertions went past or moved so far

 private:
  static constexpr double kLoad = 0.8;
  static constexpr std::uint64_t kNothingMoved = std::uint64_t{1} << 32;

  // The first entry from `home` on whose key is not smaller.
  static const IndexEntry* at_or_after(const IndexEntry* home, std::uint32_t code) {
    while (home->code > code) ++home;
    return home;
  }

  template <class Confirms>
  const IndexEntry* find_entry(std::uint64_t key, Confirms confirms) const {
    const std::uint32_t code = code_of(key);
    const IndexEntry* entry = at_or_after(homes_.at(code), code);
    for (; entry->code == code && !entry->empty(); ++entry)
      if (confirms(entry->row)) return entry;
    return nullptr;
  }

  void place(IndexEntry added);
  void ensure(std::size_t entries);
  void move_some();
  void start_growing();
  void expect_growth();
  void take_out(std::size_t first_line, std::uint32_t below);
  template <class Visit>
  void each_to_move(std::size_t at, std::uint32_t from, Visit visit);

  Range range_;
  Homes homes_;
  std::uint64_t moved_from_ = 0;  // the line of `lines` from which on all have moved
  std::size_t end_ = 0;           // entries that may be looked at; the last of them are empty
  std::size_t size_ = 0;
  std::size_t limit_ = 0;  // of size_, at which some more move
  std::uint64_t passed_ = 0;
  std::vector<IndexEntry> moving_;
};

}  // namespace monolith
