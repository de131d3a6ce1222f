// Pages of a table's file, asked for before they are read.
//
// A page that is found missing is waited for alone, and the disk works on one at a time; of pages that are asked for it
// works on many at once. Asking takes a microsecond even for a page that is there, so it is done only as long as this
// thread's calls read from the disk: a file that is all in the page cache, or that grows, is not asked for.
#pragma once

#include <cstddef>

namespace monolith {

// While it lives, its thread is at work on a table.
class DiskWatch {
 public:
  explicit DiskWatch(bool in_file) : in_file_(in_file) {
    if (in_file_) begin();
  }
  ~DiskWatch() {
    if (in_file_) end();
  }
  DiskWatch(const DiskWatch&) = delete;
  DiskWatch& operator=(const DiskWatch&) = delete;

  // Whether the pages of the next so many rows are to be asked for.
  bool reads(std::size_t rows) { return in_file_ && reads_now(rows); }

 private:
  static void begin();
  static void end();
  static bool reads_now(std::size_t rows);

  const bool in_file_;
};

// The pages of [begin, begin + bytes), to be read soon.
void ask_for(const void* begin, std::size_t bytes);

}  // namespace monolith
