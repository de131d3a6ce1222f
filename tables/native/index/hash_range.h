// Some of the buckets; and hashes of one of them whose upper halves lie in a range: how far a sweep goes at once.
#pragma once

#include <algorithm>
#include <bitset>
#include <cstddef>
#include <cstdint>

#include "index/hash.h"

namespace monolith {

using BucketSet = std::bitset<kBuckets>;

struct HashRange {
  static constexpr std::uint64_t kBucket = (std::uint64_t{1} << 32) / kBuckets;  // upper halves of a bucket

  std::uint64_t begin, end;  // upper halves

  // The next `most` from an upper half on, or those up to the end of its bucket.
  static HashRange from(std::uint32_t first, std::uint64_t most) {
    return {first, std::min(first + most, (first / kBucket + 1) * kBucket)};
  }
  std::size_t bucket() const { return static_cast<std::size_t>(begin / kBucket); }
  std::uint64_t size() const { return end - begin; }
  bool whole() const { return size() == kBucket; }
  bool contains(std::uint64_t hash) const { return hash >> 32 >= begin && hash >> 32 < end; }
};

}  // namespace monolith
