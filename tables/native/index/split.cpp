#include "index/split.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "index/secret_order.h"

namespace monolith {
namespace {

constexpr std::size_t kAtOnce = 1024;  // hashes, which stay in the first cache

// Calls visit(position, hash) for all ids, in order.
template <class Visit>
void each_hash(const IdsToSplit& ids, Visit visit) {
  std::uint64_t hashes[kAtOnce];
  for (std::size_t first = 0; first < ids.count; first += kAtOnce) {
    const std::size_t count = std::min(kAtOnce, ids.count - first);
    hash_ids(ids.ids + first, count, ids.salt, hashes);
    for (std::size_t k = 0; k < count; ++k) visit(first + k, hashes[k]);
  }
}

// Numbers of what is there once, by its hash; found in an order that nobody who chooses ids can foresee.
class FirstPlaces {
 public:
  explicit FirstPlaces(std::size_t most) {
    while ((std::size_t{1} << bits_) < 2 * most) ++bits_;
    slots_.assign(std::size_t{1} << bits_, kEmpty);
    hashes_.reserve(most);
  }

  // The number of the hash, the next one if it is new.
  std::uint32_t number(std::uint64_t hash) {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = static_cast<std::size_t>((order_.index_key(hash) * kGolden) >> (64 - bits_));
    for (; slots_[at] != kEmpty; at = (at + 1) & mask)
      if (hashes_[slots_[at]] == hash) return slots_[at];
    hashes_.push_back(hash);
    return slots_[at] = static_cast<std::uint32_t>(hashes_.size() - 1);
  }
  std::size_t size() const { return hashes_.size(); }

 private:
  static constexpr std::uint32_t kEmpty = UINT32_MAX;

  const SecretOrder order_;
  unsigned bits_ = 4;
  std::vector<std::uint32_t> slots_;
  std::vector<std::uint64_t> hashes_;
};

// `place`: where each of the members, whose owners are given, comes when they are sorted by owner, and stay in order.
std::vector<std::int64_t> sorted_by(const std::vector<std::int32_t>& owners, std::size_t count,
                                    std::vector<std::int64_t>& ends) {
  std::vector<std::int64_t> next(count + 1, 0);
  for (const std::int32_t owner : owners) ++next[static_cast<std::size_t>(owner) + 1];
  std::partial_sum(next.begin(), next.end(), next.begin());
  ends.assign(next.begin() + 1, next.end());
  std::vector<std::int64_t> place(owners.size());
  for (std::size_t i = 0; i < owners.size(); ++i) place[i] = next[static_cast<std::size_t>(owners[i])]++;
  return place;
}

}  // namespace

Split split(const IdsToSplit& ids, const Owners& owners) {
  std::vector<std::int32_t> owner(ids.count);
  each_hash(ids, [&](std::size_t i, std::uint64_t hash) { owner[i] = owners.of_bucket[bucket_of(hash)]; });
  Split split;
  split.back = sorted_by(owner, owners.count, split.ends);
  std::adjacent_difference(split.ends.begin(), split.ends.end(), std::back_inserter(split.counts));
  split.positions.resize(ids.count);
  for (std::size_t i = 0; i < ids.count; ++i)
    split.positions[static_cast<std::size_t>(split.back[i])] = static_cast<std::int64_t>(i);
  return split;
}

Split split_unique(const IdsToSplit& ids, const Owners& owners) {
  FirstPlaces places(ids.count);
  std::vector<std::int32_t> owner;
  std::vector<std::int64_t> first;
  Split split;
  split.back.resize(ids.count);
  split.counts.resize(owners.count);
  each_hash(ids, [&](std::size_t i, std::uint64_t hash) {
    const std::uint32_t number = places.number(hash);
    const std::int32_t own = owners.of_bucket[bucket_of(hash)];
    split.back[i] = number;
    ++split.counts[static_cast<std::size_t>(own)];
    if (places.size() == first.size()) return;
    first.push_back(static_cast<std::int64_t>(i));
    owner.push_back(own);
  });
  const std::vector<std::int64_t> place = sorted_by(owner, owners.count, split.ends);
  split.positions.resize(first.size());
  for (std::size_t k = 0; k < first.size(); ++k) split.positions[static_cast<std::size_t>(place[k])] = first[k];
  for (std::int64_t& number : split.back) number = place[static_cast<std::size_t>(number)];
  return split;
}

std::vector<std::int64_t> buckets_of(const IdsToSplit& ids) {
  std::vector<std::int64_t> buckets(ids.count);
  each_hash(ids, [&](std::size_t i, std::uint64_t hash) { buckets[i] = static_cast<std::int64_t>(bucket_of(hash)); });
  return buckets;
}

}  // namespace monolith
