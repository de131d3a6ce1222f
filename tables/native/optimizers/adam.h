// m = b1 * m + (1 - b1) * g;  v = b2 * v + (1 - b2) * g * g
// w -= (lr / (1 - b1^t)) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)      t counts the row's own steps
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "optimizers/gradient.h"

namespace monolith {

// base^t in double by squaring, low bit first: one fixed order of roundings for any t.
inline double power(double base, std::uint32_t t) {
  double result = 1.0;
  for (; t != 0; t >>= 1, base *= base)
    if (t & 1) result *= base;
  return result;
}

struct Adam {
  double lr, beta1, beta2;
  float eps, weight_decay;

  // State: m (dim), v (dim), and the step count as an unsigned 32-bit integer.
  std::size_t state_floats(std::size_t dim) const { return 2 * dim + 1; }
  void start(float* state, std::size_t dim) const { std::memset(state, 0, state_floats(dim) * sizeof(float)); }

  template <class Dim>
  void step(float* __restrict w, float* __restrict state, const float* __restrict grad, Dim dim) const {
    float* __restrict m = state;
    float* __restrict v = state + dim;
    const std::uint32_t t = count_step(state + 2 * dim);
    const float rate = static_cast<float>(lr / (1.0 - power(beta1, t)));
    const float root = static_cast<float>(std::sqrt(1.0 - power(beta2, t)));
    const float b1 = static_cast<float>(beta1), c1 = static_cast<float>(1.0 - beta1);
    const float b2 = static_cast<float>(beta2), c2 = static_cast<float>(1.0 - beta2);
    for (std::size_t i = 0; i < dim; ++i) {
      const float g = decayed(grad[i], w[i], weight_decay);
      m[i] = b1 * m[i] + c1 * g;
      v[i] = b2 * v[i] + c2 * (g * g);
      w[i] -= rate * m[i] / (std::sqrt(v[i]) / root + eps);
    }
  }

 private:
  static std::uint32_t count_step(float* word) {
    std::uint32_t t;
    std::memcpy(&t, word, sizeof t);
    t += t != UINT32_MAX;
    std::memcpy(word, &t, sizeof t);
    return t;
  }
};

}  // namespace monolith
