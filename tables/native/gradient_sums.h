// One training call's gradients, brought down to one per row: duplicates summed in order of occurrence.
//
// A gradient that occurs once is read where the caller has it; only repeated ids get a sum buffer. Nothing a reader
// sees is written, so the whole pass needs no turn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "step.h"
#include "times.h"

namespace monolith {

enum class NonFinite { raise, skip_row, clip };

class GradientSums {
 public:
  GradientSums(std::size_t dim, NonFinite policy, float max_gradient)
      : dim_(dim), policy_(policy), max_gradient_(max_gradient) {}

  // Sums the gradients (n, dim) of the step's occurrences; all three must stay as they are while rows are stepped.
  // Returns -1, or, if the policy is to raise, the position of a gradient that holds NaN or infinity, or the first
  // occurrence of an id whose sum overflows.
  std::int64_t collect(const Step& step, const float* grads, Times times);

  std::int64_t latest(std::size_t i) const { return times_.each() ? latest_ms_[i] : times_.at(0); }  // of row i's times
  bool skipped(std::size_t i) const { return sum_of_[i] == kSkipped; }
  const float* gradient(std::size_t i) const {
    return sum_of_[i] == kNoSum ? grads_ + step_->unique()[i].first * dim_ : &sums_[sum_of_[i] * dim_];
  }
  std::uint64_t nonfinite() const { return nonfinite_; }  // gradients and sums that were clipped or skipped
  std::size_t bytes() const { return (sums_.capacity() + sum_of_.capacity()) * sizeof(float); }

 private:
  static constexpr std::uint32_t kNoSum = UINT32_MAX;
  static constexpr std::uint32_t kSkipped = UINT32_MAX - 1;

  void begin(const Step& step, const float* grads, Times times);
  bool finite(std::size_t begin, std::size_t count) const;
  std::int64_t add_one_by_one(std::size_t begin, std::size_t count);
  void add_bad(std::uint32_t place, std::size_t position);
  void see_times();
  std::int64_t settle();
  void accumulate(std::uint32_t place, const float* grad);
  void start_sum(std::uint32_t place, const float* grad);
  void clip(float* values) const;

  std::size_t dim_;
  NonFinite policy_;
  float max_gradient_;
  const Step* step_ = nullptr;
  const float* grads_ = nullptr;
  Times times_;
  std::vector<std::uint32_t> sum_of_;  // of each row: which sum buffer, kNoSum or kSkipped
  std::vector<float> sums_;            // as long as any call needed; the first sum_count_ are of this one
  std::size_t sum_count_ = 0;
  std::vector<float> clipped_;
  std::vector<std::int64_t> latest_ms_;  // of each row, if the occurrences have times of their own
  std::uint64_t nonfinite_ = 0;
};

}  // namespace monolith
