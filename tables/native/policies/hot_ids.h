// Which ids of a table are hot enough for a row of their own, by the decayed sum of their gradients' norms; all others
// share rows by hash. After CAFE (Zhang et al., "CAFE: Towards Compact, Adaptive, and Fast Embedding", SIGMOD 2024).
//
// Cells of 16 bytes (id, score, slot) lie in buckets of 4, two for each slot. An id without a cell takes the one of the
// lowest score among those of its bucket that have no slot, and its score (SpaceSaving), so a score is never too low by
// more than decay. A score is not decayed step by step: what is added weighs more each step instead, and all scores are
// scaled by a power of two when that weight grows large. Not thread safe: the caller lets one call in at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace monolith {

class HotIds {
 public:
  static constexpr std::size_t kWays = 4;
  static constexpr float kMargin = 1.1f;  // a newcomer has to be so much hotter than whom it takes the row from
  static constexpr std::int32_t kNone = -1;

  struct Exchange {  // who got a slot, and who lost one
    std::vector<std::int64_t> ids, slots, removed;
  };
  struct State {
    std::vector<std::int64_t> ids;
    std::vector<float> scores;
    std::vector<std::int32_t> slots;
    double weight = 1.0;
  };

  // `shared`: how many rows the other ids share, by the hash that a tail has; own rows are numbered behind those.
  HotIds(std::uint32_t shared, std::uint32_t own, double decay);

  std::size_t cells() const { return lines_.size() * kWays; }
  void keys(const std::int64_t* ids, std::size_t n, std::int64_t* out) const;

  // Gradients (samples, dim) of samples `stride` apart, of bags of `lengths` ids each (null: one each), whose vectors
  // weigh `weights` (null: 1) and are averaged if `mean`.
  struct Gradients {
    const float* values;
    std::size_t stride, dim, samples;
    const std::int32_t* lengths;
    const float* weights;
    bool mean;
  };
  void add(const std::int64_t* ids, const Gradients& gradients);
  // add() in two halves, for batches of which several processes have some: what each id's score gains, and to add it.
  void amounts(const Gradients& gradients, float* out) const;
  void add(const std::int64_t* ids, const float* amounts, std::size_t n);
  void end_step();      // scores decay
  Exchange exchange();  // slots go to the hottest ids: all that are free, and 1 in 32 of the others, with 16 more

  State state() const;  // of all cells, in order
  // False where the arrays are none of such a table; then nothing was changed.
  bool restore(const State& state);

 private:
  struct Cell {
    std::int64_t id = 0;
    float score = 0.0f;
    std::int32_t slot = kNone;

    bool empty() const { return score == 0.0f && slot == kNone; }
  };
  struct alignas(64) Line {  // a bucket is a cache line
    std::array<Cell, kWays> cells;
  };

  std::size_t number_of(std::uint64_t hash) const { return static_cast<std::size_t>(((hash >> 32) * buckets_) >> 32); }
  const Line& line(std::uint64_t hash) const { return lines_[number_of(hash)]; }
  Cell& at(std::size_t cell) { return lines_[cell / kWays].cells[cell % kWays]; }
  template <class Take>
  void each_amount(const Gradients& gradients, Take take) const;
  void add_one(std::int64_t id, float amount);
  template <class Wanted>
  std::vector<std::uint32_t> cells_where(Wanted wanted) const {
    std::vector<std::uint32_t> found(cells() + 1);
    std::size_t count = 0;
    for (std::size_t cell = 0; cell < cells(); ++cell) {
      found[count] = static_cast<std::uint32_t>(cell);
      count += wanted(cell);
    }
    found.resize(count);
    return found;
  }

  const std::uint32_t shared_, own_;
  const double decay_;
  const std::uint64_t buckets_;
  std::vector<Line> lines_;
  double weight_ = 1.0;
  std::vector<std::int32_t> free_;  // the last one is taken next
};

}  // namespace monolith
