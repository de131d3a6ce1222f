// The 64-bit hash under everything: which bucket an id is in, where its entry lies, what its first values are.
//
// mix64 is a bijection, so the index stores hashes in place of ids and gives the id back with unmix64: two ids never
// share an entry, and no 64-bit value has to be set aside as a marker. Constants: Stafford's variant 13, as in
// splitmix64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace monolith {

constexpr std::size_t kBuckets = 1024;
constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio: the step of splitmix64

inline std::uint64_t mix64(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// The multipliers are the inverses modulo 2^64 of those above.
inline std::uint64_t unmix64(std::uint64_t x) {
  x = (x ^ (x >> 31) ^ (x >> 62)) * 0x319642B2D24D8EC3u;
  x = (x ^ (x >> 27) ^ (x >> 54)) * 0x96DE1B173F119089u;
  return x ^ (x >> 30) ^ (x >> 60);
}

inline std::uint64_t hash_of(std::int64_t id) { return mix64(static_cast<std::uint64_t>(id)); }
// Those of n ids, several at once, into `hashes`; `salt`: that of a feature which shares a table, but no rows.
void hash_ids(const std::int64_t* ids, std::size_t n, std::optional<std::uint64_t> salt, std::uint64_t* hashes);
inline std::int64_t id_of(std::uint64_t hash) { return static_cast<std::int64_t>(unmix64(hash)); }
inline std::size_t bucket_of(std::uint64_t hash) { return static_cast<std::size_t>(hash >> 54); }

// The n-th draw of a stream that is named by `key`.
inline std::uint64_t draw(std::uint64_t key, std::uint64_t n) { return mix64(key + n * kGolden); }

// Ids without a row may share the rows of a tail. Which one an id has depends on its hash and their number alone, so
// that a replica chooses as the trainer did. A shared row starts, and rounds, as an id's of the hash that is given
// here.
inline std::uint32_t shared_number(std::uint64_t hash, std::uint32_t rows) {
  return static_cast<std::uint32_t>(((mix64(hash ^ 0xA24BAED4963EE407u) >> 32) * rows) >> 32);
}
inline std::uint64_t shared_hash(std::uint32_t number) { return mix64(0x9FB21C651E98DF25u ^ number); }

}  // namespace monolith
