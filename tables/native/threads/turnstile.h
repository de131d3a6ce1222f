// Turns between readers and the writer, in phases: neither side waits for more than one turn of the other.
//
// The writer may be several threads of one call, which work on different rows: they share the writer's side as readers
// share theirs (room synchronization: Blelloch, Cheng and Gibbons, "Scalable room synchronizations", 2003). While the
// other side waits nobody joins, so the room empties; whoever empties it hands it over. A turn is a chunk of ids or one
// structural change, some microseconds, so waiting is spinning that yields.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

namespace monolith {

class Turnstile {
 public:
  enum Side : unsigned { reader = 0, writer = 1 };

  void enter(Side side) {
    std::uint64_t now = state_.load(std::memory_order_relaxed);
    while (inside(now, other(side)) == 0 && waiting(now, other(side)) == 0)
      if (state_.compare_exchange_weak(now, now + one_inside(side), std::memory_order_acquire)) return;
    wait(side);
  }

  void leave(Side side) {
    std::uint64_t now = state_.load(std::memory_order_relaxed), then;
    do {
      then = now - one_inside(side);
      const bool hands_over = inside(then, side) == 0 && waiting(then, other(side)) != 0;
      if (hands_over) then = (then & ~kNext) | (std::uint64_t{other(side)} << 63);
    } while (!state_.compare_exchange_weak(now, then, std::memory_order_release, std::memory_order_relaxed));
  }

 private:
  static constexpr std::uint64_t kCount = 0x7FFF;  // 15 bits each: inside and waiting, of readers and of writers
  static constexpr std::uint64_t kNext = std::uint64_t{1} << 63;

  static Side other(Side side) { return side == reader ? writer : reader; }
  static std::uint64_t one_inside(Side side) { return std::uint64_t{1} << (15 * side); }
  static std::uint64_t one_waiting(Side side) { return std::uint64_t{1} << (30 + 15 * side); }
  static std::uint64_t inside(std::uint64_t state, Side side) { return state >> (15 * side) & kCount; }
  static std::uint64_t waiting(std::uint64_t state, Side side) { return state >> (30 + 15 * side) & kCount; }

  void wait(Side side) {
    state_.fetch_add(one_waiting(side), std::memory_order_relaxed);
    for (int spins = 0;; ++spins) {
      std::uint64_t now = state_.load(std::memory_order_relaxed);
      const bool next = now >> 63 == side || waiting(now, other(side)) == 0;
      if (next && inside(now, other(side)) == 0) {
        const std::uint64_t then = now - one_waiting(side) + one_inside(side);
        if (state_.compare_exchange_weak(now, then, std::memory_order_acquire)) return;
      }
      if (spins >= 64) std::this_thread::yield();
    }
  }

  alignas(64) std::atomic<std::uint64_t> state_{0};
};

template <Turnstile::Side side>
class Turn {
 public:
  explicit Turn(Turnstile& turnstile) : turnstile_(turnstile) { turnstile_.enter(side); }
  ~Turn() { turnstile_.leave(side); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  Turnstile& turnstile_;
};

using ReaderTurn = Turn<Turnstile::reader>;
using WriterTurn = Turn<Turnstile::writer>;

}  // namespace monolith
