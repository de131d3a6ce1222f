// The optimizers a table can have: those of all files in rules/, and runs of columns with one of them each. A new one
// is a file there and nothing else here; docs/optimizers.md shows it.
#pragma once

#include <type_traits>
#include <variant>

#include "optimizers/all_rules.h"  // the build makes it: an #include of every file in rules/
#include "optimizers/registry.h"
#include "optimizers/sliced.h"

namespace monolith {

using Rules = decltype(registered(HighestRank()));
using WholeRow = Rules::Variant;
using Optimizer = Rules::With<Sliced<WholeRow>>::Variant;

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
