// Which rows were written in one sequence, so that publishing them costs by their number and not by the table's size.
//
// The list is given up once it names more than a quarter of the rows: then looking through the whole table costs at
// most four times as much, and the memory stays below two bytes a row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>

namespace monolith {

class Touched {
 public:
  void add(std::uint64_t hash, std::uint64_t rows) {
    if (!complete_) return;
    if (hashes_.size() < kFew + rows / 4)
      hashes_.push_back(hash);
    else
      give_up();
  }
  void give_up() {
    hashes_.clear();
    complete_ = false;
  }
  void clear() {
    hashes_.clear();
    complete_ = true;
  }

  bool complete() const { return complete_; }
  const std::deque<std::uint64_t>& hashes() const { return hashes_; }
  std::size_t bytes() const { return hashes_.size() * sizeof(std::uint64_t); }

 private:
  static constexpr std::size_t kFew = 4096;

  std::deque<std::uint64_t> hashes_;  // grows without moving; an id that was removed and came back is in it twice
  bool complete_ = true;
};

}  // namespace monolith
