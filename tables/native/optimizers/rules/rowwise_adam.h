// m = b1 * m + (1 - b1) * g;  v = b2 * v + (1 - b2) * mean(g * g)      one v a row
// w -= (lr / (1 - b1^t)) / (sqrt(v) / sqrt(1 - b2^t) + eps) * m          t counts the row's own steps, or the table's
#pragma once

#include "optimizers/rules/adam.h"

namespace monolith {

struct RowWiseAdam : Rule {
  static constexpr const char* kName = "RowWiseAdam";

  double beta1 = 0.9, beta2 = 0.999;
  float eps = 1e-8f;
  StepCount steps = StepCount::row;

  template <class Visit>
  static void fields(Visit visit) {
    visit("beta1", &RowWiseAdam::beta1);
    visit("beta2", &RowWiseAdam::beta2);
    visit("eps", &RowWiseAdam::eps);
    visit("steps", &RowWiseAdam::steps);
  }

  // State: m (dim), v, and the step count as an unsigned 32-bit integer.
  std::size_t state_floats(std::size_t dim) const { return dim + 2; }
  void start(float* state, std::size_t dim) const { std::fill_n(state, state_floats(dim), 0.0f); }

  template <class Dim>
  void step(float* __restrict w, float* __restrict state, const float* __restrict grad, Dim dim) const {
    const float d = decay();
    step_on(w, state, dim, [&](std::size_t i) { return decayed(grad[i], w[i], d); });
  }

 protected:
  template <class Dim, class Gradient>
  void step_on(float* __restrict w, float* __restrict state, Dim dim, Gradient gradient) const {
    float* __restrict m = state;
    float* v = state + dim;
    const AdamStep now(lr, beta1, beta2, corrected_by(steps, v + 1, table_step));
    const float squares = lane_sum(dim, [&](std::size_t i) {
      const float g = gradient(i);
      return g * g;
    });
    *v = now.b2 * *v + now.c2 * (squares / static_cast<float>(static_cast<std::size_t>(dim)));
    const float step = now.rate / (std::sqrt(*v) / now.root + eps);
    each_column(dim, [=](std::size_t i) {
      m[i] = now.b1 * m[i] + now.c1 * gradient(i);
      w[i] -= step * m[i];
    });
  }
};

// With the steps of the table, FBGEMM's PARTIAL_ROWWISE_ADAM.
struct RowWiseAdamW : RowWiseAdam {
  static constexpr const char* kName = "RowWiseAdamW";

  template <class Dim>
  void step(float* __restrict w, float* __restrict state, const float* __restrict grad, Dim dim) const {
    const float kept = static_cast<float>(1.0 - lr * weight_decay);
    each_column(dim, [=](std::size_t i) { w[i] *= kept; });
    step_on(w, state, dim, [&](std::size_t i) { return grad[i]; });
  }
};

MONOLITH_OPTIMIZER(RowWiseAdam)
MONOLITH_OPTIMIZER(RowWiseAdamW)

}  // namespace monolith
