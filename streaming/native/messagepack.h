// A reader of MessagePack that says no to everything that it is not sure of: damage, and whatever a stricter or a more
// lenient reader might take another way. Nothing is copied; a failed read leaves the cursor anywhere.
//
// Format: https://github.com/msgpack/msgpack/blob/master/spec.md. Numbers are big-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace monolith::messagepack {

// Whether Python would decode the bytes as UTF-8: no overlong form, no surrogate, nothing above U+10FFFF.
inline bool is_utf8(std::string_view text) {
  const auto* at = reinterpret_cast<const unsigned char*>(text.data());
  const auto* end = at + text.size();
  while (at < end) {
    for (std::uint64_t word; end - at >= 8; at += 8) {
      std::memcpy(&word, at, 8);
      if (word & 0x8080808080808080u) break;
    }
    if (at == end) break;
    const unsigned char first = *at++;
    if (first < 0x80) continue;
    const int more = first >= 0xC2 && first <= 0xDF ? 1 : first >= 0xE0 && first <= 0xEF ? 2 : 3;
    if (first < 0xC2 || first > 0xF4 || end - at < more) return false;
    unsigned char least = 0x80, most = 0xBF;  // of the second byte
    if (first == 0xE0) least = 0xA0;
    if (first == 0xED) most = 0x9F;
    if (first == 0xF0) least = 0x90;
    if (first == 0xF4) most = 0x8F;
    if (*at < least || *at > most) return false;
    for (int i = 1; i < more; ++i)
      if ((at[i] & 0xC0) != 0x80) return false;
    at += more;
  }
  return true;
}

class Cursor {
 public:
  explicit Cursor(std::string_view bytes) : at_(bytes.data()), end_(bytes.data() + bytes.size()) {}

  bool done() const { return at_ == end_; }
  // The type byte of the next value; 0xC1, which no value has, at the end.
  std::uint8_t peek() const { return at_ == end_ ? 0xC1 : static_cast<std::uint8_t>(*at_); }

  bool nil() { return take(0xC0); }

  bool flag(bool& value) {
    value = peek() == 0xC3;
    return take(0xC2) || take(0xC3);
  }

  // An integer that fits int64.
  bool integer(std::int64_t& value) {
    std::uint64_t big;
    return whole(value, big) && big == 0;
  }

  // A float, or an integer as Python converts it.
  bool number(double& value) {
    const std::uint8_t type = peek();
    if (type == 0xCA) {
      float small;
      if (!word(small)) return false;
      value = small;
      return true;
    }
    if (type == 0xCB) return word(value);
    std::int64_t small;
    std::uint64_t big;
    if (!whole(small, big)) return false;
    value = big ? static_cast<double>(big) : static_cast<double>(small);
    return true;
  }

  // Text as it stands there, maybe no UTF-8.
  bool raw_text(std::string_view& text) {
    const std::uint8_t type = peek();
    std::size_t size = type & 0x1F;
    if ((type & 0xE0) == 0xA0)
      ++at_;
    else if (!length(type, 0xD9, size))
      return false;
    return bytes(size, text);
  }
  bool text(std::string_view& text) { return raw_text(text) && is_utf8(text); }

  bool binary(std::string_view& data) {
    std::size_t size;
    return length(peek(), 0xC4, size) && bytes(size, data);
  }

  bool array(std::size_t& count) { return container(count, 0x90, 0xDC); }
  bool map(std::size_t& count) { return container(count, 0x80, 0xDE); }

