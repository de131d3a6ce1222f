// Turns between readers and the writer: short, in phases, so that neither side waits for more than one turn of the
// other.
//
// A phase-fair ticket lock (Brandenburg and Anderson, "Spin-based reader-writer synchronization for multiprocessor
// real-time systems", 2010): readers that arrive during a writer's turn go next, all together; a writer that waits goes
// after the readers already inside. A turn is a chunk of ids or one segment, some microseconds, so waiting is spinning
// that yields. Writers come one at a time (the table holds a mutex), which the lock relies on.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

namespace monolith {

class Turnstile {
 public:
  void enter_reader() {
    const std::uint32_t phase = arrived_.fetch_add(kReader, std::memory_order_acquire) & kWriterBits;
    if (phase != 0) wait_while([&] { return (arrived_.load(std::memory_order_acquire) & kWriterBits) == phase; });
  }
  void leave_reader() { left_.fetch_add(kReader, std::memory_order_release); }

  void enter_writer() {
    turn_ ^= 1;  // two marks in turn, so that a reader sees the end of one writer's turn though the next began
    const std::uint32_t inside = arrived_.fetch_add(2 | turn_, std::memory_order_acquire);
    wait_while([&] { return left_.load(std::memory_order_acquire) != inside; });
  }
  void leave_writer() { arrived_.fetch_and(~kWriterBits, std::memory_order_release); }

 private:
  static constexpr std::uint32_t kReader = 4;
  static constexpr std::uint32_t kWriterBits = 3;

  template <class Busy>
  static void wait_while(Busy busy) {
    for (int spins = 0; busy(); ++spins)
      if (spins >= 64) std::this_thread::yield();
  }

  alignas(64) std::atomic<std::uint32_t> arrived_{0};
  alignas(64) std::atomic<std::uint32_t> left_{0};
  std::uint32_t turn_ = 0;  // the writer's own
};

class ReaderTurn {
 public:
  explicit ReaderTurn(Turnstile& turnstile) : turnstile_(turnstile) { turnstile_.enter_reader(); }
  ~ReaderTurn() { turnstile_.leave_reader(); }
  ReaderTurn(const ReaderTurn&) = delete;
  ReaderTurn& operator=(const ReaderTurn&) = delete;

 private:
  Turnstile& turnstile_;
};

class WriterTurn {
 public:
  explicit WriterTurn(Turnstile& turnstile) : turnstile_(turnstile) { turnstile_.enter_writer(); }
  ~WriterTurn() { turnstile_.leave_writer(); }
  WriterTurn(const WriterTurn&) = delete;
  WriterTurn& operator=(const WriterTurn&) = delete;

 private:
  Turnstile& turnstile_;
};

}  // namespace monolith
