// How a row's values lie in memory: as float32, or in 16 bits, rounded up or down by chance in proportion to what is
// nearer, so that steps smaller than the spacing are not lost but taken now and then. The chance is 32 given bits, so
// the result is a function of its arguments. A value that fits is kept exactly; finite ones stay finite.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace monolith {

enum class Storage { float32, bfloat16, float16 };

inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

constexpr std::uint32_t kInfinity = 0x7F800000u;

struct BFloat16 {  // the upper half of a float32
  static std::uint16_t encode(float x, std::uint32_t chance) {
    const std::uint32_t bits = bits_of(x), size = bits & 0x7FFFFFFFu, sign = (bits >> 16) & 0x8000u;
    if (size >= kInfinity) return static_cast<std::uint16_t>(sign | (size > kInfinity ? 0x7FC0u : 0x7F80u));
    return static_cast<std::uint16_t>(sign | std::min((size + (chance >> 16)) >> 16, 0x7F7Fu));
  }
  static float decode(std::uint16_t half) { return float_of(std::uint32_t{half} << 16); }
};

struct Float16 {  // IEEE binary16
  static std::uint16_t encode(float x, std::uint32_t chance) {
    const std::uint32_t bits = bits_of(x), size = bits & 0x7FFFFFFFu, sign = (bits >> 16) & 0x8000u;
    if (size >= kInfinity) return static_cast<std::uint16_t>(sign | (size > kInfinity ? 0x7E00u : 0x7C00u));
    if (size < kSmallestNormal) return static_cast<std::uint16_t>(sign | encode_small(float_of(size), chance));
    const std::uint32_t rounded = (std::min(size, kTooLarge) + (chance >> 19) - kBias) >> 13;
    return static_cast<std::uint16_t>(sign | std::min(rounded, 0x7BFFu));
  }
  static float decode(std::uint16_t half) {
    const std::uint32_t size = half & 0x7FFFu, sign = (half & 0x8000u) << 16;
    const float small = float_of(kSmallestNormal + (size << 13)) - 0x1p-14f;  // exact where size < 0x400
    const std::uint32_t wide = (size << 13) + (size < 0x7C00u ? kBias : 0x70000000u);
    return float_of(sign | (size < 0x400u ? bits_of(small) : wide));
  }

 private:
  static constexpr std::uint32_t kBias = 0x38000000u;            // of the exponents: 127 - 15
  static constexpr std::uint32_t kSmallestNormal = 0x38800000u;  // 2^-14
  static constexpr std::uint32_t kTooLarge = 0x47800000u;        // 2^16

  static std::uint32_t encode_small(float x, std::uint32_t chance) {  // in steps of 2^-24
    const float steps = x * 0x1p24f;
    const auto whole = static_cast<std::uint32_t>(steps);
    return whole + (static_cast<double>(chance) * 0x1p-32 < static_cast<double>(steps - static_cast<float>(whole)));
  }
};

}  // namespace monolith
