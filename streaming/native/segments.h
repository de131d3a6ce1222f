// Immutable segments: which of the things in a pool lie in which file of a snapshot, so that the next snapshot keeps
// the file and writes only what came since. A file's rows never change; what became of each is one byte, its status,
// which every snapshot has of its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "keys.h"

namespace monolith::joining {

// A row's status. A row that is not there says nothing: it went, or lies as it is now in a later segment.
constexpr std::uint8_t kThere = 1, kOpen = 2, kRow = 4;

// A segment's number and the status of each of its rows.
struct SavedSegment {
  std::uint64_t number;
  std::string statuses;
};

// All segments that hold something, oldest first. `added` are the rows of the last one in its order, if it is new.
template <class T>
struct SavedGroup {
  std::vector<SavedSegment> segments;
  std::vector<const T*> added;
};

class SegmentBook {
 public:
  // Each thing of the pool is in one segment afterwards, as it is now but for what a status says, and is not `fresh`.
  // Segments with nothing left are gone, those of which less than half is left lie in the new one, and so do the
  // smallest of too many. `whole`: begin with a single new segment.
  template <class T, class Before, class Status>
  SavedGroup<T> save(Pool<T>& pool, bool whole, Before before, Status status_of) {
    if (whole) segments_.clear();
    std::vector<bool> done(pool.places());
    std::vector<std::uint32_t> moved;
    for (std::uint32_t place = 0; place < pool.places(); ++place)
      if (pool[place].offset >= 0 && (whole || pool[place].fresh)) move(place, done, moved);
    SavedGroup<T> saved;
    saved.segments = judge(pool, done, status_of);
    for (const std::size_t number : to_merge(saved.segments)) {
      const std::vector<std::uint32_t>& places = segments_[number].places;
      for (std::size_t row = 0; row < places.size(); ++row)
        if (saved.segments[number].statuses[row] != 0) moved.push_back(places[row]);
      saved.segments[number].statuses.clear();
    }
    drop_empty(saved.segments);
    if (!moved.empty()) add(pool, moved, before, status_of, saved);
    return saved;
  }

 private:
  static constexpr std::size_t kMost = 64;  // segments; more of them become half as many

  struct Segment {
    std::uint64_t number;
    std::vector<std::uint32_t> places;  // of each row
  };

  static void move(std::uint32_t place, std::vector<bool>& done, std::vector<std::uint32_t>& moved) {
    done[place] = true;
    moved.push_back(place);
  }

  // The newest segment that names a place holds what is there. A thing that is fresh is `done` already.
  template <class T, class Status>
  std::vector<SavedSegment> judge(const Pool<T>& pool, std::vector<bool>& done, Status status_of) const {
    std::vector<SavedSegment> judged(segments_.size());
    for (std::size_t i = segments_.size(); i-- > 0;) {
      const Segment& segment = segments_[i];
      judged[i] = {segment.number, std::string(segment.places.size(), 0)};
      for (std::size_t row = 0; row < segment.places.size(); ++row) {
        const std::uint32_t place = segment.places[row];
        if (done[place] || pool[place].offset < 0) continue;
        done[place] = true;
        judged[i].statuses[row] = static_cast<char>(status_of(pool[place]));
      }
    }
    return judged;
  }

  // Segments, by their place in the list, whose rows are to lie in a new one.
  static std::vector<std::size_t> to_merge(const std::vector<SavedSegment>& segments) {
    std::vector<std::pair<std::size_t, std::size_t>> dense;  // rows that are left, place
    std::vector<std::size_t> merged;
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const std::string& statuses = segments[i].statuses;
      const auto left = statuses.size() - static_cast<std::size_t>(std::count(statuses.begin(), statuses.end(), 0));
      if (2 * left < statuses.size())
        merged.push_back(i);
      else
        dense.emplace_back(left, i);
    }
    if (dense.size() < kMost) return merged;
    std::sort(dense.begin(), dense.end());
    for (std::size_t i = 0; i < kMost / 2; ++i) merged.push_back(dense[i].second);
    return merged;
  }

  void drop_empty(std::vector<SavedSegment>& segments) {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < segments.size(); ++i) {
      if (segments[i].statuses.empty()) continue;
      if (kept != i) {
        segments[kept] = std::move(segments[i]);
        segments_[kept] = std::move(segments_[i]);
      }
      ++kept;
    }
    segments.resize(kept);
    segments_.resize(kept);
  }

  template <class T, class Before, class Status>
  void add(Pool<T>& pool, std::vector<std::uint32_t>& moved, Before before, Status status_of, SavedGroup<T>& saved) {
    std::sort(moved.begin(), moved.end(), [&](std::uint32_t a, std::uint32_t b) { return before(&pool[a], &pool[b]); });
    saved.segments.push_back({++newest_, {}});
    for (const std::uint32_t place : moved) {
      pool[place].fresh = false;
      saved.segments.back().statuses.push_back(static_cast<char>(status_of(pool[place])));
      saved.added.push_back(&pool[place]);
    }
    segments_.push_back({newest_, std::move(moved)});
  }

  std::vector<Segment> segments_;  // oldest first
  std::uint64_t newest_ = 0;
};

}  // namespace monolith::joining
