// The widest vector instructions of the machine at run time, and the compiler's plain ones where it has none of those.
// Rows are computed column by column in IEEE operations, so the width changes no bit.
#pragma once

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace monolith {

enum class Simd { portable, avx2 };

// What the machine has, unless the environment says MONOLITH_SIMD=portable.
inline Simd detected_simd() {
#if defined(__x86_64__)
  const char* wanted = std::getenv("MONOLITH_SIMD");
  const bool portable = wanted != nullptr && std::strcmp(wanted, "portable") == 0;
  if (!portable && __builtin_cpu_supports("avx2")) return Simd::avx2;
#endif
  return Simd::portable;
}

inline std::atomic<Simd>& simd() {
  static std::atomic<Simd> level{detected_simd()};
  return level;
}

#if defined(__x86_64__)
// Everything that `work` calls is compiled anew in here, for these instructions.
template <class Work>
[[gnu::target("avx2,bmi,bmi2,lzcnt,popcnt"), gnu::flatten]] void with_avx2(const Work& work) {
  const Work copied = work;
  copied();
}
#endif

// What `work` captured by value is copied, so that no store can change it, as far as the compiler knows, and it stays
// in registers.
template <class Work>
void with_simd(const Work& work) {
#if defined(__x86_64__)
  if (simd().load(std::memory_order_relaxed) == Simd::avx2) return with_avx2(work);
#endif
  const Work copied = work;
  copied();
}

}  // namespace monolith
