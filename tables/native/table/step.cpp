#include "table/step.h"

#include <algorithm>

#include "threads/crew.h"

namespace monolith {

unsigned groups_for(std::size_t ids, std::size_t of) {
  constexpr std::size_t kWorthAThread = 4096;
  constexpr std::size_t kAThread = 2;  // groups in all, so that threads end at about the same time
  const std::size_t threads = crew_threads();
  const std::size_t share = of <= ids ? threads : std::min(threads, (kAThread * threads * ids + of - 1) / of);
  return static_cast<unsigned>(std::clamp<std::size_t>(ids / kWorthAThread, 1, std::max<std::size_t>(share, 1)));
}

void Group::begin(const Parts& parts, unsigned number, unsigned groups) {
  if (groups == 1)
    take_all(parts);
  else
    take_some(parts, number, groups);
  reserve();
}

void Group::reserve() {
  if (unique_.size() > size_) return;
  unique_.resize(size_ + 1);
  repeats_.resize(size_ + 1);
}

void Group::restart(std::uint32_t key) {
  unique_count_ = repeat_count_ = 0;
  deferred_.clear();
  key_ = key;
}

void Group::take(const Rows& rows, const std::vector<Shared>& occurrences) {
  size_ = occurrences.size();
  unique_count_ = repeat_count_ = 0;
  reserve();
  hashes_.resize(size_);
  positions_.resize(size_);
  Adder adder(*this, rows);
  for (std::size_t i = 0; i < size_; ++i) {
    hashes_[i] = shared_hash(occurrences[i].number);
    positions_[i] = static_cast<std::uint32_t>(occurrences[i].position);
    adder.add(rows.shared_at(occurrences[i].number), i);
  }
}

void Group::take_all(const Parts& parts) {
  size_ = 0;
  positions_.clear();
  ends_.clear();
  for (const Part& part : parts) ends_.push_back(size_ += part.count);
  if (hashes_.size() < size_) hashes_.resize(size_);
  std::uint64_t* next = hashes_.data();
  for (const Part& part : parts) {
    hash_ids(part.ids, part.count, part.salt, next);
    next += part.count;
  }
}

// Every group hashes all ids and keeps its own: cheaper than to wait for one thread that hands them out.
void Group::take_some(const Parts& parts, unsigned number, unsigned groups) {
  constexpr std::size_t kAtOnce = 256;
  std::size_t position = 0, kept = 0;
  ends_.clear();
  for (const Part& part : parts) {
    if (hashes_.size() < kept + part.count + 1) hashes_.resize(kept + part.count + 1);
    positions_.resize(kept + part.count + 1);
    for (std::size_t first = 0; first < part.count; first += kAtOnce) {
      std::uint64_t hashes[kAtOnce];
      const std::size_t n = std::min(kAtOnce, part.count - first);
      hash_ids(part.ids + first, n, part.salt, hashes);
      for (std::size_t i = 0; i < n; ++i, ++position) {
        hashes_[kept] = hashes[i];
        positions_[kept] = static_cast<std::uint32_t>(position);
        kept += Step::number_of(hashes[i], groups) == number;
      }
    }
    ends_.push_back(kept);
  }
  size_ = kept;
}

void Step::begin(const Parts& parts, unsigned groups, bool shared) {
  keep(parts);
  by_hash_ = groups;
  groups_.resize(groups + shared);
  in_parallel(groups, [&](unsigned number) { groups_[number].begin(parts, number, groups); });
  restart();
}

void Step::restart() {
  // 2^32 / golden ratio: keys lie far apart
  const std::uint32_t key = steps_begun.fetch_add(1, std::memory_order_relaxed) * 0x9E3779B9u;
  for (Group& group : groups_) group.restart(key);
  whole_ = false;
}

void Step::share(const Rows& rows, std::vector<Shared>& occurrences) {
  if (by_hash_ == groups_.size()) return;
  if (by_hash_ > 1)  // else there is but one order
    std::sort(occurrences.begin(), occurrences.end(),
              [](const Shared& a, const Shared& b) { return a.position < b.position; });
  groups_.back().take(rows, occurrences);
}

void Step::share_instead(const Rows& rows, const std::int64_t* numbers, std::size_t count, bool counts) {
  std::vector<Shared> occurrences(count);
  for (std::size_t i = 0; i < count; ++i) occurrences[i] = {own_size_ + i, static_cast<std::uint32_t>(numbers[i])};
  features_.push_back({own_size_, own_size_ + count, false, false, {}, {}});
  size_ = own_size_ + count;
  counts_shared_ = counts;
  groups_.back().take(rows, occurrences);
}

std::vector<std::int64_t> Step::sharing() const {
  std::vector<std::int64_t> positions;
  if (by_hash_ == groups_.size()) return positions;
  const Group& shared = groups_.back();
  if (shared.unique_count() == 0) return positions;  // what it has may be of a step before
  for (std::size_t i = 0; i < shared.size(); ++i) positions.push_back(static_cast<std::int64_t>(shared.position(i)));
  return positions;
}

void Step::keep(const Parts& parts) {
  features_.resize(parts.size());
  size_ = 0;
  bool pooled = false;
  for (std::size_t k = 0; k < parts.size(); ++k) {
    const Part& part = parts[k];
    Feature& feature = features_[k];
    feature.begin = size_;
    feature.end = size_ += part.count;
    feature.pooled = part.pooled();
    feature.mean = part.mean;
    feature.lengths.assign(part.lengths, part.lengths + (part.lengths ? part.samples : 0));
    feature.weights.assign(part.weights, part.weights + (part.weights ? part.count : 0));
    pooled |= feature.pooled;
  }
  own_size_ = size_;
  counts_shared_ = true;
  samples_.resize(pooled ? size_ : 0);
  rows_at_.resize(pooled ? size_ : 0);
  for (const Feature& feature : features_) {
    if (!feature.pooled) continue;
    std::size_t position = feature.begin;
    for (std::size_t sample = 0; position < feature.end; ++sample) {
      const std::size_t ids = feature.lengths.empty() ? 1 : static_cast<std::size_t>(feature.lengths[sample]);
      std::fill_n(samples_.begin() + static_cast<std::ptrdiff_t>(position), ids, static_cast<std::uint32_t>(sample));
      position += ids;
    }
  }
}

std::size_t Step::bytes() const {
  std::size_t bytes = (samples_.capacity() + rows_at_.capacity()) * sizeof(std::uint32_t);
  for (const Group& group : groups_) bytes += group.bytes();
  for (const Feature& feature : features_)
    bytes += (feature.lengths.capacity() + feature.weights.capacity()) * sizeof(float);
  return bytes;
}

}  // namespace monolith
