// The ids that have rows of their own, under the sanitizers: what cells, slots and exchanges keep to, and what a state
// may hold.
#include "policies/hot_ids.h"

#include <cmath>
#include <random>
#include <set>

#include "check.h"

using namespace monolith;

namespace {

constexpr std::uint32_t kShared = 7, kOwn = 50;
constexpr std::size_t kDim = 5;

// A step of bags with weights, most of them of a few ids; every fourth one exchanges slots.
HotIds::Exchange step(HotIds& hot, std::mt19937_64& random, int number) {
  constexpr std::size_t kSamples = 40;
  std::vector<std::int32_t> lengths(kSamples);
  std::vector<std::int64_t> ids;
  std::vector<float> values(kSamples * (kDim + 1)), weights;
  for (std::size_t i = 0; i < kSamples; ++i) {
    lengths[i] = static_cast<std::int32_t>(random() % 3);
    for (std::int32_t k = 0; k < lengths[i]; ++k) {
      const bool few = random() % 2 == 0;
      ids.push_back(static_cast<std::int64_t>(few ? random() % 20 + static_cast<std::uint64_t>(number) : random()));
      weights.push_back(static_cast<float>(random() % 5) - 2.0f);
    }
  }
  for (float& value : values) value = static_cast<float>(random() % 100) / 50.0f - 1.0f;
  hot.add(ids.data(), {values.data(), kDim + 1, kDim, kSamples, lengths.data(), weights.data(), number % 2 == 0});
  hot.end_step();
  return number % 4 == 3 ? hot.exchange() : HotIds::Exchange{};
}

bool same(const HotIds::State& a, const HotIds::State& b) {
  return a.ids == b.ids && a.scores == b.scores && a.slots == b.slots && a.weight == b.weight;
}

// Who has which slot, by what exchanges said.
void slots_are_of_one_id_each() {
  HotIds hot(kShared, kOwn, 0.9);
  std::mt19937_64 random(1);
  std::set<std::int64_t> holders, slots;
  for (int number = 0; number < 400; ++number) {
    const HotIds::Exchange done = step(hot, random, number);
    CHECK(done.ids.size() == done.slots.size() && done.removed.size() <= done.ids.size());
    for (const std::int64_t id : done.removed) CHECK(holders.erase(id) == 1);
    for (const std::int64_t id : done.ids) CHECK(holders.insert(id).second);
    CHECK(holders.size() <= kOwn);
  }
  CHECK(holders.size() == kOwn);
  const std::vector<std::int64_t> ids(holders.begin(), holders.end());
  std::vector<std::int64_t> keys(kOwn), others{-1, -2, INT64_MIN}, shared(3);
  hot.keys(ids.data(), kOwn, keys.data());
  for (const std::int64_t key : keys) {
    CHECK(key >= kShared && key < kShared + kOwn);
    CHECK(slots.insert(key).second);
  }
  hot.keys(others.data(), others.size(), shared.data());
  for (const std::int64_t key : shared) CHECK(key >= 0 && key < kShared);
}

void restored_state_goes_on_alike() {
  HotIds hot(kShared, kOwn, 0.5), other(kShared, kOwn, 0.5);  // decays fast: the weight is scaled down every 32 steps
  std::mt19937_64 random(2);
  for (int number = 0; number < 90; ++number) step(hot, random, number);
  CHECK(other.restore(hot.state()));
  CHECK(same(hot.state(), other.state()));
  std::mt19937_64 one(3), again(3);
  for (int number = 90; number < 180; ++number) {
    const HotIds::Exchange a = step(hot, one, number), b = step(other, again, number);
    CHECK(a.ids == b.ids && a.removed == b.removed);
  }
  const HotIds::State a = hot.state(), b = other.state();
  CHECK(a.ids == b.ids && a.scores == b.scores && a.weight == b.weight);
}

void state_of_another_table_is_refused_and_changes_nothing() {
  HotIds hot(kShared, kOwn, 0.9);
  std::mt19937_64 random(4);
  for (int number = 0; number < 60; ++number) step(hot, random, number);
  const HotIds::State good = hot.state();
  std::size_t holder = 0;
  while (good.slots[holder] < 0) ++holder;
  std::vector<HotIds::State> bad(8, good);
  bad[0].ids.pop_back();
  bad[1].scores.clear();
  bad[2].slots.push_back(-1);
  bad[3].weight = 0.0;
  bad[4].scores[3] = NAN;
  bad[5].slots[holder] = static_cast<std::int32_t>(kOwn);
  bad[6].slots[holder] = -2;
  bad[7].ids[holder] += 1;  // of another bucket, or its slot's key would be none that the id reads
  for (std::size_t i = 0; i + 1 < bad.size(); ++i) CHECK(!hot.restore(bad[i]));
  for (int tries = 0; tries < 64 && hot.restore(bad[7]); ++tries) bad[7].ids[holder] += 1;
  CHECK(!hot.restore(bad[7]));
  CHECK(hot.restore(good));
  CHECK(same(hot.state(), good));
}

void smallest_table_and_gradients_without_a_size_do_no_harm() {
  HotIds hot(1, 1, 0.999);
  const std::int64_t ids[] = {5, 6, 7, 8, 9, INT64_MIN, INT64_MAX};
  const float bad[] = {NAN, INFINITY, 0.0f, -INFINITY, NAN, 0.0f, INFINITY};
  const float large[] = {3e38f, 3e38f, 3e38f, 3e38f, 3e38f, 3e38f, 3e38f};
  hot.add(ids, {bad, 1, 1, 7, nullptr, nullptr, false});
  CHECK(hot.exchange().ids.empty());
  hot.add(ids, {large, 1, 1, 7, nullptr, nullptr, false});  // norms that are infinite
  const float one[] = {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, 7.0f};
  hot.add(ids, {one, 1, 1, 7, nullptr, nullptr, false});
  CHECK(hot.exchange().ids.size() == 1);
  hot.add(nullptr, {nullptr, 1, 1, 0, nullptr, nullptr, true});
  for (int i = 0; i < 100000; ++i) hot.end_step();
  for (const float score : hot.state().scores) CHECK(std::isfinite(score) && score >= 0.0f);
}

}  // namespace

std::vector<Test> hot_ids_tests() {
  return {
      {"slots are of one id each", slots_are_of_one_id_each},
      {"restored hot ids go on alike", restored_state_goes_on_alike},
      {"state of another table is refused and changes nothing", state_of_another_table_is_refused_and_changes_nothing},
      {"smallest table and gradients without a size do no harm",
       smallest_table_and_gradients_without_a_size_do_no_harm},
  };
}
