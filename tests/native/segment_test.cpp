// A segment against std::map, and the hash against its inverse.
#include "index/segment.h"

#include <map>
#include <random>

#include "check.h"

using namespace monolith;

namespace {

struct Entry {
  std::uint64_t key;
  std::uint64_t row;  // 0: an empty entry

  bool empty() const { return row == 0; }
  static Entry none() { return {kLastKey, 0}; }
};

using Expected = std::map<std::uint64_t, std::uint64_t>;

void check_equal(const Segment<Entry>& segment, const Expected& expected) {
  CHECK(segment.size() == expected.size());
  auto next = expected.begin();
  segment.each([&](const Entry& entry) {
    CHECK(next != expected.end() && entry.key == next->first && entry.row == next->second);
    ++next;
  });
  CHECK(next == expected.end());
  for (const auto& [hash, row] : expected) CHECK(segment.find(hash) != nullptr && segment.find(hash)->row == row);
}

// Hashes of one bucket: uniform, or crowded so that runs are long and reach the segment's end.
std::uint64_t some_hash(std::mt19937_64& random, bool crowded) {
  const std::uint64_t low = random() >> 10;
  return crowded ? (std::uint64_t{1} << 54) - 1 - low % 3000 : low;
}

void segment_is_a_sorted_map(bool crowded) {
  std::mt19937_64 random(crowded);
  Segment<Entry> segment;
  Expected expected;
  for (int i = 0; i < 20000; ++i) {
    const std::uint64_t hash = some_hash(random, crowded);
    const bool there = expected.count(hash) != 0;
    CHECK((segment.find(hash) != nullptr) == there);
    if (!there) {
      segment.insert({hash, 1 + random() % 1000}, 0.3);
      expected[hash] = segment.find(hash)->row;
    } else if (random() % 2) {
      segment.erase(segment.find(hash));
      expected.erase(hash);
    }
    if (i % 997 == 0) check_equal(segment, expected);
  }
  check_equal(segment, expected);
  while (!expected.empty()) {
    const auto chosen = expected.lower_bound(some_hash(random, crowded));
    const std::uint64_t hash = chosen == expected.end() ? expected.begin()->first : chosen->first;
    segment.erase(segment.find(hash));
    expected.erase(hash);
    if (expected.size() % 499 == 0) check_equal(segment, expected);
  }
  CHECK(segment.size() == 0);
}

void both_ends_of_the_hash_range_are_keys() {
  Buckets<Entry> buckets;
  for (const std::uint64_t hash : {std::uint64_t{0}, kLastKey, kLastKey - 1}) {
    CHECK(buckets.find(hash) == nullptr);
    buckets.insert(hash, {0, 7});
    CHECK(buckets.find(hash)->row == 7);
  }
  buckets.erase(buckets.find(kLastKey));
  CHECK(buckets.find(kLastKey) == nullptr);
  CHECK(buckets.find(kLastKey - 1) != nullptr);
  CHECK(buckets.size() == 2);
}

void hash_has_an_inverse() {
  std::mt19937_64 random(1);
  for (int i = 0; i < 100000; ++i) {
    const auto id = static_cast<std::int64_t>(random());
    CHECK(id_of(hash_of(id)) == id);
  }
}

void segments_do_not_all_grow_at_once() {
  Buckets<Entry> buckets;
  std::mt19937_64 random(2);
  std::size_t largest_jump = 0;
  for (int step = 0; step < 600; ++step) {
    const std::size_t before = buckets.bytes();
    for (int i = 0; i < 500; ++i) buckets.insert(random(), {0, 1});
    if (step > 200) largest_jump = std::max(largest_jump, buckets.bytes() - before);
  }
  CHECK(largest_jump < buckets.bytes() / 20);
}

}  // namespace

std::vector<Test> segment_tests() {
  return {
      {"segment is a sorted map", [] { segment_is_a_sorted_map(false); }},
      {"segment is a sorted map where hashes crowd at its end", [] { segment_is_a_sorted_map(true); }},
      {"both ends of the hash range are keys", both_ends_of_the_hash_range_are_keys},
      {"hash has an inverse", hash_has_an_inverse},
      {"segments do not all grow at once", segments_do_not_all_grow_at_once},
  };
}
