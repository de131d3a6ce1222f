#include "table/global_norm.h"

#include <cmath>
#include <numeric>
#include <type_traits>

#include "threads/crew.h"

namespace monolith {
namespace {

// Calls visit(rule, first, columns) for each of the optimizer's rules that clip by the norm of all rows.
template <class Visit>
void each_clipping(Optimizer& optimizer, std::size_t dim, Visit visit) {
  const auto visit_clipping = [&](auto& rule, std::size_t first, std::size_t columns) {
    if (rule.clip_global_norm != 0.0) visit(rule, first, columns);
  };
  std::visit(
      [&](auto& rule) {
        if constexpr (std::is_same_v<std::decay_t<decltype(rule)>, Sliced<WholeRow>>) {
          std::size_t first = 0;
          for (auto& slice : rule.slices) {
            std::visit([&](auto& own) { visit_clipping(own, first, slice.columns); }, slice.rule);
            first += slice.columns;
          }
        } else {
          visit_clipping(rule, 0, dim);
        }
      },
      optimizer);
}

}  // namespace

void GlobalNorm::clip(Optimizer& optimizer, const Step& step, const std::vector<GradientSums>& sums) {
  each_clipping(optimizer, sums.front().dim(), [&](auto& rule, std::size_t first, std::size_t columns) {
    measure(rule, step, sums, first, columns);
    const double norm = std::sqrt(std::accumulate(squares_.begin(), squares_.end(), 0.0));
    rule.shrink = shrink_to(rule.clip_global_norm, norm);
  });
}

std::vector<std::vector<double>> GlobalNorm::squares_of(Optimizer optimizer, const Step& step,
                                                        const std::vector<GradientSums>& sums) {
  std::vector<std::vector<double>> all;
  each_clipping(optimizer, sums.front().dim(), [&](auto& rule, std::size_t first, std::size_t columns) {
    measure(rule, step, sums, first, columns);
    all.push_back(squares_);
  });
  return all;
}

void GlobalNorm::clip_to(Optimizer& optimizer, const std::vector<double>& norms) {
  auto norm = norms.begin();
  each_clipping(optimizer, 0,
                [&](auto& rule, std::size_t, std::size_t) { rule.shrink = shrink_to(rule.clip_global_norm, *norm++); });
}

template <class Rule>
void GlobalNorm::measure(const Rule& rule, const Step& step, const std::vector<GradientSums>& sums, std::size_t first,
                         std::size_t columns) {
  squares_.assign(step.size(), 0.0);
  in_parallel(static_cast<unsigned>(step.groups().size()), [&](unsigned k) {
    const Group& group = step.groups()[k];
    std::vector<float> scratch(columns);
    for (std::size_t place = 0; place < group.unique_count(); ++place) {
      const float* const gradient = sums[k].gradient(place);
      if (gradient == nullptr) continue;
      const float* const row = clipped_row(rule, gradient + first, columns, scratch);
      squares_[group.position(group.unique()[place].first)] = squares(row, columns);
    }
  });
}

}  // namespace monolith
