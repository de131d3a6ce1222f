// n += g * g;  w -= lr * g / (sqrt(n) + eps)      one n a column, starting at `initial_accumulator`
#pragma once

#include <algorithm>

#include "optimizers/gradient.h"
#include "optimizers/registry.h"

namespace monolith {

struct Adagrad : Rule {
  static constexpr const char* kName = "Adagrad";

  float initial_accumulator = 0.0f, eps = 1e-10f;

  template <class Visit>
  static void fields(Visit visit) {
    visit("initial_accumulator", &Adagrad::initial_accumulator);
    visit("eps", &Adagrad::eps);
  }

  std::size_t state_floats(std::size_t dim) const { return dim; }
  void start(float* n, std::size_t dim) const { std::fill_n(n, dim, initial_accumulator); }

  template <class Dim>
  void step(float* __restrict w, float* __restrict n, const float* __restrict grad, Dim dim) const {
    const float lr = rate(), d = decay(), tiny = eps;
    each_column(dim, [=](std::size_t i) {
      const float g = decayed(grad[i], w[i], d);
      n[i] += g * g;
      w[i] -= lr * g / (std::sqrt(n[i]) + tiny);
    });
  }
};

MONOLITH_OPTIMIZER(Adagrad)

}  // namespace monolith
