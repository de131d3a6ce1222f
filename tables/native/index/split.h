// A batch's ids by who has their buckets: what goes to which of several owners of one table, and the way back.
//
// Owners come in their order, and what one of them gets stays in the order of the ids. So a split is a function of the
// ids and of the owner of each bucket alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "index/hash.h"

namespace monolith {

struct IdsToSplit {
  const std::int64_t* ids;
  std::size_t count;
  std::optional<std::uint64_t> salt;  // of a feature that shares a table, but no rows: the bucket is that of the row
};

struct Owners {
  const std::int32_t* of_bucket;  // kBuckets numbers below `count`
  std::size_t count;
};

struct Split {
  std::vector<std::int64_t> positions;  // of the ids, owner after owner
  std::vector<std::int64_t> ends;       // where those of each owner end in `positions`
  std::vector<std::int64_t> back;       // where each id is in `positions`
  std::vector<std::int64_t> counts;     // how many of the ids, with repeats, each owner has
};

// Every id with its repeats: `positions` are a permutation, `back` is its inverse.
Split split(const IdsToSplit& ids, const Owners& owners);
// Every id once, where it comes first; `back` says of each occurrence where the id's first one is in `positions`.
Split split_unique(const IdsToSplit& ids, const Owners& owners);
// The bucket of each id.
std::vector<std::int64_t> buckets_of(const IdsToSplit& ids);

}  // namespace monolith
