// One memory line of eight entries, compared with a code all at once. By hand, because compilers make branches of the
// plain loop, and which entry matches cannot be predicted.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace monolith {

// Bit 2 * i is set if the word 2 * i of the line equals `code`.
inline std::uint32_t matches(const std::uint32_t* line, std::uint32_t code) {
#if defined(__SSE2__)
  const auto* words = reinterpret_cast<const __m128i*>(line);
  const __m128i wanted = _mm_set1_epi32(static_cast<int>(code));
  const auto equal = [&](int i) { return _mm_cmpeq_epi32(_mm_load_si128(words + i), wanted); };
  const __m128i lower = _mm_packs_epi32(equal(0), equal(1)), upper = _mm_packs_epi32(equal(2), equal(3));
  return static_cast<std::uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(lower, upper))) & 0x5555u;
#else
  std::uint32_t mask = 0;
  for (unsigned i = 0; i < 16; i += 2) mask |= static_cast<std::uint32_t>(line[i] == code) << i;
  return mask;
#endif
}

}  // namespace monolith
