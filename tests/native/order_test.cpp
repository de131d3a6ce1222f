// The secret order: keys have inverses, no order of ids costs more than another, and rows still come by hash.
#include <algorithm>
#include <map>
#include <random>

#include "check.h"
#include "index/secret_order.h"
#include "policies/counters.h"
#include "rows/rows.h"
#include "table/tombstones.h"

using namespace monolith;

namespace {

using Hashes64 = std::vector<std::uint64_t>;
constexpr std::size_t kCount = 100000;

void keys_have_inverses_and_tell_the_bucket() {
  std::mt19937_64 random(1);
  for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, ~std::uint64_t{0}}) {
    SecretOrder::set_seed(seed);
    const SecretOrder order;
    Hashes64 hashes{0, 1, 1023, 1024, ~std::uint64_t{0}, std::uint64_t{1} << 54, (std::uint64_t{1} << 54) - 1};
    while (hashes.size() < 3000) hashes.push_back(random());
    Hashes64 keys(hashes.size());
    order.index_keys(hashes.data(), hashes.size(), keys.data());
    for (std::size_t i = 0; i < hashes.size(); ++i) {
      const std::size_t bucket = bucket_of(hashes[i]);
      const auto upper = static_cast<std::uint32_t>(keys[i] >> 32);
      CHECK(keys[i] == order.index_key(hashes[i]) && order.hash_of_index_key(keys[i]) == hashes[i]);
      CHECK(SecretOrder::bucket_of_upper(upper) == bucket);
      const std::uint64_t slab = keys[i] >> 52;
      CHECK(SecretOrder::first_upper(slab, bucket) <= upper && upper <= SecretOrder::last_upper(slab, bucket + 1));
      CHECK(order.hash_of_segment_key(order.segment_key(hashes[i])) == hashes[i]);
      CHECK(bucket_of(order.segment_key(hashes[i])) == bucket);
    }
  }
}

// Orders in which ids may come: as they are drawn, and as whoever knows mix64 can have them.
std::map<std::string, Hashes64> orders() {
  std::mt19937_64 random(2);
  Hashes64 drawn(kCount);
  for (std::uint64_t& hash : drawn) hash = random();
  std::map<std::string, Hashes64> orders{{"drawn", drawn}};
  std::sort(drawn.begin(), drawn.end());
  orders["ascending"] = drawn;
  orders["descending"] = Hashes64(drawn.rbegin(), drawn.rend());
  for (std::uint64_t i = 0; i < kCount; ++i) {
    orders["one upper half"].push_back(std::uint64_t{0xABCDEF01} << 32 | i);
    orders["one lower half"].push_back(i << 32 | 77);
    orders["one rest in every bucket"].push_back((i % 1024) << 54 | (i / 1024) * 0x9E3779B9u);
    orders["one bucket"].push_back(std::uint64_t{7} << 54 | drawn[i] >> 10);
    orders["outwards in"].push_back(i % 2 ? drawn[i / 2] : drawn[kCount - 1 - i / 2]);
    orders["crowds far apart"].push_back((i % 16) << 60 | i);
  }
  return orders;
}

struct Work {
  double mean;
  std::uint64_t most;  // of one insertion
};
template <class Insert, class Passed>
Work work_of(const Hashes64& hashes, Insert insert, Passed passed) {
  std::uint64_t most = 0, before = 0;
  for (const std::uint64_t hash : hashes) {
    insert(hash);
    most = std::max(most, passed() - before);
    before = passed();
  }
  return {static_cast<double>(before) / static_cast<double>(hashes.size()), most};
}

// In entries that are gone past or moved, growth of the index included: eight are a memory line.
template <class Measure>
void no_order_costs_more(Measure measure, double mean, std::uint64_t most) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    SecretOrder::set_seed(seed);
    for (const auto& [name, hashes] : orders()) {
      const Work work = measure(hashes);
      if (work.mean > mean || work.most > most)
        throw std::runtime_error(name + ": " + std::to_string(work.mean) + " entries an insertion, at most " +
                                 std::to_string(work.most));
    }
  }
}

void rows_cost_the_same_in_any_order() {
  no_order_costs_more(
      [](const Hashes64& hashes) {
        Rows rows({1, 0, Storage::float32, std::size_t{32} << 20, ""});
        return work_of(hashes, [&](std::uint64_t hash) { rows.add(hash); }, [&] { return rows.passed(); });
      },
      32, 4096);
}

void counters_cost_the_same_in_any_order() {
  no_order_costs_more(
      [](const Hashes64& hashes) {
        Counters counters({kCount * kBuckets, 0});
        return work_of(hashes, [&](std::uint64_t hash) { counters.count(hash, 0); }, [&] { return counters.passed(); });
      },
      16, 1024);
}

