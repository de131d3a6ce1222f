#include "table/global_norm.h"

#include <cmath>
#include <numeric>
#include <type_traits>

#include "threads/crew.h"

namespace monolith {

void GlobalNorm::clip(Optimizer& optimizer, const Step& step, const std::vector<GradientSums>& sums) {
  std::visit(
      [&](auto& rule) {
        if constexpr (std::is_same_v<std::decay_t<decltype(rule)>, Sliced<WholeRow>>) {
          std::size_t first = 0;
          for (auto& slice : rule.slices) {
            std::visit([&](auto& own) { clip_columns(own, step, sums, first, slice.columns); }, slice.rule);
            first += slice.columns;
          }
        } else {
          clip_columns(rule, step, sums, 0, sums.front().dim());
        }
      },
      optimizer);
}

template <class Rule>
void GlobalNorm::clip_columns(Rule& rule, const Step& step, const std::vector<GradientSums>& sums, std::size_t first,
                              std::size_t columns) {
  if (rule.clip_global_norm == 0.0) return;
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
  const double norm = std::sqrt(std::accumulate(squares_.begin(), squares_.end(), 0.0));
  rule.shrink = shrink_to(rule.clip_global_norm, norm);
}

}  // namespace monolith
