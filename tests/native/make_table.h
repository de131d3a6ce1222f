// Options of small tables in which everything happens: counting, forgetting, expiring.
#pragma once

#include <vector>

#include "table/table.h"

inline monolith::TableOptions table_options(std::size_t dim) {
  using namespace monolith;
  return {dim,
          0x1234567890ABCDEFu,
          RowWiseAdagrad{{0.05, 0.01}},
          MinCount{2, 1.0, 900},
          Uniform{0.05f},
          1500,
          NonFinite::raise,
          1.0f,
          std::size_t{32} << 20,  // the address sanitizer marks every reserved byte
          Storage::float32,
          {}};
}

// One feature whose rows go to `out`.
inline monolith::Part part_of(const std::vector<std::int64_t>& ids, std::vector<float>& out) {
  monolith::Part part;
  part.ids = ids.data();
  part.count = part.samples = ids.size();
  part.out = out.data();
  part.stride = out.size() / ids.size();
  return part;
}

inline std::vector<monolith::WholeRow> all_optimizers() {
  using namespace monolith;
  const Schedule falling{LrDecay::cosine, 3, 5, 1.0, 0.1};
  const Ftrl sparse{{0.1, 0.01, 0.5, falling}, 1.0f, 0.01f, 0.1f};
  return {Sgd{{0.1}},
          Momentum{{0.1, 0.01}, 0.9f, true},
          Adagrad{{0.05}, 0.1f},
          RowWiseAdagrad{{0.05, 0.1, 0.5, falling}},
          RmsProp{{0.01, 0.01}},
          Adam{{0.001, 0.0, 0.0, {}, 0.3}, 0.9, 0.999, 1e-8f, true},
          AdamW{{{0.001, 0.1}}},
          RowWiseAdam{{0.001, 0.1, 0.5}},
          RowWiseAdamW{{{0.001, 0.1}, 0.9, 0.999, 1e-8f, StepCount::table}},
          sparse};
}

inline monolith::Optimizer whole(const monolith::WholeRow& rule) {
  return std::visit([](const auto& one) -> monolith::Optimizer { return one; }, rule);
}

// A row of `dim` >= 2 columns of which the first has an optimizer of its own.
inline monolith::Optimizer sliced(std::size_t dim, const monolith::WholeRow& rest) {
  using namespace monolith;
  return Sliced<WholeRow>{{{1, Ftrl{{0.1}}}, {dim - 1, rest}}};
}
