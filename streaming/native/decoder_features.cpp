// The features of one event, into the head and the bags of the record at hand.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "decoder.h"
#include "text_hash.h"

namespace monolith::joining {
namespace {

std::int64_t bits_of(double value) {
  std::int64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

}  // namespace

bool Decoder::features(Cursor& in) {
  std::size_t count, expected = 0, met = 0;
  if (!in.map(count)) return false;
  for (std::size_t i = 0; i < count; ++i) {
    std::string_view name;
    if (!in.raw_text(name)) return false;
    const std::size_t number = number_of(name, expected);
    if (number == kNone) {
      if (!rules_.ignores_unknown || !messagepack::is_utf8(name) || !in.skip()) return false;
      continue;
    }
    if (met_in_[number] == turn_ || !value(number, in)) return false;
    met_in_[number] = turn_;
    expected = number + 1;
    ++met;
  }
  if (met == features_.size()) return true;
  for (std::size_t number = 0; number < features_.size(); ++number)
    if (met_in_[number] != turn_ && !missing(number)) return false;
  return true;
}

// Producers send features in the same order each time, so the next one is nearly always the expected one.
std::size_t Decoder::number_of(std::string_view name, std::size_t expected) const {
  if (expected < features_.size() && features_[expected].name == name) return expected;
  const auto known = numbers_.find(name);
  return known == numbers_.end() ? kNone : known->second;
}

bool Decoder::value(std::size_t number, Cursor& in) {
  const Feature& feature = features_[number];
  if (in.nil()) return missing(number);
  if (feature.place == Place::bag) return bag(number, in);
  if (feature.place == Place::dense) return dense(number, in);
  if (feature.place == Place::bucket) return bucket(number, in);
  std::int64_t id;
  if (!id_of(feature, in, id)) return false;
  put_id(number, id);
  return true;
}

bool Decoder::missing(std::size_t number) {
  const Feature& feature = features_[number];
  if (!feature.takes_missing) return false;
  if (feature.place == Place::bag) {
    bags_[bits_[number]] = feature.ids;
    put_bag(number, feature.ids.size(), false);
  } else if (feature.place == Place::dense) {
    for (std::size_t i = 0; i < feature.numbers.size(); ++i) put(at_[number] + 8 * i, feature.numbers[i]);
  } else if (!feature.ids.empty()) {
    put_id(number, feature.ids[0]);
  }
  return true;
}

bool Decoder::id_of(const Feature& feature, Cursor& in, std::int64_t& id) {
  if (feature.value == Value::integer) return in.integer(id);
  if (feature.value == Value::text) {
    std::string_view text;
    if (!in.text(text)) return false;
    id = static_cast<std::int64_t>(hashed(text, feature.seed));
    return true;
  }
  bool flag;
  if (feature.value != Value::flag || !in.flag(flag)) return false;
  id = flag;
  return true;
}

bool Decoder::bucket(std::size_t number, Cursor& in) {
  const Feature& feature = features_[number];
  double value;
  if (!in.number(value) || std::isinf(value)) return false;
  if (std::isnan(value)) {
    if (!feature.nan.empty()) put_id(number, feature.nan[0]);
    return true;
  }
  buckets_[bucket_of_[number]] = value;
  put_id(number, 0);
  return true;
}

bool Decoder::dense(std::size_t number, Cursor& in) {
  const Feature& feature = features_[number];
  if (feature.value == Value::flag) {
    bool flag;
    if (!in.flag(flag)) return false;
    put(at_[number], flag ? 1.0 : 0.0);
    return true;
  }
  std::size_t count = 1;
  if (feature.width > 1 && (!in.array(count) || count != feature.width)) return false;
  for (std::size_t i = 0; i < count; ++i) {
    double one = kNoNumber;
    const bool may_miss = feature.width > 1 && in.nil();
    if (!may_miss && (!in.number(one) || std::isinf(one))) return false;
    put(at_[number] + 8 * i, one);
  }
  return true;
}

bool Decoder::bag(std::size_t number, Cursor& in) {
  std::vector<std::int64_t>& words = bags_[bits_[number]];
  std::size_t count;
  if (in.map(count)) return weighted_bag(number, count, in);
  if (!in.array(count)) return false;
  for (std::size_t i = 0; i < count; ++i) {
    std::int64_t id;
    if (!id_of(features_[number], in, id)) return false;
    words.push_back(id);
  }
  put_bag(number, count, false);
  return true;
}

// A mapping with an id twice is left to Python, where the last one counts.
bool Decoder::weighted_bag(std::size_t number, std::size_t count, Cursor& in) {
  std::vector<std::int64_t>& words = bags_[bits_[number]];
  weights_of_ids_.clear();
  for (std::size_t i = 0; i < count; ++i) {
    std::int64_t id;
    double weight;
    if (!id_of(features_[number], in, id) || !in.number(weight) || !(std::fabs(weight) <= rules_.largest_weight))
      return false;
    words.push_back(id);
    weights_of_ids_.push_back(weight);
  }
  sorted_ = words;
  std::sort(sorted_.begin(), sorted_.end());
  if (std::adjacent_find(sorted_.begin(), sorted_.end()) != sorted_.end()) return false;
  for (const double weight : weights_of_ids_) words.push_back(bits_of(weight));
  put_bag(number, count, count > 0);
  return true;
}

void Decoder::put_bag(std::size_t number, std::size_t ids, bool weighted) {
  put(at_[number], static_cast<std::uint32_t>(2 * ids + weighted));
}

void Decoder::put_id(std::size_t number, std::int64_t id) {
  head_[presence_at_ + bits_[number] / 8] |= static_cast<std::uint8_t>(1u << bits_[number] % 8);
  put(at_[number], id);
}

}  // namespace monolith::joining
