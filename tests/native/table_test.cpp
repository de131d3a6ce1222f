// Whole tables under the sanitizers: the logic is held by the Python tests, here every path is walked.
#include "table/table.h"

#include <cmath>
#include <limits>
#include <random>

#include "check.h"
#include "make_table.h"

using namespace monolith;

namespace {

void walk(Table& table, std::size_t dim, std::mt19937_64& random) {
  std::vector<std::int64_t> ids(700), times(700);
  std::vector<float> grads(700 * dim), out(700 * dim);
  for (int step = 0; step < 12; ++step) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<std::int64_t>(random() % 2000) - 1000;
      times[i] = step * 500 + static_cast<std::int64_t>(random() % 900);
    }
    for (float& grad : grads) grad = static_cast<float>(random() % 100) / 50 - 1;
    table.observe(ids.data(), ids.size(), {times.data(), times.size()});
    table.lookup({part_of(ids, out)});
    CHECK(table.apply_gradients(ids.data(), grads.data(), ids.size(), {times.data(), times.size()}) == -1);
    table.sweep(400);
    table.cut();
  }
}

void check_same_buckets(const Table& one, const Table& other) {
  for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
    const BucketImage a = one.export_bucket(bucket), b = other.export_bucket(bucket);
    CHECK(a.ids == b.ids && a.last_seen_ms == b.last_seen_ms && a.marks == b.marks);
    CHECK(a.values == b.values && a.counts == b.counts && a.counter_ids == b.counter_ids);
    CHECK(a.tombstone_ids == b.tombstone_ids && a.tombstone_marks == b.tombstone_marks);
    CHECK(a.state.size() == b.state.size());
  }
}

void every_rule_walks_cleanly() {
  for (const WholeRow& optimizer : all_optimizers())
    for (const std::size_t dim : {1, 8, 13, 16, 64}) {
      TableOptions options = table_options(dim);
      options.optimizer = dim == 13 ? sliced(dim, optimizer) : whole(optimizer);
      options.storage = dim == 13 ? Storage::bfloat16 : dim == 16 ? Storage::float16 : Storage::float32;
      Table table(options), again(options), replica(options);
      std::mt19937_64 random(dim), same(dim);
      walk(table, dim, random);
      walk(again, dim, same);
      check_same_buckets(table, again);
      CHECK(table.sizes().rows > 0 && table.sizes().tombstones > 0);

      const DeltaArrays image = table.delta(0), delta = table.delta(table.clockwork().sequence - 3);
      replica.apply_image(table.clockwork().sequence - 3, image.ids.data(), image.values.data(), image.ids.size());
      replica.apply_delta(table.clockwork().sequence - 1, delta.ids.data(), delta.values.data(), delta.ids.size(),
                          delta.removed.data(), delta.removed.size());
      CHECK(replica.delta(0).ids == table.delta(0).ids);
    }
}

void buckets_carry_the_whole_state() {
  const TableOptions options = table_options(16);
  Table table(options), opened(options);
  std::mt19937_64 random(5);
  walk(table, 16, random);
  for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) opened.import_bucket(bucket, table.export_bucket(bucket));
  opened.set_clockwork(table.clockwork());
  std::mt19937_64 one(6), other(6);
  walk(table, 16, one);
  walk(opened, 16, other);
  check_same_buckets(table, opened);
}

// Of every fourth bucket, and of the others: what a delta of all has, each in one of the two.
void deltas_of_some_buckets_make_up_the_whole() {
  const TableOptions options = table_options(16);
  Table table(options);
  std::mt19937_64 random(8);
  walk(table, 16, random);
  BucketSet some;
  for (std::size_t bucket = 0; bucket < kBuckets; bucket += 4) some.set(bucket);
  for (const std::uint32_t back : {1u, 2u, 3u}) {
    const std::uint32_t since = table.clockwork().sequence - back;
    const DeltaArrays whole = table.delta(since), one = table.delta(since, some), other = table.delta(since, ~some);
    for (const auto member : {&DeltaArrays::ids, &DeltaArrays::removed}) {
      std::vector<std::int64_t> both;
      std::merge((one.*member).begin(), (one.*member).end(), (other.*member).begin(), (other.*member).end(),
                 std::back_inserter(both));
      CHECK(both == whole.*member);
      for (const std::int64_t id : one.*member) CHECK(some[bucket_of(hash_of(id))]);
    }
    CHECK(one.values.size() + other.values.size() == whole.values.size());
  }
}

void policies_meet_nonfinite_gradients() {
  for (const NonFinite policy : {NonFinite::raise, NonFinite::skip_row, NonFinite::clip}) {
    TableOptions options = table_options(3);
    options.on_nonfinite = policy;
    options.admission = Always{};
    Table table(options);
    const std::int64_t ids[] = {1, 2, 1, 2, 2};
    float grads[15] = {};
    grads[4] = std::numeric_limits<float>::quiet_NaN();
    grads[14] = -std::numeric_limits<float>::infinity();
    table.observe(ids, 5, {});
    CHECK(table.apply_gradients(ids, grads, 5, {}) == (policy == NonFinite::raise ? 1 : -1));
    CHECK(table.statistics().nonfinite == (policy == NonFinite::raise ? 0u : 2u));
  }
}

void clock_stands_at_the_ends_of_time() {
  TableOptions options = table_options(2);
  options.ttl_ms = std::int64_t{1} << 61;
  Table table(options);
  const std::int64_t ids[] = {1, 1};
  for (const std::int64_t t : {INT64_MIN + 1, std::int64_t{0}, INT64_MAX - 1}) {
    table.observe(ids, 2, {&t, 1});
    table.sweep(kBuckets);
    CHECK(table.clockwork().clock_ms == t);
  }
}

}  // namespace

std::vector<Test> table_tests() {
  return {
      {"every rule walks cleanly", every_rule_walks_cleanly},
      {"buckets carry the whole state", buckets_carry_the_whole_state},
      {"deltas of some buckets make up the whole", deltas_of_some_buckets_make_up_the_whole},
      {"policies meet nonfinite gradients", policies_meet_nonfinite_gradients},
      {"clock stands at the ends of time", clock_stands_at_the_ends_of_time},
  };
}
