// Rows at places that never move, known by number: 1, 2, ... in the order in which they were first used.
//
// A row keeps its address from acquire() to release(), however much the table grows, so growth copies no row. Released
// rows are handed out again, last released first. Row 0 is all zeros and never given out: what an id without a row
// reads. Not thread safe: the table takes turns.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <string>

#include "memory/range.h"

namespace monolith {

using Row = std::uint32_t;  // a row's number
constexpr Row kNoRow = 0;

class RowPool {
 public:
  RowPool(std::size_t stride_bytes, std::size_t reserve_bytes, std::size_t least_bytes, const std::string& folder)
      : range_(reserve_bytes, least_bytes, folder), stride_(stride_bytes) {
    range_.ensure(stride_);
  }

  char* at(Row row) const { return range_.start() + row * stride_; }
  Row acquire() {  // throws std::bad_alloc at the end of the range
    if (free_count_ != 0) {
      const Row row = first_free_;
      std::memcpy(&first_free_, at(row), sizeof first_free_);
      --free_count_;
      return row;
    }
    if (next_ == UINT32_MAX) throw std::bad_alloc();
    const std::size_t end = (next_ + std::size_t{1}) * stride_;
    if (range_.ensure(end)) range_.expect(end, end + std::max(kLeastAhead, end / 64));
    return next_++;
  }
  void release(Row row) {
    std::memcpy(at(row), &first_free_, sizeof first_free_);
    first_free_ = row;
    ++free_count_;
  }

  std::uint64_t used() const { return next_ - 1 - free_count_; }
  std::uint64_t free() const { return free_count_; }
  std::size_t stride() const { return stride_; }

 private:
  static constexpr std::size_t kLeastAhead = std::size_t{2} << 20;  // bytes that are made ready, or a 64th of all

  Range range_;
  std::size_t stride_;
  Row next_ = 1;             // rows from here on were never used
  Row first_free_ = kNoRow;  // each free row begins with the number of the next
  std::uint64_t free_count_ = 0;
};

}  // namespace monolith
