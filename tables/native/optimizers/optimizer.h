// The optimizers a table can have. A new one is a struct like those beside this file (state_floats, start, step), a
// place in the variant, and a line in bindings/optimizers.cpp; docs/optimizers.md shows it.
#pragma once

#include <type_traits>
#include <variant>

#include "optimizers/adagrad.h"
#include "optimizers/adam.h"
#include "optimizers/ftrl.h"
#include "optimizers/momentum.h"
#include "optimizers/rmsprop.h"
#include "optimizers/rowwise_adagrad.h"
#include "optimizers/rowwise_adam.h"
#include "optimizers/sgd.h"
#include "optimizers/sliced.h"

namespace monolith {

using WholeRow =
    std::variant<Sgd, Momentum, Adagrad, RowWiseAdagrad, RmsProp, Adam, AdamW, RowWiseAdam, RowWiseAdamW, Ftrl>;
using Optimizer = std::variant<Sgd, Momentum, Adagrad, RowWiseAdagrad, RmsProp, Adam, AdamW, RowWiseAdam, RowWiseAdamW,
                               Ftrl, Sliced<WholeRow>>;

// The optimizer as it is at the table's step t, from 1.
inline Optimizer at_step(const Optimizer& optimizer, std::uint64_t t) {
  return std::visit([&](const auto& rule) -> Optimizer { return at_step(rule, t); }, optimizer);
}

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
