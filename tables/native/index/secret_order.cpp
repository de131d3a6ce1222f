#include "index/secret_order.h"

#include <atomic>
#include <random>

#include "memory/simd.h"

namespace monolith {
namespace {

std::uint64_t random_seed() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

std::atomic<std::uint64_t>& seed() {
  static std::atomic<std::uint64_t> seed{random_seed()};
  return seed;
}

std::uint64_t inverse(std::uint64_t odd) {  // modulo 2^64, by Newton's iteration: each doubles the bits that are right
  std::uint64_t inverse = odd;              // 3 bits
  for (int i = 0; i < 5; ++i) inverse *= 2 - odd * inverse;
  return inverse;
}

}  // namespace

void SecretOrder::set_seed(std::uint64_t wanted) { seed() = wanted; }

std::uint64_t SecretOrder::seed_of_tables() { return seed(); }

SecretOrder::SecretOrder(std::uint64_t seed)
    : mask_(draw(seed, 1)),
      first_(draw(seed, 2) | 1),
      second_(draw(seed, 3) | 1),
      third_(draw(seed, 4) | 1),
      first_inverse_(inverse(first_)),
      second_inverse_(inverse(second_)),
      third_inverse_(inverse(third_)) {}

void SecretOrder::index_keys(const std::uint64_t* hashes, std::size_t n, std::uint64_t* keys) const {
  with_simd([=, self = *this] {
    for (std::size_t i = 0; i < n; ++i) keys[i] = self.index_key(hashes[i]);
  });
}

}  // namespace monolith
