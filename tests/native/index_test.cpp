// The index against std::map: hashes spread, crowded, equal in their upper halves; growing, shrinking, growing again.
#include "index.h"

#include <map>
#include <random>

#include "check.h"

using namespace monolith;

namespace {

constexpr std::size_t kReserve = std::size_t{64} << 20;

// An index beside what it should hold: each row's whole hash, and each hash's row.
class Pair {
 public:
  explicit Pair(std::size_t reserve = kReserve) : index_(reserve, reserve, "") {}

  void toggle(std::uint64_t hash) {
    const auto known = expected_.find(hash);
    CHECK(find(hash) == (known == expected_.end() ? kNoRow : known->second));
    if (known != expected_.end()) return erase(hash);
    hashes_.push_back(hash);
    expected_[hash] = static_cast<Row>(hashes_.size());
    index_.insert(hash, expected_[hash]);
  }
  void erase(std::uint64_t hash) {
    index_.erase(hash, expected_.at(hash));
    expected_.erase(hash);
  }
  void forget_last() {  // whose insert failed
    expected_.erase(hashes_.back());
    hashes_.pop_back();
  }
  void check() const {
    CHECK(index_.size() == expected_.size());
    for (const auto& [hash, row] : expected_) CHECK(find(hash) == row);
    std::size_t seen = 0;
    std::uint32_t before = 0;
    for (std::size_t bucket = 0; bucket < kBuckets; ++bucket)
      index_.each(bucket, [&](std::uint32_t upper, Row row) {
        const std::uint64_t hash = hashes_[row - 1];
        CHECK(hash >> 32 == upper && upper >= before && bucket_of(hash) == bucket && expected_.at(hash) == row);
        before = upper;
        ++seen;
      });
    CHECK(seen == expected_.size());
  }

  const Index& index() const { return index_; }
  const std::map<std::uint64_t, Row>& expected() const { return expected_; }

 private:
  Row find(std::uint64_t hash) const {
    return index_.find(hash, [&](Row row) { return hashes_[row - 1] == hash; });
  }

  Index index_;
  std::map<std::uint64_t, Row> expected_;
  std::vector<std::uint64_t> hashes_;  // of rows 1, 2, ...
};

using Draw = std::uint64_t (*)(std::mt19937_64&);

std::uint64_t spread(std::mt19937_64& random) { return mix64(random() % 40000); }
std::uint64_t crowded(std::mt19937_64& random) { return (random() % 9000 << 34) | std::uint64_t{3} << 60; }
std::uint64_t alike(std::mt19937_64& random) { return random() % 500 * 0x0100000000000000u + random() % 4; }
std::uint64_t at_the_ends(std::mt19937_64& random) { return random() % 2 ? random() % 4000 : ~(random() % 4000); }

void index_is_a_map(Draw draw_hash) {
  std::mt19937_64 random(1);
  Pair pair;
  for (int i = 0; i < 30000; ++i) {
    pair.toggle(draw_hash(random));
    if (i % 2503 == 0) pair.check();
  }
  pair.check();
  while (pair.expected().size() > 100) {
    const auto next = pair.expected().lower_bound(draw_hash(random));
    pair.erase(next == pair.expected().end() ? pair.expected().begin()->first : next->first);
    if (pair.expected().size() % 2503 == 0) pair.check();
  }
  for (int i = 0; i < 20000; ++i) pair.toggle(draw_hash(random));
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
void index_is_whole_where_its_range_ends(Draw draw_hash) {
  std::mt19937_64 random(3);
  Pair pair(std::size_t{2} << 20);
  int failures = 0;
  for (int i = 0; failures < 40 && i < 2000000; ++i) {
    try {
      pair.toggle(draw_hash(random));
    } catch (const std::bad_alloc&) {
      pair.forget_last();
      if (failures++ % 10 == 0) pair.check();
      for (int k = 0; k < 100; ++k) pair.erase(pair.expected().begin()->first);
    }
  }
  CHECK(failures == 40 && pair.expected().size() > 50000);
  pair.check();
}

std::uint64_t any(std::mt19937_64& random) { return random(); }

}  // namespace

std::vector<Test> index_tests() {
  return {
      {"index is a map of spread hashes", [] { index_is_a_map(spread); }},
      {"index is a map where hashes crowd", [] { index_is_a_map(crowded); }},
      {"index is a map where upper halves are alike", [] { index_is_a_map(alike); }},
      {"index is a map at both ends of the range", [] { index_is_a_map(at_the_ends); }},
      {"index is whole where its range ends", [] { index_is_whole_where_its_range_ends(any); }},
      {"growth takes memory in proportion", growth_takes_memory_in_proportion},
  };
}
