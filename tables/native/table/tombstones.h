// Ids whose rows were removed, and in which sequence: what a delta must tell the replicas to drop.
//
// They are kept for the last `kKept` sequences, and there is at most one for every other row, or `least` where that is
// more: a tombstone takes some 32 bytes. Beyond that whole sequences are forgotten, the oldest first, the open one too
// if need be, and the floor says from where on all are known. What is forgotten is a function of rows and tombstones.
// An id that has a row again has no tombstone. Not thread safe: the table takes turns.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "index/hash_range.h"
#include "index/segment.h"

namespace monolith {

struct Tombstone {
  std::uint64_t key;   // of its id's hash
  std::uint64_t mark;  // the sequence it was made in; 0: an empty entry

  bool empty() const { return mark == 0; }
  static Tombstone none() { return {kLastKey, 0}; }
};

class Tombstones {
 public:
  static constexpr std::uint32_t kKept = 4096;
  static constexpr std::size_t kLeast = std::size_t{1} << 15;  // a mebibyte

  explicit Tombstones(std::optional<std::size_t> least) : least_(least.value_or(0)), kept_(least.has_value()) {}

  bool kept() const { return kept_; }  // false: none are, since nobody asks this table for deltas

  void add(std::uint64_t hash, std::uint32_t mark) {
    if (!kept_ || mark <= floor_) return;
    if (Tombstone* known = tombstones_.find(hash))
      known->mark = mark;
    else
      tombstones_.insert(hash, {0, mark});
    by_mark_[mark].push_back(hash);
    ++listed_;
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

  // Ids that were removed in sequences after this one are known, if they have no row.
  std::uint32_t floor() const { return floor_; }
  void set_floor(std::uint32_t mark) { floor_ = mark; }  // of a snapshot

  void drop_through(std::uint32_t mark) {
    while (!by_mark_.empty() && by_mark_.begin()->first <= mark) {
      for (const std::uint64_t hash : by_mark_.begin()->second)
        if (is_of(hash, by_mark_.begin()->first)) tombstones_.erase(tombstones_.find(hash));
      listed_ -= by_mark_.begin()->second.size();
      by_mark_.erase(by_mark_.begin());
    }
    floor_ = std::max(floor_, mark);
  }

  // Takes time, and readers see nothing of it: to be called outside of turns.
  void keep_within(std::uint64_t rows) {
    const auto most = std::max<std::uint64_t>(least_, rows / 2);
    while (tombstones_.size() > most) drop_through(by_mark_.begin()->first);
    if (listed_ > 2 * (tombstones_.size() + kLeast)) list_again();
  }

  // Ids of the given buckets that were removed in sequences after `mark`, ascending.
  std::vector<std::int64_t> ids_after(std::uint32_t mark, const BucketSet& buckets) const {
    std::vector<std::int64_t> ids;
    for (auto at = by_mark_.upper_bound(mark); at != by_mark_.end(); ++at)
      for (const std::uint64_t hash : at->second)
        if (buckets[bucket_of(hash)] && is_of(hash, at->first)) ids.push_back(id_of(hash));
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    return ids;
  }

  void clear() {
    tombstones_.clear();
    by_mark_.clear();
    listed_ = 0;
  }

  const Segment<Tombstone>& operator[](std::size_t bucket) const { return tombstones_[bucket]; }
  std::uint64_t hash_of(const Tombstone& tombstone) const { return tombstones_.hash_of(tombstone); }
  std::uint64_t passed() const { return tombstones_.passed(); }
  std::size_t size() const { return tombstones_.size(); }
  std::size_t bytes() const {
    std::size_t listed = by_mark_.size() * (sizeof(*by_mark_.begin()) + 4 * sizeof(void*));  // with the map's nodes
    for (const auto& [mark, hashes] : by_mark_) listed += hashes.capacity() * sizeof(std::uint64_t);
    return tombstones_.bytes() + listed;
  }

 private:
  // A list may hold an id that came back, or was removed again later: the mark in the index has the last word.
  bool is_of(std::uint64_t hash, std::uint32_t mark) const {
    const Tombstone* tombstone = tombstones_.find(hash);
    return tombstone != nullptr && tombstone->mark == mark;
  }

  // Without the ids that came back, of which each list before this one may be full.
  void list_again() {
    by_mark_.clear();
    for (std::size_t bucket = 0; bucket < kBuckets; ++bucket)
      tombstones_[bucket].each([&](const Tombstone& tombstone) {
        by_mark_[static_cast<std::uint32_t>(tombstone.mark)].push_back(hash_of(tombstone));
      });
    listed_ = tombstones_.size();
  }

  const std::size_t least_;
  const bool kept_;
  std::uint32_t floor_ = 0;
  std::size_t listed_ = 0;  // in all lists
  Buckets<Tombstone> tombstones_;
  std::map<std::uint32_t, std::vector<std::uint64_t>> by_mark_;
};

}  // namespace monolith
