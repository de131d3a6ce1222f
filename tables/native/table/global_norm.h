// Clipping by the norm of all rows' gradients of a call, taken as one vector.
//
// The sum of squares is the same bits whatever the threads and buckets: of each row in double over its columns, then
// over rows in the order of their first occurrence in the call.
#pragma once

#include <vector>

#include "optimizers/optimizer.h"
#include "table/gradient_sums.h"
#include "table/step.h"

namespace monolith {

class GlobalNorm {
 public:
  // Sets what the optimizer, or each slice's, multiplies the step's gradients by. `sums` are of the step's groups.
  void clip(Optimizer& optimizer, const Step& step, const std::vector<GradientSums>& sums);
  // The same in two halves, for a table of which this is a part: of the optimizer's rules that clip so, in the order of
  // their columns, the rows' squares by position; then the norms, over all parts.
  std::vector<std::vector<double>> squares_of(Optimizer optimizer, const Step& step,
                                              const std::vector<GradientSums>& sums);
  static void clip_to(Optimizer& optimizer, const std::vector<double>& norms);
  std::size_t bytes() const { return squares_.capacity() * sizeof(double); }

 private:
  template <class Rule>
  void measure(const Rule& rule, const Step& step, const std::vector<GradientSums>& sums, std::size_t first,
               std::size_t columns);

  std::vector<double> squares_;  // of the row that first occurs at each position of the call; else 0
};

}  // namespace monolith
