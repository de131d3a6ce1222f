// w -= lr * g
#pragma once

#include "optimizers/gradient.h"
#include "optimizers/registry.h"

namespace monolith {

struct Sgd : Rule {
  static constexpr const char* kName = "SGD";
  static constexpr float kLargest = FLT_MAX;  // it keeps no sum

  template <class Visit>
  static void fields(Visit) {}

  std::size_t state_floats(std::size_t) const { return 0; }
  void start(float*, std::size_t) const {}

  template <class Dim>
  void step(float* __restrict w, float*, const float* __restrict grad, Dim dim) const {
    const float lr = rate(), d = decay();
    each_column(dim, [=](std::size_t i) { w[i] -= lr * decayed(grad[i], w[i], d); });
  }
};

MONOLITH_OPTIMIZER(Sgd)

}  // namespace monolith
