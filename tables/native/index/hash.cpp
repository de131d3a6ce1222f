#include "index/hash.h"

#include "memory/simd.h"

namespace monolith {

void hash_ids(const std::int64_t* ids, std::size_t n, std::optional<std::uint64_t> salt, std::uint64_t* hashes) {
  const auto all = [=](auto hash) {
    with_simd([=] {
      for (std::size_t i = 0; i < n; ++i) hashes[i] = hash(static_cast<std::uint64_t>(ids[i]));
    });
  };
  if (salt)
    all([salt = *salt](std::uint64_t id) { return mix64(mix64(id ^ salt)); });
  else
    all([](std::uint64_t id) { return mix64(id); });
}

}  // namespace monolith
