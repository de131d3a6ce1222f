// r = (beta + sqrt(n)) / lr, the inverse of a column's learning rate
// z += g - (r after - r before) * w;  w = |z| <= l1 ? 0 : (sign(z) * l1 - z) / (r + l2)      where n += g * g
//
// FTRL-proximal (McMahan et al. 2013), with the rate of the row's last step kept, so that r before is right when the
// rate falls: taken from the new rate, a fall by half would halve every weight at once. 0 says "no step yet": r before
// is 0 then, and the first step starts from the weights that are there, whatever brought them.
#pragma once

#include <algorithm>

#include "optimizers/gradient.h"
#include "optimizers/registry.h"

namespace monolith {

struct Ftrl : Rule {
  static constexpr const char* kName = "FTRL";

  float beta = 1.0f, l1 = 0.0f, l2 = 0.0f, initial_accumulator = 0.0f;

  template <class Visit>
  static void fields(Visit visit) {
    visit("beta", &Ftrl::beta);
    visit("l1", &Ftrl::l1);
    visit("l2", &Ftrl::l2);
    visit("initial_accumulator", &Ftrl::initial_accumulator);
  }

  // State: z (dim), n (dim), the rate of the last step.
  std::size_t state_floats(std::size_t dim) const { return 2 * dim + 1; }
  void start(float* state, std::size_t dim) const {
    std::fill_n(state, dim, 0.0f);
    std::fill_n(state + dim, dim, initial_accumulator);
    state[2 * dim] = 0.0f;
  }
  void start_values(float* w, std::size_t dim) const { std::fill_n(w, dim, 0.0f); }

  template <class Dim>
  void step(float* __restrict w, float* __restrict state, const float* __restrict grad, Dim dim) const {
    float* __restrict z = state;
    float* __restrict n = state + dim;
    const float lr = rate(), before = state[2 * dim], d = decay(), b = beta, one = l1, two = l2;
    if (lr == 0.0f) return;
    each_column(dim, [=](std::size_t i) {
      const float g = decayed(grad[i], w[i], d);
      const float r_before = before == 0.0f ? 0.0f : (b + std::sqrt(n[i])) / before;
      n[i] += g * g;
      const float r = (b + std::sqrt(n[i])) / lr;
      z[i] += g - (r - r_before) * w[i];
      w[i] = std::fabs(z[i]) <= one ? 0.0f : (std::copysign(one, z[i]) - z[i]) / (r + two);
    });
    state[2 * dim] = lr;
  }
};

MONOLITH_OPTIMIZER(Ftrl)

}  // namespace monolith
