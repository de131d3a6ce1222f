// n += mean(g * g);  w -= lr / (sqrt(n) + eps) * g      one n a row (FBGEMM: EXACT_ROWWISE_ADAGRAD)
#pragma once

#include "optimizers/gradient.h"
#include "optimizers/registry.h"

namespace monolith {

struct RowWiseAdagrad : Rule {
  static constexpr const char* kName = "RowWiseAdagrad";

  float initial_accumulator = 0.0f, eps = 1e-8f;

  template <class Visit>
  static void fields(Visit visit) {
    visit("initial_accumulator", &RowWiseAdagrad::initial_accumulator);
    visit("eps", &RowWiseAdagrad::eps);
  }

  std::size_t state_floats(std::size_t) const { return 1; }
  void start(float* n, std::size_t) const { *n = initial_accumulator; }

  template <class Dim>
  void step(float* __restrict w, float* __restrict n, const float* __restrict grad, Dim dim) const {
    const float d = decay();
    const float squares = lane_sum(dim, [&](std::size_t i) {
      const float g = decayed(grad[i], w[i], d);
      return g * g;
    });
    *n += squares / static_cast<float>(static_cast<std::size_t>(dim));
    const float lr = rate() / (std::sqrt(*n) + eps);
    each_column(dim, [=](std::size_t i) { w[i] -= lr * decayed(grad[i], w[i], d); });
  }
};

MONOLITH_OPTIMIZER(RowWiseAdagrad)

}  // namespace monolith
