// Things that are found by request and item: their text in one allocation, a pool of stable places, and a table.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

namespace monolith::joining {

// Request, item and one more part, one after the other.
class Text {
 public:
  Text() = default;
  // The rest may come in two parts.
  Text(std::string_view request, std::string_view item, std::string_view rest, std::string_view more = {})
      : bytes_(new char[request.size() + item.size() + rest.size() + more.size()]),
        request_(static_cast<std::uint32_t>(request.size())),
        item_(static_cast<std::uint32_t>(item.size())),
        rest_(static_cast<std::uint32_t>(rest.size() + more.size())) {
    copy(request, 0);
    copy(item, request_);
    copy(rest, std::size_t{request_} + item_);
    copy(more, std::size_t{request_} + item_ + rest.size());
  }

  std::string_view request() const { return {bytes_.get(), request_}; }
  std::string_view item() const { return {bytes_.get() + request_, item_}; }
  std::string_view rest() const { return {bytes_.get() + request_ + item_, rest_}; }
  char* rest_bytes() { return bytes_.get() + request_ + item_; }
  std::size_t size() const { return std::size_t{request_} + item_ + rest_; }
  // `whole`: the third part belongs to the key as well.
  bool same_key(const Text& other, bool whole) const {
    return request_ == other.request_ && item_ == other.item_ && key(whole) == other.key(whole);
  }
  // The key as bytes; where it is cut counts too, see hash().
  std::string_view key(bool whole) const { return {bytes_.get(), whole ? size() : std::size_t{request_} + item_}; }
  std::uint32_t cut() const { return request_; }

  Text without_rest() const { return Text(request(), item(), {}); }

 private:
  void copy(std::string_view part, std::size_t at) {
    if (!part.empty()) std::memcpy(bytes_.get() + at, part.data(), part.size());
  }

  std::unique_ptr<char[]> bytes_;
  std::uint32_t request_ = 0, item_ = 0, rest_ = 0;
};

// Things at places that stay until they are given back; a place that is free holds a thing with offset -1.
template <class T>
class Pool {
 public:
  T& operator[](std::uint32_t place) { return things_[place]; }
  const T& operator[](std::uint32_t place) const { return things_[place]; }

  std::uint32_t put(T thing) {
    if (!free_.empty()) {
      const std::uint32_t place = free_.back();
      free_.pop_back();
      things_[place] = std::move(thing);
      return place;
    }
    things_.push_back(std::move(thing));
    return static_cast<std::uint32_t>(things_.size() - 1);
  }
  T take(std::uint32_t place) {
    T thing = std::move(things_[place]);
    things_[place] = T{};
    things_[place].offset = -1;
    free_.push_back(place);
    return thing;
  }
  std::uint32_t places() const { return static_cast<std::uint32_t>(things_.size()); }  // those given back too

 private:
  std::deque<T> things_;
  std::vector<std::uint32_t> free_;
};

// A pool of things with a `text`, found by its key: open addressing, linear probing. The hash starts from a number
// drawn for the process, so nobody can choose keys that collide; nothing that comes out depends on it.
template <class T>
class KeyedPool {
 public:
  static constexpr std::uint32_t kNone = UINT32_MAX;

  // `whole`: the third part of a text belongs to its key, so there may be several things of one request and item.
  explicit KeyedPool(bool whole = false) : whole_(whole) {}

  T& operator[](std::uint32_t place) { return pool_[place]; }
  const T& operator[](std::uint32_t place) const { return pool_[place]; }

  std::uint32_t find(const Text& key) const {
    if (slots_.empty()) return kNone;
    const std::uint32_t tag = tag_of(key);
    for (std::size_t at = tag & mask(); slots_[at].place != kNone; at = (at + 1) & mask())
      if (slots_[at].tag == tag && pool_[slots_[at].place].text.same_key(key, whole_)) return slots_[at].place;
    return kNone;
  }
  std::uint32_t put(T thing) {
    if (5 * (size_ + 1) > 4 * slots_.size()) grow();
    const std::uint32_t tag = tag_of(thing.text);
    const std::uint32_t place = pool_.put(std::move(thing));
    insert({tag, place});
    ++size_;
    return place;
  }
  T take(std::uint32_t place) {
    erase(place);
    --size_;
    return pool_.take(place);
  }
  std::size_t size() const { return size_; }
  Pool<T>& pool() { return pool_; }

  template <class Visit>
  void each(Visit visit) const {
    for (const Slot& slot : slots_)
      if (slot.place != kNone) visit(pool_[slot.place]);
  }

 private:
  struct Slot {
    std::uint32_t tag, place = kNone;
  };

  std::size_t mask() const { return slots_.size() - 1; }

  std::uint32_t tag_of(const Text& text) const {
    std::uint64_t hash = secret_ + text.cut();
    const std::string_view key = text.key(whole_);
    std::size_t at = 0;
    for (; at + 8 <= key.size(); at += 8) {
      std::uint64_t word;
      std::memcpy(&word, key.data() + at, 8);
      hash = mixed(hash ^ word);
    }
    std::uint64_t last = key.size();
    std::memcpy(&last, key.data() + at, key.size() - at);  // up to seven bytes; the length shows through the eighth
    return static_cast<std::uint32_t>(mixed(hash ^ last ^ std::uint64_t{key.size()} << 56) >> 32);
  }
  // The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection that lets each bit reach all.
  static std::uint64_t mixed(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
  }

  void insert(Slot slot) {
    std::size_t at = slot.tag & mask();
    while (slots_[at].place != kNone) at = (at + 1) & mask();
    slots_[at] = slot;
  }
  void grow() {
    std::vector<Slot> old(slots_.empty() ? 16 : 2 * slots_.size());
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.place != kNone) insert(slot);
  }
  // Moves those behind the hole up to where their search begins, so that no search ends early.
  void erase(std::uint32_t place) {
    std::size_t hole = tag_of(pool_[place].text) & mask();
    while (slots_[hole].place != place) hole = (hole + 1) & mask();
    for (std::size_t at = (hole + 1) & mask(); slots_[at].place != kNone; at = (at + 1) & mask()) {
      const std::size_t home = slots_[at].tag & mask();
      if (((at - home) & mask()) < ((at - hole) & mask())) continue;
      slots_[hole] = slots_[at];
      hole = at;
    }
    slots_[hole] = Slot{};
  }

  bool whole_;
  Pool<T> pool_;
  std::vector<Slot> slots_;
  std::size_t size_ = 0;
  std::uint64_t secret_ = std::random_device{}() | std::uint64_t{std::random_device{}()} << 32;
};

}  // namespace monolith::joining
