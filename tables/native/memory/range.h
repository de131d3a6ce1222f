// Reserved address space that becomes memory, or a file's pages, as it is used: what lies in it never moves.
//
// Fresh bytes are zero. Beyond the first 2 MiB, memory comes in huge pages where the system has them: rows and index
// lines are read at random, so each 4 KiB page would be a TLB miss. With a folder the bytes belong to a file without a
// name in it, whose space is given back when the range goes, however the process ends: the system moves pages to and
// from the disk, and a table may be larger than memory. Not thread safe: the table takes turns.
#pragma once

#include <cstddef>
#include <string>

namespace monolith {

class Range {
 public:
  // Reserves `bytes`, or, where the system refuses so much, a half of it, and so on down to `least`. Throws
  // std::bad_alloc if that is refused too, and std::system_error for a folder that takes no file.
  Range(std::size_t bytes, std::size_t least, const std::string& folder);
  ~Range();
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

  char* start() const { return start_; }
  // Makes the first `bytes` usable. Throws std::bad_alloc at the end of the range, std::system_error on a full disk.
  // Returns whether that took anything.
  bool ensure(std::size_t bytes) {
    if (bytes <= ensured_) return false;
    extend(bytes);
    return true;
  }

  // Says that the bytes [begin, end) will be written to soon. Means nothing for a file, nor while a range is small.
  void expect(std::size_t begin, std::size_t end);

  static std::size_t twice_the_memory();
  static std::size_t disk_of(const std::string& folder);  // its size in bytes; 0: not known

 private:
  void extend(std::size_t bytes);

  char* mapped_ = nullptr;
  char* start_ = nullptr;
  std::size_t size_ = 0, ensured_ = 0, expected_ = 0;
  int file_ = -1;
  const std::string folder_;
};

}  // namespace monolith
