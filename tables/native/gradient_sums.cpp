#include "gradient_sums.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace monolith {
namespace {

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

void GradientSums::begin(const float* grads, Times times) {
  grads_ = grads;
  times_ = times;
  unique_.clear();
  sums_.clear();
  latest_ms_.clear();
  overflowed_ = 0;
}

bool GradientSums::finite(std::size_t begin, std::size_t count) const {
  return all_finite(grads_ + begin * rows_.dim(), count * rows_.dim());
}

std::int64_t GradientSums::settle() {
  if (sums_.empty()) return -1;
  for (UniqueRow& unique : unique_) {
    if (unique.sum == kNoSum || unique.sum == kSkipped) continue;
    float* sum = &sums_[unique.sum * rows_.dim()];
    if (all_finite(sum, rows_.dim())) continue;
    if (policy_ == NonFinite::raise) return unique.first;
    ++overflowed_;
    if (policy_ == NonFinite::clip)
      clip(sum);
    else
      unique.sum = kSkipped;
  }
  return -1;
}

void GradientSums::add_bad(char* row, std::uint32_t position) {
  UniqueRow* unique = known(row);
  const bool repeated = unique != nullptr;
  if (!repeated) unique = &append(row, position);
  if (policy_ != NonFinite::clip) {
    unique->sum = kSkipped;
    return;
  }
  clipped_.assign(grads_ + position * rows_.dim(), grads_ + (position + 1) * rows_.dim());
  clip(clipped_.data());
  if (repeated)
    accumulate(*unique, clipped_.data());
  else
    start_sum(*unique, clipped_.data());
}

void GradientSums::see(std::size_t i, std::int64_t t) {
  if (i == latest_ms_.size())
    latest_ms_.push_back(t);
  else
    latest_ms_[i] = std::max(latest_ms_[i], t);
}

void GradientSums::accumulate(UniqueRow& unique, const float* grad) {
  if (unique.sum == kSkipped) return;
  if (unique.sum == kNoSum) start_sum(unique, grads_ + unique.first * rows_.dim());
  float* sum = &sums_[unique.sum * rows_.dim()];
  for (std::size_t i = 0; i < rows_.dim(); ++i) sum[i] += grad[i];
}

void GradientSums::start_sum(UniqueRow& unique, const float* grad) {
  unique.sum = static_cast<std::uint32_t>(sums_.size() / rows_.dim());
  sums_.insert(sums_.end(), grad, grad + rows_.dim());
}

void GradientSums::clip(float* values) const {
  for (std::size_t i = 0; i < rows_.dim(); ++i) {
    if (std::isnan(values[i])) values[i] = 0.0f;
    if (std::isinf(values[i])) values[i] = std::copysign(max_gradient_, values[i]);
  }
}

}  // namespace monolith
