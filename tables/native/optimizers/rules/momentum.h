// b = momentum * b + g;  w -= lr * b      with Nesterov's look ahead: w -= lr * (g + momentum * b)
#pragma once

#include <algorithm>

#include "optimizers/gradient.h"
#include "optimizers/registry.h"

namespace monolith {

struct Momentum : Rule {
  static constexpr const char* kName = "Momentum";
  static constexpr float kLargest = 0x1p100f;  // it sums, but no squares: stands still at 2^124

  float momentum = 0.9f;
  bool nesterov = false;

  template <class Visit>
  static void fields(Visit visit) {
    visit("momentum", &Momentum::momentum);
    visit("nesterov", &Momentum::nesterov);
  }

  std::size_t state_floats(std::size_t dim) const { return dim; }
  void start(float* b, std::size_t dim) const { std::fill_n(b, dim, 0.0f); }

  template <class Dim>
  void step(float* __restrict w, float* __restrict b, const float* __restrict grad, Dim dim) const {
    const float lr = rate(), d = decay(), kept = momentum;
    const bool ahead = nesterov;
    each_column(dim, [=](std::size_t i) {
      const float g = decayed(grad[i], w[i], d);
      b[i] = kept * b[i] + g;
      w[i] -= lr * (ahead ? g + kept * b[i] : b[i]);
    });
  }
};

MONOLITH_OPTIMIZER(Momentum)

}  // namespace monolith
