// One index segment: open addressing with linear probing, entries kept in the order of their keys.
//
// A key is a hash in a secret order (`secret_order.h`), with the bucket on top. Its home is `key * capacity / 2^64`,
// which rises with the key, so a segment is a sorted array with gaps. That makes a probe one comparison an entry, lets
// a miss stop early, and turns growth into one sequential pass with no need for powers of two. There is no wrap-around:
// some slack follows the last home, and its last entry is always empty. Keys cannot be chosen, so runs stay short; the
// slack doubles where they do not, and memory stays in proportion to the number of entries.
//
// An Entry has a `key`, `empty()`, and all-zero payload when empty. Empty entries hold the largest key, so that the
// probe needs no second test. Homes lie at every fourth entry, where a memory line of the index begins: four in five
// searches end in that line, 98 in 100 in that or the next. So a search counts the smaller keys of both without a
// branch (a mispredicted one costs more), and both are fetched ahead. Not thread safe: the table takes turns.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "index/hash.h"
#include "index/secret_order.h"

namespace monolith {

constexpr std::uint64_t kLastKey = ~std::uint64_t{0};
constexpr double kLoad = 0.8;     // full enough to grow
constexpr double kGrowth = 1.25;  // small steps: 16-byte entries at load 0.64-0.8 cost 20-25 bytes a row, not 20-40
constexpr std::size_t kLine = 4;  // entries between homes
constexpr std::size_t kNear = 2 * kLine;  // entries that a search looks at in any case

template <class Entry>
class Segment {
 public:
  Segment() : entries_(nothing), size_(0), slack_doublings_(0) {}
  ~Segment() { clear(); }
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  // Where the search for `key` starts: for prefetching.
  const Entry* home(std::uint64_t key) const { return entries_ + home_index(key); }

  const Entry* find(std::uint64_t key) const {
    const Entry* entry = at_or_after(home(key), key);
    return entry->key == key && !entry->empty() ? entry : nullptr;
  }
  Entry* find(std::uint64_t key) { return const_cast<Entry*>(const_cast<const Segment*>(this)->find(key)); }

  // Adds `added`, whose key must not be present. Pointers to entries end here; `stagger` is in [0, 1). Returns how many
  // entries it went past or moved, growth apart.
  std::size_t insert(const Entry& added, double stagger) {
    reserve(size_ + 1, stagger);
    std::size_t passed = 0;
    while (!place(added, passed)) rebuild(capacity_, slack_doublings_ + 1);
    ++size_;
    return passed;
  }

  // Removes an entry that find() returned, moving the entries behind it towards their homes. Pointers to entries end
  // here as well: memory that is mostly empty is given back.
  void erase(Entry* gone) {
    Entry* hole = gone;
    for (Entry* next = hole + 1; !next->empty() && home(next->key) < next; ++hole, ++next) *hole = *next;
    *hole = Entry::none();
    --size_;
    if (size_ == 0)
      clear();
    else if (size_ < capacity_ / 8)
      shrink();
  }

  // Makes room for `count` entries in all.
  void reserve(std::size_t count, double stagger) {
    if (count > kLoad * capacity_) rebuild(capacity_for(count, stagger), slack_doublings_);
  }

  void clear() {
    if (entries_ != nothing) std::free(entries_);
    entries_ = nothing;
    capacity_ = 1;
    size_ = 0;
    slack_doublings_ = 0;
  }

  // Calls visit(entry) for every entry, in the order of keyes. It must neither insert nor erase.
  template <class Visit>
  void each(Visit visit) const {
    for (const Entry *entry = entries_, *end = entries_ + allocated(); entry != end; ++entry)
      if (!entry->empty()) visit(*entry);
  }
  template <class Visit>
  void each(Visit visit) {
    for (Entry *entry = entries_, *end = entries_ + allocated(); entry != end; ++entry)
      if (!entry->empty()) visit(*entry);
  }

  std::size_t size() const { return size_; }
  std::size_t bytes() const { return entries_ == nothing ? 0 : allocated() * sizeof(Entry); }

 private:
  // What a segment that was never written points to: as many empty entries as a search looks at.
  inline static Entry nothing[kNear] = {Entry::none(), Entry::none(), Entry::none(), Entry::none(),
                                        Entry::none(), Entry::none(), Entry::none(), Entry::none()};

  static std::size_t total(std::size_t capacity, unsigned slack_doublings) {
    return capacity + (std::min<std::size_t>(8 + capacity / 8, 96) << slack_doublings);
  }
  std::size_t allocated() const { return entries_ == nothing ? kNear : total(capacity_, slack_doublings_); }

  std::size_t home_index(std::uint64_t key) const {  // the top 10 bits are the same in the whole segment
    return static_cast<std::size_t>((static_cast<unsigned __int128>(key << 10) * capacity_) >> 64) / kLine * kLine;
  }

