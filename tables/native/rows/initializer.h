// The first values of a row: a function of (seed, table, id, column), so that neither the order of arrival nor sharding
// nor a run repeated after a crash changes them. `row_key` stands for the first three; docs/formats.md has the
// arithmetic.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <variant>

#include "index/hash.h"

namespace monolith {

struct Zeros {
  void fill(float* values, std::size_t dim, std::uint64_t) const { std::fill_n(values, dim, 0.0f); }
};

struct Uniform {  // [-scale, scale) in 2^24 steps
  float scale;

  void fill(float* values, std::size_t dim, std::uint64_t row_key) const {
    for (std::size_t column = 0; column < dim; ++column) {
      const auto steps = static_cast<std::int32_t>(draw(row_key, column + 1) >> 40) - (1 << 23);
      values[column] = static_cast<float>(steps) * 0x1p-23f * scale;
    }
  }
};

struct TruncatedNormal {  // cut at two standard deviations
  float std;

  void fill(float* values, std::size_t dim, std::uint64_t row_key) const {
    for (std::size_t column = 0; column < dim; ++column) {
      const double uniform = static_cast<double>(draw(row_key, column + 1) >> 11) * 0x1p-53 - 0.5;
      values[column] = static_cast<float>(quantile(uniform * 0.9544997361036416)) * std;  // P(|x| < 2)
    }
  }

 private:
  // The normal quantile at 0.5 + q for |q| <= 0.4773: a rational function in q^2 fitted to it, relative error 7e-8.
  // Only multiplications, additions and one division, so that it gives the same bits everywhere (a libm's erf or log
  // would not).
  static double quantile(double q) {
    const double s = q * q;
    const double over =
        (((25.62300872797375 * s - 95.53940788999604) * s + 79.89021678315635) * s - 24.40983173549742) * s;
    const double under =
        (((29.858253833867987 * s - 62.30097758005637) * s + 40.86209511622841) * s - 10.785292828675885) * s;
    return q * ((over + 2.5066284468136257) / (under + 1.0));
  }
};

using Initializer = std::variant<Zeros, Uniform, TruncatedNormal>;

}  // namespace monolith
