// One training call's gradients, brought down to one per row: duplicates summed in order of occurrence.
//
// Deduplication needs no second hash table: a row's `slot` holds its place in the list of this call's rows, and is
// believed only if that place holds the row. A gradient that occurs once is read where the caller has it; only repeated
// ids get a sum buffer. Nothing a reader sees is written, so the whole pass needs no turn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "rows.h"
#include "times.h"

namespace monolith {

enum class NonFinite { raise, skip_row, clip };

class GradientSums {
 public:
  struct UniqueRow {
    char* row;
    std::uint32_t first;  // position of its first occurrence in the call
    std::uint32_t sum;    // which sum buffer, kNoSum or kSkipped
  };

  GradientSums(const Rows& rows, NonFinite policy, float max_gradient)
      : rows_(rows), policy_(policy), max_gradient_(max_gradient) {}

  void begin(const float* grads, Times times);  // both must stay where they are until the call's end

  // True unless a gradient in [begin, begin + count) holds NaN or infinity.
  bool finite(std::size_t begin, std::size_t count) const;
  bool finite(std::size_t position) const { return finite(position, 1); }

  void add(char* row, std::uint32_t position, bool bad) {
    bad ? add_bad(row, position) : add_good(row, position);
    if (times_.each()) see(rows_.slot(row), times_.at(position));
  }

  // After the last add(): sums may have overflowed. Returns the first occurrence of one that did if the policy is to
  // raise, else -1 with those sums clipped or their rows skipped.
  std::int64_t settle();

  const std::vector<UniqueRow>& rows() const { return unique_; }
  std::int64_t latest(std::size_t i) const { return times_.each() ? latest_ms_[i] : times_.at(0); }  // of row i's times
  bool skipped(const UniqueRow& unique) const { return unique.sum == kSkipped; }
  const float* gradient(const UniqueRow& unique) const {
    return unique.sum == kNoSum ? grads_ + unique.first * rows_.dim() : &sums_[unique.sum * rows_.dim()];
  }
  std::uint64_t overflowed() const { return overflowed_; }  // sums that settle() clipped or skipped
  NonFinite policy() const { return policy_; }
  std::size_t bytes() const { return unique_.capacity() * sizeof(UniqueRow) + sums_.capacity() * sizeof(float); }

 private:
  static constexpr std::uint32_t kNoSum = UINT32_MAX;
  static constexpr std::uint32_t kSkipped = UINT32_MAX - 1;

  UniqueRow* known(char* row) {
    const std::uint32_t slot = rows_.slot(row);
    return slot < unique_.size() && unique_[slot].row == row ? &unique_[slot] : nullptr;
  }
  UniqueRow& append(char* row, std::uint32_t position) {
    rows_.set_slot(row, static_cast<std::uint32_t>(unique_.size()));
    return unique_.emplace_back(UniqueRow{row, position, kNoSum});
  }
  void add_good(char* row, std::uint32_t position) {
    if (UniqueRow* unique = known(row))
      accumulate(*unique, grads_ + position * rows_.dim());
    else
      append(row, position);
  }
  void add_bad(char* row, std::uint32_t position);
  void see(std::size_t i, std::int64_t t);
  void accumulate(UniqueRow& unique, const float* grad);
  void start_sum(UniqueRow& unique, const float* grad);
  void clip(float* values) const;

  const Rows& rows_;
  NonFinite policy_;
  float max_gradient_;
  const float* grads_ = nullptr;
  Times times_;
  std::vector<UniqueRow> unique_;
  std::vector<float> sums_;
  std::vector<float> clipped_;
  std::vector<std::int64_t> latest_ms_;  // of each row, if the occurrences have times of their own
  std::uint64_t overflowed_ = 0;
};

}  // namespace monolith