  // The first entry from `home` on whose key is not smaller.
  static const Entry* at_or_after(const Entry* home, std::uint64_t key) {
    std::size_t smaller = 0;
    for (std::size_t i = 0; i < kNear; ++i) smaller += home[i].key < key;
    const Entry* entry = home + smaller;
    if (smaller == kNear)
      while (entry->key < key) ++entry;
    return entry;
  }

  // False: the entries up to the end are taken, and the segment must grow first.
  bool place(const Entry& added, std::size_t& passed) {
    Entry* const home = entries_ + home_index(added.key);
    Entry* at = home;
    while (at->key < added.key) ++at;
    Entry* gap = at;
    while (!gap->empty()) ++gap;
    if (gap + 1 == entries_ + allocated()) return false;
    std::move_backward(at, gap, gap + 1);
    *at = added;
    passed = static_cast<std::size_t>(gap - home);
    return true;
  }

  // Staggered sizes, so that the segments of a table, which fill at one rate, do not all grow in the same step.
  static std::size_t capacity_for(std::size_t count, double stagger) {
    double capacity = 8 * (1 + (kGrowth - 1) * stagger);
    while (count > kLoad * std::floor(capacity)) capacity *= kGrowth;
    return static_cast<std::size_t>(capacity);
  }

  void shrink() {
    try {
      rebuild(capacity_for(2 * size_, 0.0), 0);
    } catch (const std::bad_alloc&) {  // it stays as large as it is
    }
  }

  void rebuild(std::size_t capacity, unsigned slack_doublings) {
    Segment larger;
    while (!larger.fill_from(*this, capacity, slack_doublings)) ++slack_doublings;
    std::swap(entries_, larger.entries_);
    std::swap(capacity_, larger.capacity_);
    slack_doublings_ = slack_doublings;
  }

  bool fill_from(const Segment& old, std::size_t capacity, unsigned slack_doublings) {
    clear();
    const std::size_t count = total(capacity, slack_doublings);
    const std::size_t bytes = (count * sizeof(Entry) + 63) / 64 * 64;
    auto* entries = static_cast<Entry*>(std::aligned_alloc(64, bytes));
    if (entries == nullptr) throw std::bad_alloc();
    std::fill_n(entries, count, Entry::none());
    entries_ = entries;
    capacity_ = static_cast<std::uint32_t>(capacity);
    std::size_t next = 0;
    bool fits = true;
    old.each([&](const Entry& entry) {
      next = std::max(next, home_index(entry.key));
      fits = fits && next + 1 < count;
      if (fits) entries_[next++] = entry;
    });
    return fits;
  }

  // 16 bytes in all, so that 1,024 of them stay in the L1 cache.
  Entry* entries_;
  std::uint32_t capacity_ = 1;  // homes
  std::uint32_t size_ : 26;
  std::uint32_t slack_doublings_ : 6;
};

// 1,024 segments, picked by the top bits of the hash: one for each of the table's logical buckets.
template <class Entry>
class Buckets {
 public:
  const Entry* home(std::uint64_t hash) const { return segments_[bucket_of(hash)].home(order_.segment_key(hash)); }
  const Entry* find(std::uint64_t hash) const { return segments_[bucket_of(hash)].find(order_.segment_key(hash)); }
  Entry* find(std::uint64_t hash) { return segments_[bucket_of(hash)].find(order_.segment_key(hash)); }
  std::uint64_t hash_of(const Entry& entry) const { return order_.hash_of_segment_key(entry.key); }

  void insert(std::uint64_t hash, Entry added) {  // whose key comes from the hash
    const std::size_t bucket = bucket_of(hash);
    added.key = order_.segment_key(hash);
    passed_ += segments_[bucket].insert(added, stagger(bucket));
    ++size_;
  }
  void erase(Entry* entry) {
    segments_[bucket_of(entry->key)].erase(entry);
    --size_;
  }

  void clear() {
    for (auto& segment : segments_) segment.clear();
    size_ = 0;
  }

  Segment<Entry>& operator[](std::size_t bucket) { return segments_[bucket]; }
  const Segment<Entry>& operator[](std::size_t bucket) const { return segments_[bucket]; }

  std::size_t size() const { return size_; }
  std::uint64_t passed() const { return passed_; }  // entries that insertions went past or moved so far
  std::size_t bytes() const {
    std::size_t sum = sizeof(segments_);
    for (const auto& segment : segments_) sum += segment.bytes();
    return sum;
  }

 private:
  static double stagger(std::size_t bucket) { return static_cast<double>(bucket) / kBuckets; }

  const SecretOrder order_;
  Segment<Entry> segments_[kBuckets];
  std::size_t size_ = 0;
  std::uint64_t passed_ = 0;
};

}  // namespace monolith
