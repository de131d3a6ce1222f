// Rules by which rows come and go, under the sanitizers: limits, ages, rules of features, and steps beside them.
#include <random>

#include "check.h"
#include "make_table.h"
#include "table/table.h"

using namespace monolith;

namespace {

constexpr std::size_t kIds = 600;

TableOptions busy_options(Eviction eviction) {
  TableOptions options = table_options(5);
  options.max_age_ms = 2500;
  options.features = {{Probability{0.5, 1.0, 2048}, {0, 700}, 1}, {options.admission, {300, 0}, 0}};
  options.eviction = std::move(eviction);
  options.tail = {3, false};
  return options;
}

ScoreFunction oldest() {
  return [](const Sample& sample) {
    std::vector<double> scores;
    for (std::size_t i = 0; i < sample.ids.size(); ++i)
      scores.push_back(static_cast<double>(sample.last_seen_ms[i]) + sample.norms[i] + sample.uses[i]);
    return scores;
  };
}

// Training steps over drifting ids of two features.
void walk(Table& table, std::mt19937_64& random, int first) {
  std::vector<std::int64_t> ids(kIds), times(kIds);
  std::vector<float> grads(kIds * 5, 0.25f), out(kIds * 5);
  Step step;
  const std::uint32_t policies[] = {1, 0, 2};
  const std::int64_t ends[] = {100, 300, kIds};
  for (int round = first; round < first + 15; ++round) {
    for (std::size_t i = 0; i < kIds; ++i) {
      ids[i] = static_cast<std::int64_t>(random() % 3000) + round * 100;
      times[i] = round * 200 + static_cast<std::int64_t>(random() % 300);
    }
    Part part;
    part.ids = ids.data();
    part.count = part.samples = kIds;
    part.runs = {policies, ends, 3};
    part.out = out.data();
    part.stride = 5;
    table.forward({part}, {times.data(), kIds}, step);
    table.sweep(100);
    CHECK(table.backward(step, {{grads.data(), 5}}, {times.data(), kIds}) == -1);
    table.cut();
  }
}

bool same(const BucketImage& a, const BucketImage& b) {
  return a.ids == b.ids && a.last_seen_ms == b.last_seen_ms && a.admitted_ms == b.admitted_ms && a.uses == b.uses &&
         a.policies == b.policies && a.counter_ids == b.counter_ids && a.counts == b.counts &&
         a.counter_policies == b.counter_policies && a.tombstone_ids == b.tombstone_ids && a.values == b.values &&
         a.tail_values == b.tail_values && a.tail_state == b.tail_state;
}

void limits_walk_cleanly() {
  for (const Eviction& eviction :
       {Eviction{Eviction::By::last_seen, 450, 0, 0}, Eviction{Eviction::By::uses, 0, 36000, 500},
        Eviction{Eviction::By::score, 420, 0, 500, oldest()}, Eviction{}}) {
    Table table(busy_options(eviction)), opened(busy_options(eviction));
    std::mt19937_64 random(3);
    walk(table, random, 0);
    if (eviction.by != Eviction::By::none) {
      CHECK(table.statistics().evicted > 0);
      CHECK(table.sizes().rows <= table.sizes().row_limit);
    }
    CHECK(table.statistics().expired_age > 0 && table.statistics().expired_idle > 0);
    for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) opened.import_bucket(bucket, table.export_bucket(bucket));
    opened.set_clockwork(table.clockwork());
    std::mt19937_64 one(4), other(4);
    walk(table, one, 15);
    walk(opened, other, 15);
    for (std::size_t bucket = 0; bucket < kBuckets; ++bucket)
      CHECK(same(table.export_bucket(bucket), opened.export_bucket(bucket)));
  }
}

void score_that_throws_leaves_a_table_that_goes_on() {
  bool throws = false;
  const ScoreFunction sometimes = [&throws](const Sample& sample) {
    if (throws) throw std::runtime_error("no score");
    return std::vector<double>(sample.ids.size());
  };
  TableOptions options = table_options(3);
  options.admission = Always{};
  options.eviction = {Eviction::By::score, 2, 0, 0, sometimes};
  Table table(options);
  for (const std::int64_t id : {1, 2, 3, 4}) {
    throws = id == 3;
    bool thrown = false;
    try {
      table.observe(&id, 1, {});
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    CHECK(thrown == throws);
  }
  CHECK(table.sizes().rows == 2);
}

void counters_stay_within_their_bound() {
  Counters counters({3 * kBuckets, 10});
  std::mt19937_64 random(1);
  std::uint32_t counted = 0;
  for (std::int64_t t = 0; t < 20000; ++t) {
    const std::uint64_t hash = (random() % 50) << 20;  // of one bucket
    counted += counters.count(hash, t / 100 * 3) > 1;
    CHECK(counters.size() <= 3);
  }
  CHECK(counted > 0 && counters.decrements() > 0 && counters.decrements() <= 20000 / 4);
  counters.sweep(HashRange::from(0, HashRange::kBucket), INT64_MAX);
  CHECK(counters.size() == 0);
}

}  // namespace

std::vector<Test> policy_tests() {
  return {
      {"limits, ages and rules of features walk cleanly", limits_walk_cleanly},
      {"score that throws leaves a table that goes on", score_that_throws_leaves_a_table_that_goes_on},
      {"counters stay within their bound", counters_stay_within_their_bound},
  };
}
