// The learning rate as a function of the table's own step: a factor in [0, 1] on each optimizer's `lr`. Made of the
// four operations and square roots in double, so that it gives the same bits everywhere (a libm's cosine would not).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace monolith {

// base^t by squaring, low bit first: one fixed order of roundings for any t.
inline double power(double base, std::uint64_t t) {
  double result = 1.0;
  for (; t != 0; t >>= 1, base *= base)
    if (t & 1) result *= base;
  return result;
}

// By its series, for |x| <= pi / 2: the last term is below 2^-60.
inline double cosine(double x) {
  double sum = 1.0, term = 1.0;
  for (int k = 1; k <= 12; ++k) {
    term *= -(x * x) / ((2 * k - 1) * (2 * k));
    sum += term;
  }
  return sum;
}

enum class LrDecay { constant, inverse_sqrt, cosine, step };

struct Schedule {
  LrDecay decay = LrDecay::constant;
  std::uint64_t warmup_steps = 0;
  std::uint64_t decay_steps = 1;  // cosine: until the floor; step: between two falls
  double gamma = 1.0;             // step: what each fall multiplies by
  double floor = 0.0;             // what it falls towards

  double at(std::uint64_t t) const {  // t counts from 1
    if (t < warmup_steps) return static_cast<double>(t) / static_cast<double>(warmup_steps);
    return floor + (1.0 - floor) * left(t - warmup_steps);
  }

 private:
  double left(std::uint64_t since) const {  // 1 at the end of the warm-up
    switch (decay) {
      case LrDecay::inverse_sqrt: {
        const auto start = static_cast<double>(std::max<std::uint64_t>(warmup_steps, 1));
        return std::sqrt(start / std::max(static_cast<double>(warmup_steps + since), start));
      }
      case LrDecay::cosine: {
        if (since >= decay_steps) return 0.0;
        const double root = cosine(1.5707963267948966 * static_cast<double>(since) / static_cast<double>(decay_steps));
        return root * root;  // (1 + cos(pi x)) / 2
      }
      case LrDecay::step:
        return power(gamma, since / decay_steps);
      default:
        return 1.0;
    }
  }
};

}  // namespace monolith
