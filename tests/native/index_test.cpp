// The index against std::map: keys spread, crowded, equal in their upper halves; growing, shrinking, growing again.
#include "index/index.h"

#include <map>
#include <random>

#include "check.h"
#include "index/hash.h"

using namespace monolith;

namespace {

constexpr std::size_t kReserve = std::size_t{64} << 20;

// An index beside what it should hold: each row's whole key, and each key's row.
class Pair {
 public:
  explicit Pair(std::size_t reserve = kReserve) : index_(reserve, reserve, "") {}

  void toggle(std::uint64_t key) {
    const auto known = expected_.find(key);
    CHECK(find(key) == (known == expected_.end() ? kNoRow : known->second));
    if (known != expected_.end()) return erase(key);
    keys_.push_back(key);
    expected_[key] = static_cast<Row>(keys_.size());
    index_.insert(key, expected_[key]);
  }
  void erase(std::uint64_t key) {
    index_.erase(key, expected_.at(key));
    expected_.erase(key);
  }
  void reserve(std::size_t count) { index_.reserve(count); }
  void forget_last() {  // whose insert failed
    expected_.erase(keys_.back());
    keys_.pop_back();
  }
  void check() const {
    CHECK(index_.size() == expected_.size());
    for (const auto& [key, row] : expected_) CHECK(find(key) == row);
    std::size_t seen = 0;
    std::uint32_t before = 0;
    const auto is_next = [&](std::uint32_t upper, Row row) {
      const std::uint64_t key = keys_[row - 1];
      CHECK(key >> 32 == upper && upper >= before && expected_.at(key) == row);
      before = upper;
      ++seen;
    };
    index_.each(is_next);
    CHECK(seen == expected_.size());
    seen = before = 0;
    std::vector<IndexEntry> copied(expected_.size() + 1);
    constexpr std::uint64_t kParts = 1000;  // at borders that are no lines'
    for (std::uint64_t part = 0, first = 0; part < kParts; ++part) {
      const std::uint64_t end = ((part + 1) << 32) / kParts;
      const IndexEntry* const copied_end =
          index_.copy_between(static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(end - 1), copied.data());
      for (const IndexEntry* entry = copied.data(); entry != copied_end; ++entry) {
        CHECK(first <= ~entry->code && ~entry->code < end);
        is_next(~entry->code, entry->row);
      }
      first = end;
    }
    CHECK(seen == expected_.size());
  }

  const Index& index() const { return index_; }
  const std::map<std::uint64_t, Row>& expected() const { return expected_; }

 private:
  Row find(std::uint64_t key) const {
    return index_.find(key, [&](Row row) { return keys_[row - 1] == key; });
  }

  Index index_;
  std::map<std::uint64_t, Row> expected_;
  std::vector<std::uint64_t> keys_;  // of rows 1, 2, ...
};

using Draw = std::uint64_t (*)(std::mt19937_64&);

std::uint64_t spread(std::mt19937_64& random) { return mix64(random() % 40000); }
std::uint64_t crowded(std::mt19937_64& random) { return (random() % 9000 << 34) | std::uint64_t{3} << 60; }
std::uint64_t alike(std::mt19937_64& random) { return random() % 500 * 0x0100000000000000u + random() % 4; }
std::uint64_t at_the_ends(std::mt19937_64& random) { return random() % 2 ? random() % 4000 : ~(random() % 4000); }

void index_is_a_map(Draw draw_key) {
  std::mt19937_64 random(1);
  Pair pair;
  for (int i = 0; i < 30000; ++i) {
    pair.toggle(draw_key(random));
    if (i % 2503 == 0) pair.check();
  }
  pair.check();
  while (pair.expected().size() > 100) {
    const auto next = pair.expected().lower_bound(draw_key(random));
    pair.erase(next == pair.expected().end() ? pair.expected().begin()->first : next->first);
    if (pair.expected().size() % 2503 == 0) pair.check();
  }
  for (int i = 0; i < 20000; ++i) pair.toggle(draw_key(random));
  pair.check();
}

void growth_takes_memory_in_proportion() {
  std::mt19937_64 random(2);
  Index index(kReserve, kReserve, "");
  std::size_t largest_step = 0, before = index.bytes();
  for (Row row = 1; row <= 500000; ++row) {
    index.insert(random(), row);
    if (row % 500 != 0 || row < 100000) continue;
    if (row > 100000) largest_step = std::max(largest_step, index.bytes() - before);
    before = index.bytes();
    CHECK(static_cast<double>(index.bytes()) < 12.0 * row);
  }
  CHECK(largest_step < index.bytes() / 8);
}

// Growth that finds no room, in the middle of a move or at its start, loses no entry and may be tried again.
void index_is_whole_where_its_range_ends(Draw draw_key) {
  std::mt19937_64 random(3);
  Pair pair(std::size_t{2} << 20);
  int failures = 0;
  for (int i = 0; failures < 40 && i < 2000000; ++i) {
    try {
      pair.toggle(draw_key(random));
    } catch (const std::bad_alloc&) {
      pair.forget_last();
      if (failures++ % 10 == 0) pair.check();
      for (int k = 0; k < 100; ++k) pair.erase(pair.expected().begin()->first);
    }
  }
  CHECK(failures == 40 && pair.expected().size() > 50000);
  pair.check();
}

// An index that was made for its entries is searched as one that grew, and grows no more until it has them.
void room_that_is_made_at_once_is_enough() {
  for (const std::size_t count : {1, 2, 12, 13, 100, 5000, 60000}) {
    std::mt19937_64 random(4);
    Pair pair;
    pair.reserve(count);
    while (pair.expected().size() + 1 < count) pair.toggle(random());
    const std::size_t bytes = pair.index().bytes();
    pair.toggle(random());
    CHECK(count < 1000 || pair.index().bytes() == bytes);  // small ones have a run at the end
    pair.check();
    pair.reserve(10 * count);  // comes too late: nothing moves
    pair.check();
    for (std::size_t i = 0; i < 2 * count; ++i) pair.toggle(random());
    pair.check();
  }
}

std::uint64_t any(std::mt19937_64& random) { return random(); }

}  // namespace

std::vector<Test> index_tests() {
  return {
      {"index is a map of spread keys", [] { index_is_a_map(spread); }},
      {"index is a map where keys crowd", [] { index_is_a_map(crowded); }},
      {"index is a map where upper halves are alike", [] { index_is_a_map(alike); }},
      {"index is a map at both ends of the range", [] { index_is_a_map(at_the_ends); }},
      {"index is whole where its range ends", [] { index_is_whole_where_its_range_ends(any); }},
      {"room that is made at once is enough", room_that_is_made_at_once_is_enough},
      {"growth takes memory in proportion", growth_takes_memory_in_proportion},
  };
}
