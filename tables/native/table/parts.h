// What one call is about: the ids of each feature of the table, in the order in which they are seen, and how their rows
// become the feature's vectors. Nothing here is owned: the arrays are the caller's and stay as they are during the
// call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "index/hash.h"
#include "policies/policy.h"

namespace monolith {

struct Part {  // one feature of a batch
  const std::int64_t* ids = nullptr;
  std::size_t count = 0;                  // of ids
  std::size_t samples = 0;                // of the batch
  const std::int32_t* lengths = nullptr;  // (samples): a sample's ids; null: each has one
  const float* weights = nullptr;         // (count): what each row is multiplied by; null: by nothing
  bool mean = false;                      // divide a sample's sum by its number of ids
  std::optional<std::uint64_t> salt;      // of a feature that shares the table, but no rows
  std::uint32_t policy = 0;               // that the ids are under
  Runs runs;                              // if there are any: policies by position, in place of that one
  float* out = nullptr;                   // (samples, dim), where the vectors go; null: nowhere
  std::size_t stride = 0;                 // floats from one vector to the next

  bool pooled() const { return lengths != nullptr || weights != nullptr; }  // else a row is a vector
  std::uint32_t policy_at(std::size_t i) const { return runs.count == 0 ? policy : runs.policy_at(i); }
};

using Parts = std::vector<Part>;

// Samples [first, last) of a part, and their ids [id, end).
struct Piece {
  const Part* part;
  std::size_t first, last, id, end;
};

inline std::size_t ids_of(const Parts& parts) {
  std::size_t ids = 0;
  for (const Part& part : parts) ids += part.count;
  return ids;
}

// The part's vectors, its ids having the `rows` (count, dim): in the bits of a forward call that finds these rows.
void pool_rows(const Part& part, const float* rows, std::size_t dim);
// The same for rows that lie anywhere: the i-th id's is at rows[places[i]].
void pool_rows(const Part& part, const float* const* rows, std::size_t dim, const std::int64_t* places);

// The gradient of a part's vectors. Without one, the loss does not use the feature, and its rows stay as they are.
struct PartGradient {
  const float* grads = nullptr;  // (samples, dim)
  std::size_t stride = 0;        // floats from one to the next
};

using PartGradients = std::vector<PartGradient>;

}  // namespace monolith
