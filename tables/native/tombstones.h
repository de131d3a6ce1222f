// Ids whose rows were removed, and in which sequence: what a delta must tell the replicas to drop.
//
// They are kept for the last `kKept` sequences. An id that has a row again has no tombstone. Not thread safe: the table
// takes turns.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "segment.h"

namespace monolith {

struct Tombstone {
  std::uint64_t hash;
  std::uint64_t mark;  // the sequence it was made in; 0: an empty entry

  bool empty() const { return mark == 0; }
  static Tombstone none() { return {kLastHash, 0}; }
};

class Tombstones {
 public:
  static constexpr std::uint32_t kKept = 4096;

  void add(std::uint64_t hash, std::uint32_t mark) {
    if (Tombstone* known = tombstones_.find(hash))
      known->mark = mark;
    else
      tombstones_.insert({hash, mark});
    by_mark_[mark].push_back(hash);
  }

  void fetch(std::uint64_t hash) const {  // what add() will look at
    const Tombstone* home = tombstones_.home(hash);
    __builtin_prefetch(home);
    __builtin_prefetch(home + kLine);
  }

  void remove(std::uint64_t hash) {
    if (tombstones_.size() == 0) return;
    if (Tombstone* known = tombstones_.find(hash)) tombstones_.erase(known);
  }

  void drop_through(std::uint32_t mark) {
    while (!by_mark_.empty() && by_mark_.begin()->first <= mark) {
      for (const std::uint64_t hash : by_mark_.begin()->second)
        if (is_of(hash, by_mark_.begin()->first)) tombstones_.erase(tombstones_.find(hash));
      by_mark_.erase(by_mark_.begin());
    }
  }

  // Ids removed in sequences after `mark`, ascending.
  std::vector<std::int64_t> ids_after(std::uint32_t mark) const {
    std::vector<std::int64_t> ids;
    for (auto at = by_mark_.upper_bound(mark); at != by_mark_.end(); ++at)
      for (const std::uint64_t hash : at->second)
        if (is_of(hash, at->first)) ids.push_back(id_of(hash));
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    return ids;
  }

  void clear() {
    tombstones_.clear();
    by_mark_.clear();
  }

  const Segment<Tombstone>& operator[](std::size_t bucket) const { return tombstones_[bucket]; }
  std::size_t size() const { return tombstones_.size(); }
  std::size_t bytes() const {
    std::size_t listed = 0;
    for (const auto& [mark, hashes] : by_mark_) listed += hashes.capacity() * sizeof(std::uint64_t);
    return tombstones_.bytes() + listed;
  }

 private:
  // A list may hold an id that came back, or was removed again later: the mark in the index has the last word.
  bool is_of(std::uint64_t hash, std::uint32_t mark) const {
    const Tombstone* tombstone = tombstones_.find(hash);
    return tombstone != nullptr && tombstone->mark == mark;
  }

  Buckets<Tombstone> tombstones_;
  std::map<std::uint32_t, std::vector<std::uint64_t>> by_mark_;
};

}  // namespace monolith