  // Passes over a value of any kind but an extension; texts must be UTF-8.
  bool skip(int depth = 0) {
    if (depth > kDeepest) return false;
    std::int64_t whole_number;
    std::uint64_t big;
    double number_;
    bool flag_;
    std::string_view part;
    std::size_t count;
    const std::uint8_t type = peek();
    if (type <= 0x7F || type >= 0xE0 || (type >= 0xCC && type <= 0xD3)) return whole(whole_number, big);
    if (type == 0xCA || type == 0xCB) return number(number_);
    if (type == 0xC0) return nil();
    if (type == 0xC2 || type == 0xC3) return flag(flag_);
    if ((type & 0xE0) == 0xA0 || (type >= 0xD9 && type <= 0xDB)) return text(part);
    if (type >= 0xC4 && type <= 0xC6) return binary(part);
    if (map(count)) {
      for (std::size_t i = 0; i < count; ++i)
        if (!skip(depth + 1) || !skip(depth + 1)) return false;
      return true;
    }
    if (!array(count)) return false;
    for (std::size_t i = 0; i < count; ++i)
      if (!skip(depth + 1)) return false;
    return true;
  }

 private:
  static constexpr int kDeepest = 16;

  bool take(std::uint8_t type) {
    if (peek() != type) return false;
    ++at_;
    return true;
  }

  bool bytes(std::size_t size, std::string_view& part) {
    if (size > static_cast<std::size_t>(end_ - at_)) return false;
    part = {at_, size};
    at_ += size;
    return true;
  }

  template <class T>
  static T swapped(T value) {
    unsigned char raw[sizeof(T)], turned[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    for (std::size_t i = 0; i < sizeof(T); ++i) turned[i] = raw[sizeof(T) - 1 - i];
    std::memcpy(&value, turned, sizeof(T));
    return value;
  }

  // The value behind a type byte.
  template <class T>
  bool word(T& value) {
    if (static_cast<std::size_t>(end_ - at_) < 1 + sizeof(T)) return false;
    std::memcpy(&value, at_ + 1, sizeof(T));
    value = swapped(value);  // the machines that this is built for are little-endian, as the packed rows are
    at_ += 1 + sizeof(T);
    return true;
  }

  template <class T>
  bool whole_word(std::int64_t& value) {
    T part;
    if (!word(part)) return false;
    value = static_cast<std::int64_t>(part);
    return true;
  }

  // An integer: `value`, or, beyond int64, `big`, which is 0 otherwise.
  bool whole(std::int64_t& value, std::uint64_t& big) {
    big = 0;
    const std::uint8_t type = peek();
    if (type <= 0x7F || type >= 0xE0) {
      value = static_cast<std::int8_t>(type);
      ++at_;
      return true;
    }
    switch (type) {
      case 0xCC:
        return whole_word<std::uint8_t>(value);
      case 0xCD:
        return whole_word<std::uint16_t>(value);
      case 0xCE:
        return whole_word<std::uint32_t>(value);
      case 0xCF:
        if (!whole_word<std::uint64_t>(value)) return false;
        if (value < 0) big = static_cast<std::uint64_t>(value);
        return true;
      case 0xD0:
        return whole_word<std::int8_t>(value);
      case 0xD1:
        return whole_word<std::int16_t>(value);
      case 0xD2:
        return whole_word<std::int32_t>(value);
      case 0xD3:
        return whole_word<std::int64_t>(value);
      default:
        return false;
    }
  }

  // A length of 8, 16 or 32 bits behind the types `first`, `first` + 1 and `first` + 2.
  bool length(std::uint8_t type, std::uint8_t first, std::size_t& size) {
    std::int64_t value;
    bool there = false;
    if (type == first) there = whole_word<std::uint8_t>(value);
    if (type == first + 1) there = whole_word<std::uint16_t>(value);
    if (type == first + 2) there = whole_word<std::uint32_t>(value);
    if (there) size = static_cast<std::size_t>(value);
    return there;
  }

  bool container(std::size_t& count, std::uint8_t small, std::uint8_t first) {
    const std::uint8_t type = peek();
    if ((type & 0xF0) == small) {
      count = type & 0x0F;
      ++at_;
      return true;
    }
    std::int64_t value;
    bool there = false;
    if (type == first) there = whole_word<std::uint16_t>(value);
    if (type == first + 1) there = whole_word<std::uint32_t>(value);
    if (there) count = static_cast<std::size_t>(value);
    return there;
  }

  const char *at_, *end_;
};

}  // namespace monolith::messagepack
