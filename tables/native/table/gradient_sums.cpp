#include "table/gradient_sums.h"

#include <algorithm>
#include <cstring>

#include "memory/simd.h"
#include "optimizers/optimizer.h"

namespace monolith {
namespace {

constexpr std::size_t kFetched = 16;  // repeated gradients whose sums are fetched ahead
constexpr float kNoGradientYet = 0.0f;

// Sum may be where a is.
template <class Dim>
void add_up(float* sum, const float* a, const float* b, Dim dim) {
  each_column(dim, [=](std::size_t i) { sum[i] = a[i] + b[i]; });
}

}  // namespace

// Sizes compare as the integers that their bits are, with infinity and then NaN above all others.
bool all_within(const float* values, std::size_t n, float largest) {
  std::int32_t bound;
  std::memcpy(&bound, &largest, sizeof bound);
  bool all = true;
  with_simd([&all, values, n, bound] {
    std::uint32_t beyond = 0;
    for (std::size_t i = 0; i < n; ++i) {
      std::int32_t bits;
      std::memcpy(&bits, values + i, sizeof bits);
      beyond += (bits & 0x7FFFFFFF) > bound;
    }
    all = beyond == 0;
  });
  return all;
}

namespace {

// Calls with(gradient, id, ids) for each id of the part; `ids`: how many its sample has.
template <class With>
void each_id(const Part& part, const PartGradient& gradient, With with) {
  for (std::size_t sample = 0, id = 0; sample < part.samples; ++sample) {
    const std::size_t ids = part.lengths == nullptr ? 1 : static_cast<std::size_t>(part.lengths[sample]);
    const float* const grad = gradient.grads + sample * gradient.stride;
    for (const std::size_t end = id + ids; id < end; ++id) with(grad, id, ids);
  }
}

}  // namespace

void sum_gradients(const Part& part, const PartGradient& gradient, float shared_by, const std::int64_t* places,
                   std::size_t dim, char* begun, float* const* sums) {
  for_dim(dim, [&](auto columns) {
    const auto add = [=](std::size_t id, auto column) {
      const auto place = static_cast<std::size_t>(places[id]);
      float* const sum = sums[place];
      if (begun[place])
        each_column(columns, [=](std::size_t k) { sum[k] += column(k); });
      else
        each_column(columns, [=](std::size_t k) { sum[k] = column(k); });
      begun[place] = 1;
    };
    if (part.weights == nullptr && !(part.mean && part.lengths != nullptr))
      return with_simd([&, add, shared_by] {
        each_id(part, gradient, [=](const float* grad, std::size_t id, std::size_t) {
          add(id, [=](std::size_t k) { return grad[k] / shared_by; });
        });
      });
    with_simd([&, add, shared_by] {
      each_id(part, gradient, [&, shared_by](const float* grad, std::size_t id, std::size_t ids) {
        const float divisor = part.mean && part.lengths != nullptr ? static_cast<float>(ids) : 1.0f;
        const float weight = part.weights == nullptr ? 1.0f : part.weights[id];
        add(id, [=](std::size_t k) { return grad[k] / shared_by / divisor * weight; });
      });
    });
  });
}

bool Gradients::all_given() const {
  return std::all_of(parts_.begin(), parts_.end(), [](const PartGradient& part) { return part.grads != nullptr; });
}

bool Gradients::any_scaled() const {
  for (std::size_t feature = 0; feature < parts_.size(); ++feature)
    if (given(feature) && scaled(feature)) return true;
  return false;
}

const float* Gradients::of(std::size_t feature, std::size_t position, float* scratch) const {
  const float* grad = vector(feature, position);
  if (!scaled(feature)) return grad;
  const Step::Feature& from = step_.features()[feature];
  const float divisor = from.divisor(step_.sample_at(position, from));
  const float weight = from.weights.empty() ? 1.0f : from.weights[position - from.begin];
  for (std::size_t i = 0; i < dim_; ++i) scratch[i] = grad[i] / divisor * weight;
  return scratch;
}

// Vectors of samples without ids are looked at as well: what is wrong with them is found out, and let pass, later.
bool Gradients::within(unsigned number, unsigned shares) const {
  for (std::size_t feature = 0; feature < parts_.size(); ++feature) {
    if (!given(feature)) continue;
    const Step::Feature& of = step_.features()[feature];
    const PartGradient& part = parts_[feature];
    const std::size_t samples = of.lengths.empty() ? of.end - of.begin : of.lengths.size();
    const std::size_t first = samples * number / shares, last = samples * (number + 1) / shares;
    if (part.stride == dim_) {
      if (!all_within(part.grads + first * dim_, (last - first) * dim_, largest_)) return false;
    } else {
      for (std::size_t sample = first; sample < last; ++sample)
        if (!all_within(part.grads + sample * part.stride, dim_, largest_)) return false;
    }
  }
  return true;
}

bool GradientSums::collect(const Group& group, const Gradients& gradients) {
  dim_ = gradients.dim();
  reserve(gradients.any_scaled() ? group.unique_count() : std::min(group.unique_count(), group.repeat_count()));
  take_first(group, gradients);
  for_dim(dim_, [&](auto dim) { with_simd([&] { add_repeats(group, gradients, dim); }); });
  return all_within(sums_.get(), static_cast<std::size_t>(next_sum_ - sums_.get()), gradients.largest());
}

void GradientSums::start(const Group& group, std::size_t dim) {
  dim_ = dim;
  reserve(group.unique_count());
  grad_of_.assign(group.unique_count(), &kNoGradientYet);
}

void GradientSums::add(std::size_t place, const float* grad) {
  if (grad_of_[place] == nullptr) return;
  if (grad_of_[place] == &kNoGradientYet) {
    float* const first = new_sum();
    std::copy_n(grad, dim_, first);
    grad_of_[place] = first;
  } else {
    float* const known = sum(place);
    for (std::size_t i = 0; i < dim_; ++i) known[i] += grad[i];
  }
}

void GradientSums::reserve(std::size_t sums) {
  if (sums * dim_ > sums_size_) {
    sums_size_ = sums * dim_;
    sums_.reset(new float[sums_size_]);
  }
  next_sum_ = sums_.get();
}

void GradientSums::take_first(const Group& group, const Gradients& gradients) {
  const Step& step = gradients.step();
  const bool any_scaled = gradients.any_scaled();
  grad_of_.resize(group.unique_count());
  if (const PartGradient* plain = gradients.plain()) {
    const auto [first, stride] = *plain;
    const Group::Positions positions = group.positions();
    for (std::size_t place = 0; place < grad_of_.size(); ++place)
      grad_of_[place] = first + positions[group.unique()[place].first] * stride;
    return;
  }
  std::size_t feature = 0;
  for (std::size_t place = 0; place < group.unique_count(); ++place) {
    const std::size_t position = group.position(group.unique()[place].first);
    feature = step.feature_at(position, feature);
    if (any_scaled && gradients.scaled(feature)) {
      float* const sum = new_sum();
      gradients.of(feature, position, sum);
      grad_of_[place] = sum;
    } else {
      grad_of_[place] = gradients.vector(feature, position);
    }
  }
}

template <class Dim>
void GradientSums::add_repeats(const Group& group, const Gradients& gradients, Dim dim) {
  if (const PartGradient* plain = gradients.plain()) {
    const auto gradient_at = [part = *plain](std::size_t position) { return part.grads + position * part.stride; };
    return add_repeats(group, dim, gradient_at,
                       [=](std::size_t position) { fetch_floats(gradient_at(position), dim); });
  }
  const Step& step = gradients.step();
  std::vector<float> scratch(dim);
  std::size_t feature = 0;
  const auto gradient_at = [&](std::size_t position) {
    feature = step.feature_at(position, feature);
    return gradients.of(feature, position, scratch.data());
  };
  add_repeats(group, dim, gradient_at, [](std::size_t) {});
}

template <class Dim, class GradientAt, class FetchAt>
void GradientSums::add_repeats(const Group& group, Dim dim, GradientAt gradient_at, FetchAt fetch_at) {
  const Group::Repeat* const repeats = group.repeats();
  const float** const grad_of = grad_of_.data();
  float* next = next_sum_;
  for (std::size_t k = 0; k < group.repeat_count(); ++k) {
    if (k + kFetched < group.repeat_count()) {
      fetch_floats(grad_of[repeats[k + kFetched].place], dim);
      fetch_at(group.position(repeats[k + kFetched].i));
    }
    const float* const before = grad_of[repeats[k].place];
    // The sum of a first repeat is a new one, written in the same pass.
    const bool known = is_sum(before, next);
    float* const sum = known ? const_cast<float*>(before) : next;
    next += known ? 0 : static_cast<std::size_t>(dim);
    add_up(sum, before, gradient_at(group.position(repeats[k].i)), dim);
    grad_of[repeats[k].place] = sum;
  }
  next_sum_ = next;
}

void GradientSums::see_times(const Group& group, const Step& step, Times times) {
  latest_ms_.assign(group.unique_count(), INT64_MIN);
  std::size_t feature = 0;
  const auto see = [&](std::size_t place, std::size_t i) {
    const std::size_t position = group.position(i);
    feature = step.feature_at(position, feature);
    latest_ms_[place] = std::max(latest_ms_[place], times.at(step.sample_at(position, step.features()[feature])));
  };
  for (std::size_t place = 0; place < group.unique_count(); ++place) see(place, group.unique()[place].first);
  for (std::size_t k = 0; k < group.repeat_count(); ++k) see(group.repeats()[k].place, group.repeats()[k].i);
}

}  // namespace monolith
