// n += mean(g * g);  w -= lr / (sqrt(n) + eps) * g      one n a row (FBGEMM: EXACT_ROWWISE_ADAGRAD)
#pragma once

#include "optimizers/gradient.h"

namespace monolith {

struct RowWiseAdagrad {
  float lr, initial_accumulator, eps, weight_decay;

  std::size_t state_floats(std::size_t) const { return 1; }
  void start(float* n, std::size_t) const { *n = initial_accumulator; }

  template <class Dim>
  void step(float* __restrict w, float* __restrict n, const float* __restrict grad, Dim dim) const {
    const float squares = lane_sum(dim, [&](std::size_t i) {
      const float g = decayed(grad[i], w[i], weight_decay);
      return g * g;
    });
    *n += squares / static_cast<float>(static_cast<std::size_t>(dim));
    const float rate = lr / (std::sqrt(*n) + eps);
    for (std::size_t i = 0; i < dim; ++i) w[i] -= rate * decayed(grad[i], w[i], weight_decay);
  }
};

}  // namespace monolith
