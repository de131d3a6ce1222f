// n = alpha * n + (1 - alpha) * g * g;  w -= lr * g / (sqrt(n) + eps)
#pragma once

#include <algorithm>

#include "optimizers/gradient.h"
#include "optimizers/registry.h"

namespace monolith {

struct RmsProp : Rule {
  static constexpr const char* kName = "RMSProp";

  double alpha = 0.99;
  float eps = 1e-8f;

  template <class Visit>
  static void fields(Visit visit) {
    visit("alpha", &RmsProp::alpha);
    visit("eps", &RmsProp::eps);
  }

  std::size_t state_floats(std::size_t dim) const { return dim; }
  void start(float* n, std::size_t dim) const { std::fill_n(n, dim, 0.0f); }

  template <class Dim>
  void step(float* __restrict w, float* __restrict n, const float* __restrict grad, Dim dim) const {
    const float lr = rate(), d = decay(), tiny = eps;
    const float a = static_cast<float>(alpha), c = static_cast<float>(1.0 - alpha);
    each_column(dim, [=](std::size_t i) {
      const float g = decayed(grad[i], w[i], d);
      n[i] = a * n[i] + c * (g * g);
      w[i] -= lr * g / (std::sqrt(n[i]) + tiny);
    });
  }
};

MONOLITH_OPTIMIZER(RmsProp)

}  // namespace monolith
