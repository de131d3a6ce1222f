// What all optimizers share. The order of operations is part of the contract: every one is an IEEE float32 operation
// that NumPy does alike (no contraction to fma, square root and division rounded correctly), so SIMD along the columns
// leaves the bits as they are, and monolith/tables/reference.py gives the same ones.
#pragma once

#include <cmath>
#include <cstddef>

namespace monolith {

// L2 decay goes into the gradient, as in torch's optimizers of the same names.
inline float decayed(float grad, float w, float weight_decay) {
  return weight_decay == 0.0f ? grad : grad + weight_decay * w;
}

template <std::size_t kHalf>
void fold(float* lane) {
  for (std::size_t k = 0; k < kHalf; ++k) lane[k] += lane[k + kHalf];
}

// Sum over 16 lanes, each in the order of columns, then lanes pairwise: the order in which wide SIMD adds.
template <class Dim, class Term>
float lane_sum(Dim dim, Term term) {
  float lane[16] = {};
  std::size_t i = 0;
  for (; i + 16 <= dim; i += 16) {
#pragma GCC unroll 1  // unrolled too early, it would not be vectorized
    for (std::size_t k = 0; k < 16; ++k) lane[k] += term(i + k);
  }
  for (std::size_t k = 0; i + k < dim; ++k) lane[k] += term(i + k);
  fold<8>(lane);
  fold<4>(lane);
  fold<2>(lane);
  fold<1>(lane);
  return lane[0];
}

}  // namespace monolith
