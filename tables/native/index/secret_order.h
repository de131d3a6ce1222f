// The order in which hashes lie in memory: by a bijection that nobody outside the process knows.
//
// The index, counters and tombstones are arrays sorted by a key, and an insertion is cheap as long as keys come from
// all over their range. Hashes of ids do not always: a saved table, a store's image or a log may bring them in the
// order of their hashes, and mix64 is public, so whoever chooses ids can crowd them wherever he likes. Keys cannot be
// chosen: they are hashes, mixed with numbers that are drawn when the process starts. Nothing that leaves the table
// depends on them.
//
// A hash is a bucket (10 bits) and a rest (54), which becomes a secret one:
//   in the index     12 bits of the secret rest | bucket | 42 bits of it
//   in a segment     bucket | secret rest
// So the index is 2^12 slabs, each of which has a few rows of every bucket, in the order of buckets. Rows that come by
// bucket therefore fill all slabs alike, and whatever comes in whatever order, an insertion goes past a slab at most, a
// 4,096th of the index; while the rows of a bucket are found without a look at the others (`Rows::each`).
#pragma once

#include <cstddef>
#include <cstdint>

#include "index/hash.h"

namespace monolith {

class SecretOrder {
 public:
  static constexpr std::uint64_t kSlabs = 1 << 12;

  SecretOrder() : SecretOrder(seed_of_tables()) {}  // that of the tables made now

  // For tests: what tables made from now on draw their order from. At first it is random.
  static void set_seed(std::uint64_t seed);

  std::uint64_t index_key(std::uint64_t hash) const {
    const std::uint64_t rest = secret_rest(hash);
    return (rest >> kLow) << kSlabShift | bucket_of(hash) << kLow | (rest & kLowMask);
  }
  std::uint64_t hash_of_index_key(std::uint64_t key) const {
    const std::uint64_t rest = (key >> kSlabShift) << kLow | (key & kLowMask);
    return hash_of((key >> kLow) % kBuckets, rest);
  }
  // Of n hashes, several at once.
  void index_keys(const std::uint64_t* hashes, std::size_t n, std::uint64_t* keys) const;

  // Where the index has the buckets [first, end) of a slab, in upper halves of keys: from this one on, and the last.
  static std::uint32_t first_upper(std::uint64_t slab, std::size_t first_bucket) {
    return static_cast<std::uint32_t>(slab << (kSlabShift - 32) | first_bucket << (kLow - 32));
  }
  static std::uint32_t last_upper(std::uint64_t slab, std::size_t end_bucket) {
    return static_cast<std::uint32_t>((slab << (kSlabShift - 32)) + (end_bucket << (kLow - 32)) - 1);
  }
  static std::size_t bucket_of_upper(std::uint32_t upper) { return (upper >> (kLow - 32)) % kBuckets; }

  std::uint64_t segment_key(std::uint64_t hash) const {
    return std::uint64_t{bucket_of(hash)} << kRest | secret_rest(hash);
  }
  std::uint64_t hash_of_segment_key(std::uint64_t key) const { return hash_of(bucket_of(key), key & kRestMask); }

 private:
  static constexpr unsigned kRest = 54, kLow = 42, kSlabShift = 52;
  static constexpr std::uint64_t kRestMask = (std::uint64_t{1} << kRest) - 1;
  static constexpr std::uint64_t kLowMask = (std::uint64_t{1} << kLow) - 1;

  explicit SecretOrder(std::uint64_t seed);
  static std::uint64_t seed_of_tables();

  // The bucket goes into the first product, so that hashes with the same rest lie apart. A product spreads upwards
  // only, so its upper half goes into the lower one before the next. After two of them, hashes at equal distances (i <<
  // 32) were still seen to lie in waves.
  std::uint64_t secret_rest(std::uint64_t hash) const {
    std::uint64_t rest = ((hash << 10 | hash >> 54) ^ mask_) * first_ >> 10;
    rest ^= rest >> kRest / 2;
    rest = rest * second_ & kRestMask;
    rest ^= rest >> kRest / 2;
    return rest * third_ & kRestMask;
  }
  std::uint64_t hash_of(std::uint64_t bucket, std::uint64_t rest) const {
    rest = rest * third_inverse_ & kRestMask;
    rest ^= rest >> kRest / 2;
    rest = rest * second_inverse_ & kRestMask;
    rest ^= rest >> kRest / 2;
    const std::uint64_t low = (bucket ^ mask_) * first_ & 1023;  // a product's low bits come from low bits alone
    const std::uint64_t turned = (rest << 10 | low) * first_inverse_ ^ mask_;
    return turned >> 10 | turned << 54;
  }

  std::uint64_t mask_, first_, second_, third_;  // but for the mask they are odd
  std::uint64_t first_inverse_, second_inverse_, third_inverse_;
};

}  // namespace monolith
