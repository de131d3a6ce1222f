// XXH3-64 of texts, as `tables/hashing.py` and the draws of negative sampling have it.
#pragma once

#define XXH_INLINE_ALL
#include <cstdint>
#include <string_view>

#include "xxhash/xxhash.h"

namespace monolith::joining {

inline std::uint64_t hashed(std::string_view text, std::uint64_t seed) {
  return XXH3_64bits_withSeed(text.data(), text.size(), seed);
}

}  // namespace monolith::joining
