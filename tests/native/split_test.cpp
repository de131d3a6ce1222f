// Splits by owners of buckets against the shortest way to say them.
#include "index/split.h"

#include <algorithm>
#include <map>
#include <random>

#include "check.h"

using namespace monolith;

namespace {

constexpr std::size_t kOwners = 5;

std::vector<std::int64_t> some_ids(std::size_t count, std::int64_t distinct) {
  std::mt19937_64 random(7);
  std::vector<std::int64_t> ids(count);
  for (std::int64_t& id : ids) id = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(distinct)) - 3;
  return ids;
}

std::vector<std::int32_t> some_owners() {
  std::vector<std::int32_t> owners(kBuckets);
  for (std::size_t bucket = 0; bucket < kBuckets; ++bucket)
    owners[bucket] = static_cast<std::int32_t>(bucket * 7 % (kOwners - 1));  // the last owner has none
  return owners;
}

std::size_t bucket_of_id(std::int64_t id, std::optional<std::uint64_t> salt) {
  const auto key = salt ? static_cast<std::int64_t>(mix64(static_cast<std::uint64_t>(id) ^ *salt)) : id;
  return bucket_of(hash_of(key));
}

// What each owner gets: positions in the order of the ids, once an id or every time.
void check_split(const Split& split, const std::vector<std::int64_t>& ids, std::optional<std::uint64_t> salt,
                 bool once) {
  const std::vector<std::int32_t> owners = some_owners();
  std::vector<std::vector<std::int64_t>> expected(kOwners);
  std::map<std::int64_t, std::int64_t> first;
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (first.emplace(ids[i], i).second || !once)
      expected[static_cast<std::size_t>(owners[bucket_of_id(ids[i], salt)])].push_back(static_cast<std::int64_t>(i));
  std::vector<std::int64_t> positions, ends;
  for (const auto& part : expected) {
    positions.insert(positions.end(), part.begin(), part.end());
    ends.push_back(static_cast<std::int64_t>(positions.size()));
  }
  CHECK(split.positions == positions);
  CHECK(split.ends == ends);
  CHECK(split.back.size() == ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::int64_t there = split.positions[static_cast<std::size_t>(split.back[i])];
    CHECK(once ? ids[static_cast<std::size_t>(there)] == ids[i] : there == static_cast<std::int64_t>(i));
  }
}

void ids_go_to_the_owners_of_their_buckets_in_order() {
  const std::vector<std::int32_t> owners = some_owners();
  for (const std::optional<std::uint64_t> salt : {std::optional<std::uint64_t>(), std::optional<std::uint64_t>(99)})
    for (const std::size_t count : {0, 1, 1023, 1024, 5000}) {
      const std::vector<std::int64_t> ids = some_ids(count, 700);
      const IdsToSplit given{ids.data(), ids.size(), salt};
      check_split(split(given, {owners.data(), kOwners}), ids, salt, false);
      check_split(split_unique(given, {owners.data(), kOwners}), ids, salt, true);
    }
}

void ids_that_all_differ_are_split_alike_once_or_with_repeats() {
  const std::vector<std::int32_t> owners = some_owners();
  std::vector<std::int64_t> ids(3000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int64_t>(unmix64(i << 20));  // crowded hashes
  const IdsToSplit given{ids.data(), ids.size(), {}};
  const Split every = split(given, {owners.data(), kOwners}), once = split_unique(given, {owners.data(), kOwners});
  CHECK(every.positions == once.positions && every.ends == once.ends && every.back == once.back);
}

}  // namespace

std::vector<Test> split_tests() {
  return {{"ids go to the owners of their buckets in order", ids_go_to_the_owners_of_their_buckets_in_order},
          {"ids that all differ are split alike once or with repeats",
           ids_that_all_differ_are_split_alike_once_or_with_repeats}};
}
