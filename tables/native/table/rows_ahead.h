// Fetches a step's rows and their gradients before the rows are stepped, from the last to the first.
//
// A row's lines come some rows ahead. Where rows take more pages than the TLB covers, each first line waits for a page
// walk as well, and behind it the core goes on for some hundred instructions only: so first lines are then fetched some
// rows at once, which is several walks at a time.
#pragma once

#include <algorithm>
#include <cstddef>

#include "rows/row_view.h"
#include "table/gradient_sums.h"
#include "table/step.h"

namespace monolith {

template <class Dim>
class RowsAhead {
 public:
  // `far`: page walks take their time.
  RowsAhead(const RowView& rows, const Group::UniqueRow* unique, std::size_t count, const GradientSums& sums, Dim dim,
            bool far)
      : rows_(rows),
        unique_(unique),
        sums_(sums),
        dim_(dim),
        ahead_(std::max<std::size_t>(4, kBytesAhead / rows.stride())),
        far_(far),
        begun_(count) {}

  // What comes before the row `left`.
  void fetch_before(std::size_t left, bool from_disk) {
    if (far_ && left < begun_ + 2 * ahead_)  // two to three times as far ahead as other lines
      for (const std::size_t end = begun_ - std::min(begun_, ahead_); begun_ != end;)
        fetch(rows_.at(unique_[--begun_].row));
    if (left < ahead_) return;
    const std::size_t k = left - ahead_;
    const char* const row = rows_.at(unique_[k].row);
    if (!far_) fetch(row);
    fetch_rest(row, rows_.stride());
    if (from_disk) rows_.ask_for_row(unique_[k].row, Need::all);
    if (sums_.gradient(k) != nullptr) fetch_floats(sums_.gradient(k), dim_);
  }

 private:
  static constexpr std::size_t kBytesAhead = 4096;  // what a core can have in flight

  const RowView& rows_;
  const Group::UniqueRow* const unique_;
  const GradientSums& sums_;
  const Dim dim_;
  const std::size_t ahead_;
  const bool far_;
  std::size_t begun_;  // first lines of rows from here on were fetched, if far
};

}  // namespace monolith