void tombstones_cost_the_same_in_any_order() {
  no_order_costs_more(
      [](const Hashes64& hashes) {
        Tombstones tombstones(kCount);
        return work_of(
            hashes, [&](std::uint64_t hash) { tombstones.add(hash, 1); }, [&] { return tombstones.passed(); });
      },
      16, 1024);
}

// Rows that come and go, beside a map, from which each bucket and each walk must be told alike.
class Churn {
 public:
  explicit Churn(std::uint64_t seed) : random_(seed) { SecretOrder::set_seed(seed); }

  void toggle(std::uint64_t hash) {
    const auto known = expected_.find(hash);
    if (known == expected_.end()) {
      expected_[hash] = rows_.add(hash);
    } else {
      rows_.remove(hash, known->second);
      expected_.erase(known);
    }
  }
  void check_bucket(std::size_t bucket) {
    auto next = expected_.lower_bound(std::uint64_t{bucket} << 54);
    rows_.each(bucket, [&](std::uint64_t hash, Row row) {
      CHECK(next != expected_.end() && hash == next->first && row == next->second);
      ++next;
    });
    CHECK(next == expected_.end() || bucket_of(next->first) != bucket);
  }
  void check_walk(std::uint64_t hash, std::size_t most) {
    auto next = expected_.lower_bound(hash);
    std::size_t met = 0;
    rows_.walk(hash, [&](std::uint64_t met_hash, Row row) {
      CHECK(next != expected_.end() && met_hash == next->first && row == next->second);
      ++next;
      return ++met < most;
    });
    CHECK(met == most || next == expected_.end());
  }
  void check_all() {
    std::size_t seen = 0;
    rows_.each([&](std::uint64_t hash, Row row) {
      CHECK(expected_.at(hash) == row);
      ++seen;
    });
    CHECK(seen == expected_.size());
  }
  void run(std::size_t ids, std::uint64_t (*hash_of_number)(std::uint64_t)) {
    for (int round = 0; round < 300; ++round) {
      for (std::size_t i = 0; i < ids / 20; ++i) toggle(hash_of_number(random_() % ids));
      for (int i = 0; i < 5; ++i) check_bucket((static_cast<std::size_t>(round) * 3 + i) % kBuckets);
      check_walk(random_(), 300);
      check_walk(cursor_ = round % 20 == 0 ? 0 : cursor_ + (std::uint64_t{1} << 59), 300);
    }
    check_all();
    for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) check_bucket(bucket);
    check_walk(0, expected_.size() + 1);
  }

 private:
  std::mt19937_64 random_;
  Rows rows_{{1, 0, Storage::float32, std::size_t{32} << 20, ""}};
  std::map<std::uint64_t, Row> expected_;
  std::uint64_t cursor_ = 0;
};

void rows_come_by_hash(std::size_t ids, std::uint64_t (*hash_of_number)(std::uint64_t)) {
  for (const std::uint64_t seed : {4, 5}) Churn(seed).run(ids, hash_of_number);
}
void a_few_rows_come_by_hash() {
  Churn churn(6);
  const Hashes64 ends{0, ~std::uint64_t{0}, std::uint64_t{1} << 63, std::uint64_t{1} << 54, 1};
  for (const std::uint64_t hash : ends)
    for (int k = 0; k < 3; ++k) {  // comes, goes, comes
      churn.toggle(hash);
      for (const std::size_t bucket : {std::size_t{0}, std::size_t{1}, kBuckets / 2, kBuckets - 1})
        churn.check_bucket(bucket);
      churn.check_walk(hash, 2);
      churn.check_walk(0, 9);
    }
  churn.check_all();
}
std::uint64_t spread(std::uint64_t number) { return mix64(number); }
std::uint64_t in_one_bucket(std::uint64_t number) { return std::uint64_t{3} << 54 | mix64(number) >> 40; }

}  // namespace

std::vector<Test> order_tests() {
  return {
      {"keys have inverses and tell the bucket", keys_have_inverses_and_tell_the_bucket},
      {"rows cost the same in any order", rows_cost_the_same_in_any_order},
      {"counters cost the same in any order", counters_cost_the_same_in_any_order},
      {"tombstones cost the same in any order", tombstones_cost_the_same_in_any_order},
      {"a few rows come by hash", a_few_rows_come_by_hash},
      {"rows of a small table come by hash", [] { rows_come_by_hash(3000, spread); }},
      {"rows of a large table come by hash", [] { rows_come_by_hash(120000, spread); }},
      {"rows of one bucket come by hash", [] { rows_come_by_hash(20000, in_one_bucket); }},
  };
}
