// What all optimizers share. The order of operations is part of the contract: every one is an IEEE float32 operation
// that NumPy does alike (no contraction to fma, square root and division rounded correctly), so SIMD along the columns
// leaves the bits as they are, and tests/tables/reference_steps.py gives the same ones.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "optimizers/schedule.h"

namespace monolith {

// The settings that every optimizer has. `lr` is narrowed to float32 once a step, after the schedule.
struct Rule {
  double lr = 0.0, weight_decay = 0.0;
  double clip_row_norm = 0.0;  // 0: not clipped
  Schedule schedule{};
  double clip_global_norm = 0.0;  // 0: not clipped
  std::uint64_t table_step = 1;   // which of the table's steps is being made
  float shrink = 1.0f;            // what that norm multiplies the gradients of this step by

  // The largest size of a gradient that the rule bears, for one that sums squares: a float32 sum of squares of up to
  // 2^100 (or of means of such, over 2^16 columns) stands still at 2^124, so it never becomes infinite, after which no
  // step would move the weight any more.
  static constexpr float kLargest = 0x1p50f;

  float rate() const { return static_cast<float>(lr); }
  float decay() const { return static_cast<float>(weight_decay); }
  void start_values(float*, std::size_t) const {}  // for one that has a say in a row's first values
};

// The largest size of a gradient that may come in: any that is finite, where it is clipped to what the rule bears.
template <class AnyRule>
float largest_gradient(const AnyRule& rule) {
  const auto clips = [](double norm) { return norm != 0.0 && norm <= AnyRule::kLargest; };
  return clips(rule.clip_row_norm) || clips(rule.clip_global_norm) ? FLT_MAX : AnyRule::kLargest;
}

// The rule as it is at the table's step t, from 1.
template <class AnyRule>
AnyRule at_step(AnyRule rule, std::uint64_t t) {
  rule.lr *= rule.schedule.at(t);
  rule.table_step = t;
  return rule;
}

// L2 decay goes into the gradient, as in torch's optimizers of the same names.
inline float decayed(float grad, float w, float weight_decay) {
  return weight_decay == 0.0f ? grad : grad + weight_decay * w;
}

// A row's own step count, an unsigned word of its state.
inline std::uint32_t count_step(float* word) {
  std::uint32_t t;
  std::memcpy(&t, word, sizeof t);
  t += t != UINT32_MAX;
  std::memcpy(word, &t, sizeof t);
  return t;
}

template <std::size_t kHalf, class Number>
void fold(Number* lane) {
  for (std::size_t k = 0; k < kHalf; ++k) lane[k] += lane[k + kHalf];
}

// Calls visit(column) for all of them; one may not depend on another. Eight at a time, because compilers make a vector
// operation of that, and not of a loop of unknown length or of one that they unroll.
template <class Dim, class Visit>
void each_column(Dim dim, Visit visit) {
  const std::size_t whole = dim / 8 * 8;
  for (std::size_t first = 0; first < whole; first += 8) {
#pragma GCC ivdep
#pragma GCC unroll 1
    for (std::size_t k = 0; k < 8; ++k) visit(first + k);
  }
  for (std::size_t i = whole; i < dim; ++i) visit(i);
}

// Sum over 16 lanes, each in the order of columns, then lanes pairwise: the order in which wide SIMD adds.
template <class Dim, class Term>
auto lane_sum(Dim dim, Term term) {
  decltype(term(std::size_t{0})) lane[16] = {};
  std::size_t i = 0;
  for (; i + 16 <= dim; i += 16) {
#pragma GCC unroll 1  // unrolled too early, it would not be vectorized
    for (std::size_t k = 0; k < 16; ++k) lane[k] += term(i + k);
  }
  for (std::size_t k = 0; i + k < dim; ++k) lane[k] += term(i + k);
  fold<8>(lane);
  fold<4>(lane);
  fold<2>(lane);
  fold<1>(lane);
  return lane[0];
}

// The sum of squares in double, where no square of a float32 number overflows.
template <class Dim>
double squares(const float* grad, Dim dim) {
  return lane_sum(dim, [&](std::size_t i) {
    const double g = grad[i];
    return g * g;
  });
}

// The gradient times `shrink`, in `scratch`, where it may be already.
template <class Dim>
const float* shrunk(const float* grad, float shrink, Dim dim, std::vector<float>& scratch) {
  if (shrink == 1.0f) return grad;
  scratch.resize(dim);
  float* const to = scratch.data();
  for (std::size_t i = 0; i < dim; ++i) to[i] = grad[i] * shrink;
  return to;
}

// What brings a norm down to `bound`.
inline float shrink_to(double bound, double norm) { return norm > bound ? static_cast<float>(bound / norm) : 1.0f; }

// The row's gradient, brought down to its rule's norm of a row.
template <class AnyRule, class Dim>
const float* clipped_row(const AnyRule& rule, const float* grad, Dim dim, std::vector<float>& scratch) {
  if (rule.clip_row_norm == 0.0) return grad;
  return shrunk(grad, shrink_to(rule.clip_row_norm, std::sqrt(squares(grad, dim))), dim, scratch);
}

// One step of one row: what is common to all rules, then the rule's own.
template <class AnyRule, class Dim>
void step_row(const AnyRule& rule, float* w, float* state, const float* grad, Dim dim) {
  if (rule.clip_row_norm != 0.0 || rule.shrink != 1.0f) {
    thread_local std::vector<float> scratch;
    grad = shrunk(clipped_row(rule, grad, dim, scratch), rule.shrink, dim, scratch);
  }
  rule.step(w, state, grad, dim);
}

}  // namespace monolith
