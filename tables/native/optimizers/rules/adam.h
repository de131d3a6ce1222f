// m = b1 * m + (1 - b1) * g;  v = b2 * v + (1 - b2) * g * g
// w -= (lr / (1 - b1^t)) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)      t counts the row's own steps, or the table's
// AMSGrad takes the greatest v so far in place of v; AdamW decays w itself, by lr * weight_decay, and not through g.
#pragma once

#include <algorithm>

#include "optimizers/gradient.h"
#include "optimizers/registry.h"

namespace monolith {

// Whose steps the bias corrections go by.
enum class StepCount { row, table };

// The count that corrects a row's next step. The row's own, in `word`, goes on under both, so that a table may change.
inline std::uint64_t corrected_by(StepCount steps, float* word, std::uint64_t table_step) {
  const std::uint64_t own = count_step(word);
  return steps == StepCount::table ? table_step : own;
}

// The bias corrections of the t-th step, rounded to float32 once.
struct AdamStep {
  float rate, root, b1, c1, b2, c2;

  AdamStep(double lr, double beta1, double beta2, std::uint64_t t)
      : rate(static_cast<float>(lr / (1.0 - power(beta1, t)))),
        root(static_cast<float>(std::sqrt(1.0 - power(beta2, t)))),
        b1(static_cast<float>(beta1)),
        c1(static_cast<float>(1.0 - beta1)),
        b2(static_cast<float>(beta2)),
        c2(static_cast<float>(1.0 - beta2)) {}
};

struct Adam : Rule {
  static constexpr const char* kName = "Adam";

  double beta1 = 0.9, beta2 = 0.999;
  float eps = 1e-8f;
  bool amsgrad = false;
  StepCount steps = StepCount::row;

  template <class Visit>
  static void fields(Visit visit) {
    visit("beta1", &Adam::beta1);
    visit("beta2", &Adam::beta2);
    visit("eps", &Adam::eps);
    visit("steps", &Adam::steps);
    visit("amsgrad", &Adam::amsgrad);
  }

  // State: m (dim), v (dim), the step count as an unsigned 32-bit integer, and with AMSGrad the greatest v (dim).
  std::size_t state_floats(std::size_t dim) const { return (amsgrad ? 3 : 2) * dim + 1; }
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
    float* __restrict v = state + dim;
    float* __restrict greatest = state + 2 * dim + 1;
    const AdamStep now(lr, beta1, beta2, corrected_by(steps, state + 2 * dim, table_step));
    const float tiny = eps;
    each_column(dim, [=](std::size_t i) {
      const float g = gradient(i);
      m[i] = now.b1 * m[i] + now.c1 * g;
      v[i] = now.b2 * v[i] + now.c2 * (g * g);
      float over = v[i];
      if (amsgrad) over = greatest[i] = std::max(greatest[i], over);
      w[i] -= now.rate * m[i] / (std::sqrt(over) / now.root + tiny);
    });
  }
};

struct AdamW : Adam {
  static constexpr const char* kName = "AdamW";

  template <class Dim>
  void step(float* __restrict w, float* __restrict state, const float* __restrict grad, Dim dim) const {
    const float kept = static_cast<float>(1.0 - lr * weight_decay);
    each_column(dim, [=](std::size_t i) { w[i] *= kept; });
    step_on(w, state, dim, [&](std::size_t i) { return grad[i]; });
  }
};

MONOLITH_OPTIMIZER(Adam)
MONOLITH_OPTIMIZER(AdamW)

}  // namespace monolith
