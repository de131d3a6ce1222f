// Options of small tables in which everything happens: counting, forgetting, expiring.
#pragma once

#include <vector>

#include "table.h"

inline monolith::TableOptions table_options(std::size_t dim) {
  using namespace monolith;
  return {dim,
          0x1234567890ABCDEFu,
          RowWiseAdagrad{0.05f, 0.0f, 1e-8f, 0.01f},
          MinCount{2, 1.0, 900},
          Uniform{0.05f},
          1500,
          NonFinite::raise,
          1.0f,
          std::size_t{32} << 20};  // the address sanitizer marks every reserved byte
}

inline std::vector<monolith::Optimizer> all_optimizers() {
  using namespace monolith;
  return {Sgd{0.1f, 0.0f}, Adagrad{0.05f, 0.1f, 1e-10f, 0.0f}, RowWiseAdagrad{0.05f, 0.0f, 1e-8f, 0.1f},
          Adam{0.001, 0.9, 0.999, 1e-8f, 0.0f}};
}
