// Which rows go when a table is at its limit: those of the lowest score among a sample.
//
// A sample is the next kSample rows in the order of their hashes, from a cursor on that goes round the table: as good
// as drawn at random, and a function of the rows alone. Of each a sixteenth goes at most (more only where a call brings
// so many rows that more must), so that what goes is low in the whole table too. Where the table is small, a sample is
// all of it and the policy exact. A row is never taken by the call that names it. Ties go by hash.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "memory/row_pool.h"

namespace monolith {

// What a score function is told of each row.
struct Sample {
  std::vector<std::int64_t> ids, last_seen_ms, admitted_ms;
  std::vector<std::uint32_t> uses;
  std::vector<double> norms;  // Euclidean, of the values
  std::int64_t clock_ms = 0;
};

using ScoreFunction = std::function<std::vector<double>(const Sample&)>;

struct Eviction {
  enum class By { none, last_seen, uses, score } by = By::none;
  std::uint64_t max_rows = 0, max_bytes = 0;  // one of the two; the other is 0
  std::int64_t half_life_ms = 0;              // of use counts
  ScoreFunction score = nullptr;

  static constexpr std::size_t kSample = 512, kBatch = 32;
  static constexpr std::size_t kIndexBytes = 12;  // of the index for a row: 8 at a load of 0.8, a ninth more in growth

  std::uint64_t row_limit(std::size_t row_bytes) const {  // 0: none
    return max_bytes == 0 ? max_rows : max_bytes / (row_bytes + kIndexBytes);
  }
};

struct Candidate {
  std::int64_t score, tie;
  std::uint64_t hash;
  Row row;

  bool operator<(const Candidate& other) const {
    if (score != other.score) return score < other.score;
    return tie != other.tie ? tie < other.tie : hash < other.hash;
  }
};

}  // namespace monolith
