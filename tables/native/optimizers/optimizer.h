// The optimizers a table can have. A new one is a struct like those beside this file (state_floats, start, step), a
// place in this variant, three lines in module.cpp, and its config struct in Python.
#pragma once

#include <type_traits>
#include <variant>

#include "optimizers/adagrad.h"
#include "optimizers/adam.h"
#include "optimizers/rowwise_adagrad.h"
#include "optimizers/sgd.h"

namespace monolith {

using Optimizer = std::variant<Sgd, Adagrad, RowWiseAdagrad, Adam>;

// Calls with_dim(dim) where the usual widths are compile-time constants, so that their loops are unrolled.
template <class WithDim>
void for_dim(std::size_t dim, WithDim with_dim) {
  switch (dim) {
    case 8:
      return with_dim(std::integral_constant<std::size_t, 8>());
    case 16:
      return with_dim(std::integral_constant<std::size_t, 16>());
    case 32:
      return with_dim(std::integral_constant<std::size_t, 32>());
    case 64:
      return with_dim(std::integral_constant<std::size_t, 64>());
    case 128:
      return with_dim(std::integral_constant<std::size_t, 128>());
    default:
      return with_dim(dim);
  }
}

}  // namespace monolith
