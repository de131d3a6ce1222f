// The list of optimizers, to which every file in rules/ adds its own with MONOLITH_OPTIMIZER(Name).
//
// The list is a type. Each addition declares a function (which nobody defines or calls) of a higher rank than those
// before, whose result is their list and one more; a call of the highest rank finds the last one.
#pragma once

#include <variant>

namespace monolith {

template <class... Rules>
struct RuleList {
  static constexpr int kSize = sizeof...(Rules);
  template <class Rule>
  using With = RuleList<Rules..., Rule>;
  using Variant = std::variant<Rules...>;
  // Calls visit(pointer to a Rule, which is null) for each.
  template <class Visit>
  static void each(Visit visit) {
    (visit(static_cast<Rules*>(nullptr)), ...);
  }
};

template <int N>
struct Rank : Rank<N - 1> {};
template <>
struct Rank<0> {};
using HighestRank = Rank<64>;

RuleList<> registered(Rank<0>);

}  // namespace monolith

#define MONOLITH_OPTIMIZER(Name) \
  decltype(registered(HighestRank()))::With<Name> registered(Rank<decltype(registered(HighestRank()))::kSize + 1>);
