// Rows at places that never move: a long range of reserved address space, committed page by page as rows are used.
//
// A row keeps its address from acquire() to release(), however much the table grows, so growth copies no row. Released
// rows are handed out again, last released first. Not thread safe: the table takes turns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace monolith {

class RowPool {
 public:
  // Reserves reserve_bytes of address space; 0: twice the machine's memory, or as much of it as can be had. Throws
  // std::bad_alloc if that is too little to start with.
  RowPool(std::size_t stride_bytes, std::size_t reserve_bytes);
  ~RowPool();
  RowPool(const RowPool&) = delete;
  RowPool& operator=(const RowPool&) = delete;

  char* at(std::uint64_t row) const { return start_ + row * stride_; }
  std::uint64_t acquire();  // throws std::bad_alloc at the end of the range
  void release(std::uint64_t row) { free_.push_back(static_cast<std::uint32_t>(row)); }

  std::uint64_t used() const { return next_ - free_.size(); }
  std::uint64_t free() const { return free_.size(); }
  std::size_t stride() const { return stride_; }

 private:
  char* start_ = nullptr;
  std::size_t reserved_ = 0;
  std::size_t stride_;
  std::uint64_t next_ = 0;  // rows from here on were never used
  std::vector<std::uint32_t> free_;
};

}  // namespace monolith
