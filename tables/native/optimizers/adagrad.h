// n += g * g;  w -= lr * g / (sqrt(n) + eps)      one n a column, starting at `initial_accumulator`
#pragma once

#include "optimizers/gradient.h"

namespace monolith {

struct Adagrad {
  float lr, initial_accumulator, eps, weight_decay;

  std::size_t state_floats(std::size_t dim) const { return dim; }
  void start(float* n, std::size_t dim) const {
    for (std::size_t i = 0; i < dim; ++i) n[i] = initial_accumulator;
  }

  template <class Dim>
  void step(float* __restrict w, float* __restrict n, const float* __restrict grad, Dim dim) const {
    for (std::size_t i = 0; i < dim; ++i) {
      const float g = decayed(grad[i], w[i], weight_decay);
      n[i] += g * g;
      w[i] -= lr * g / (std::sqrt(n[i]) + eps);
    }
  }
};

}  // namespace monolith
