// Several optimizers in one row, each for a run of its columns; together they are a rule.
// The state is theirs, one after the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <variant>
#include <vector>

#include "optimizers/gradient.h"

namespace monolith {

template <class AnyRule>
struct Sliced {
  struct Slice {
    std::size_t columns;
    AnyRule rule;
  };
  std::vector<Slice> slices;
  static constexpr double clip_row_norm = 0.0;  // each slice clips its own
  static constexpr float shrink = 1.0f;

  std::size_t state_floats(std::size_t) const {
    std::size_t floats = 0;
    for (const Slice& slice : slices) floats += width(slice);
    return floats;
  }
  void start(float* state, std::size_t) const {
    for (const Slice& slice : slices) {
      std::visit([&](const auto& rule) { rule.start(state, slice.columns); }, slice.rule);
      state += width(slice);
    }
  }
  void start_values(float* w, std::size_t) const {
    for (const Slice& slice : slices) {
      std::visit([&](const auto& rule) { rule.start_values(w, slice.columns); }, slice.rule);
      w += slice.columns;
    }
  }
  void step(float* w, float* state, const float* grad, std::size_t) const {
    for (const Slice& slice : slices) {
      std::visit([&](const auto& rule) { step_row(rule, w, state, grad, slice.columns); }, slice.rule);
      w += slice.columns;
      state += width(slice);
      grad += slice.columns;
    }
  }

 private:
  static std::size_t width(const Slice& slice) {
    return std::visit([&](const auto& rule) { return rule.state_floats(slice.columns); }, slice.rule);
  }
};

// The least of the slices': a row's gradient comes as a whole.
template <class AnyRule>
float largest_gradient(const Sliced<AnyRule>& sliced) {
  float largest = FLT_MAX;
  for (const auto& slice : sliced.slices)
    largest = std::min(largest, std::visit([](const auto& rule) { return largest_gradient(rule); }, slice.rule));
  return largest;
}

template <class AnyRule>
Sliced<AnyRule> at_step(Sliced<AnyRule> sliced, std::uint64_t t) {
  for (auto& slice : sliced.slices)
    slice.rule = std::visit([&](const auto& rule) -> AnyRule { return at_step(rule, t); }, slice.rule);
  return sliced;
}

}  // namespace monolith
