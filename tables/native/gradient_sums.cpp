#include "gradient_sums.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "optimizers/optimizer.h"

namespace monolith {
namespace {

constexpr std::size_t kChecked = 64;  // gradients that are checked together, and are in the cache when they are summed

bool all_finite(const float* values, std::size_t n) {
  constexpr std::uint32_t kExponent = 0x7F800000u;  // all ones: NaN or infinity
  std::uint32_t bad = 0;
  for (std::size_t i = 0; i < n; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    bad += (bits & kExponent) == kExponent;
  }
  return bad == 0;
}

}  // namespace

std::int64_t GradientSums::collect(const Step& step, const float* grads, Times times) {
  begin(step, grads, times);
  const std::uint32_t* repeat = step.repeats();
  const std::uint32_t* const end = repeat + step.repeat_count();
  for (std::size_t begin = 0; begin < step.size(); begin += kChecked) {
    const std::size_t count = std::min(kChecked, step.size() - begin);
    const bool clean = finite(begin, count);
    for (; repeat != end && *repeat < begin + count; ++repeat)
      if (clean) accumulate(step.place(*repeat), grads + *repeat * dim_);
    if (clean) continue;
    const std::int64_t bad = add_one_by_one(begin, count);
    if (bad >= 0) return bad;
  }
  if (times.each()) see_times();
  return settle();
}

void GradientSums::begin(const Step& step, const float* grads, Times times) {
  step_ = &step;
  grads_ = grads;
  times_ = times;
  sum_of_.assign(step.unique_count(), kNoSum);
  sum_count_ = 0;
  nonfinite_ = 0;
}

bool GradientSums::finite(std::size_t begin, std::size_t count) const {
  return all_finite(grads_ + begin * dim_, count * dim_);
}

// A block that holds NaN or infinity. Returns where if the policy is to raise, else -1.
std::int64_t GradientSums::add_one_by_one(std::size_t begin, std::size_t count) {
  for (std::size_t position = begin; position < begin + count; ++position) {
    const std::uint32_t place = step_->place(position);
    if (finite(position, 1)) {
      const bool repeated = place != Step::kAbsent && step_->unique()[place].first != position;
      if (repeated) accumulate(place, grads_ + position * dim_);
      continue;
    }
    if (policy_ == NonFinite::raise) return static_cast<std::int64_t>(position);
    ++nonfinite_;
    if (place != Step::kAbsent) add_bad(place, position);
  }
  return -1;
}

void GradientSums::add_bad(std::uint32_t place, std::size_t position) {
  if (policy_ != NonFinite::clip) {
    sum_of_[place] = kSkipped;
    return;
  }
  clipped_.assign(grads_ + position * dim_, grads_ + (position + 1) * dim_);
  clip(clipped_.data());
  if (step_->unique()[place].first == position)
    start_sum(place, clipped_.data());
  else
    accumulate(place, clipped_.data());
}

void GradientSums::see_times() {
  latest_ms_.assign(step_->unique_count(), INT64_MIN);
  for (std::size_t position = 0; position < step_->size(); ++position) {
    const std::uint32_t place = step_->place(position);
    if (place != Step::kAbsent) latest_ms_[place] = std::max(latest_ms_[place], times_.at(position));
  }
}

// Sums may have overflowed: the first occurrence of one that did if the policy is to raise, else -1 with those sums
// clipped or their rows skipped.
std::int64_t GradientSums::settle() {
  if (all_finite(sums_.data(), sum_count_ * dim_)) return -1;
  for (std::size_t i = 0; i < sum_of_.size(); ++i) {
    if (sum_of_[i] == kNoSum || sum_of_[i] == kSkipped) continue;
    float* sum = &sums_[sum_of_[i] * dim_];
    if (all_finite(sum, dim_)) continue;
    if (policy_ == NonFinite::raise) return step_->unique()[i].first;
    ++nonfinite_;
    if (policy_ == NonFinite::clip)
      clip(sum);
    else
      sum_of_[i] = kSkipped;
  }
  return -1;
}

void GradientSums::accumulate(std::uint32_t place, const float* grad) {
  if (sum_of_[place] == kSkipped) return;
  if (sum_of_[place] == kNoSum) start_sum(place, grads_ + step_->unique()[place].first * dim_);
  float* sum = &sums_[sum_of_[place] * dim_];
  for_dim(dim_, [&](auto dim) {
    for (std::size_t i = 0; i < dim; ++i) sum[i] += grad[i];
  });
}

void GradientSums::start_sum(std::uint32_t place, const float* grad) {
  const std::size_t end = (sum_count_ + 1) * dim_;
  if (sums_.size() < end) sums_.resize(std::max(end, 2 * sums_.size()));
  std::memcpy(&sums_[sum_count_ * dim_], grad, dim_ * sizeof *grad);
  sum_of_[place] = static_cast<std::uint32_t>(sum_count_++);
}

void GradientSums::clip(float* values) const {
  for (std::size_t i = 0; i < dim_; ++i) {
    if (std::isnan(values[i])) values[i] = 0.0f;
    if (std::isinf(values[i])) values[i] = std::copysign(max_gradient_, values[i]);
  }
}

}  // namespace monolith
