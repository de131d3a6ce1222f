// m = b1 * m + (1 - b1) * g;  v = b2 * v + (1 - b2) * mean(g * g)      one v a row (FBGEMM: PARTIAL_ROWWISE_ADAM)
// w -= (lr / (1 - b1^t)) / (sqrt(v) / sqrt(1 - b2^t) + eps) * m          t counts the row's own steps
#pragma once

#include "optimizers/adam.h"

namespace monolith {

struct RowWiseAdam : Rule {
  double beta1 = 0.9, beta2 = 0.999;
  float eps = 1e-8f;

  // State: m (dim), v, and the step count as an unsigned 32-bit integer.
  std::size_t state_floats(std::size_t dim) const { return dim + 2; }
  void start(float* state, std::size_t dim) const { std::fill_n(state, state_floats(dim), 0.0f); }

  template <class Dim>
  void step(float* __restrict w, float* __restrict state, const float* __restrict grad, Dim dim) const {
    float* __restrict m = state;
    float* v = state + dim;
    const float d = decay();
    const AdamStep now(lr, beta1, beta2, count_step(v + 1));
    const float squares = lane_sum(dim, [&](std::size_t i) {
      const float g = decayed(grad[i], w[i], d);
      return g * g;
    });
    *v = now.b2 * *v + now.c2 * (squares / static_cast<float>(static_cast<std::size_t>(dim)));
    const float step = now.rate / (std::sqrt(*v) / now.root + eps);
    each_column(dim, [=](std::size_t i) {
      m[i] = now.b1 * m[i] + now.c1 * decayed(grad[i], w[i], d);
      w[i] -= step * m[i];
    });
  }
};

}  // namespace monolith
