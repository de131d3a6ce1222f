#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "text_hash.h"

namespace monolith::joining {
namespace {

// Parts of an event.
enum Part : unsigned {
  kRequest = 1,
  kItem = 2,
  kTime = 4,
  kFeatures = 8,
  kAction = 16,
  kLabel = 32,
  kType = 64,
  kVersion = 128,
  kRate = 256,
  kWeights = 512
};

constexpr unsigned kAll = kRequest | kItem | kTime | kType;
constexpr unsigned kNeeded[] = {kAll | kFeatures, kAll | kAction, kAll | kFeatures | kLabel};
constexpr unsigned kHas[] = {kNeeded[0] | kVersion, kNeeded[1] | kVersion, kNeeded[2] | kVersion | kRate | kWeights};

constexpr const char* kTypes[] = {"feature", "action", "sample"};

template <class T>
void append(std::vector<std::uint8_t>& to, const T* from, std::size_t count) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(from);
  to.insert(to.end(), bytes, bytes + count * sizeof(T));
}

// 0 for a name that no event has a part of.
unsigned part_of(std::string_view name) {
  static constexpr std::pair<std::string_view, Part> kParts[] = {
      {"type", kType}, {"request_id", kRequest}, {"item_id", kItem}, {"event_time_ms", kTime}, {"features", kFeatures},
      {"v", kVersion}, {"action", kAction},      {"label", kLabel},  {"rate", kRate},          {"weights", kWeights}};
  for (const auto& [known, part] : kParts)
    if (known == name) return part;
  return 0;
}

}  // namespace

Decoder::Decoder(EventRules rules, std::vector<Feature> features, std::vector<Task> tasks)
    : rules_(rules), features_(std::move(features)), tasks_(std::move(tasks)) {
  if (rules_.kind == Kind::joined && tasks_.empty()) throw std::invalid_argument("a joined sample needs a task");
  std::size_t singles = 0, widths = 0, bags = 0;
  for (std::size_t i = 0; i < features_.size(); ++i) {
    const Feature& feature = features_[i];
    numbers_.emplace(feature.name, i);
    const bool is_single = feature.place == Place::single || feature.place == Place::bucket;
    bits_.push_back(is_single ? singles++ : feature.place == Place::bag ? bags++ : 0);
    bucket_of_.push_back(feature.place == Place::bucket ? bucket_count_++ : 0);
    if (feature.place == Place::dense) widths += feature.width;
  }
  presence_at_ = tasks_.size() * 2 * sizeof(float);
  const std::size_t ids_at = presence_at_ + (singles + 7) / 8, dense_at = ids_at + 8 * singles,
                    bags_at = dense_at + 8 * widths;
  std::size_t before = 0;
  for (std::size_t i = 0; i < features_.size(); ++i) {
    const Feature& feature = features_[i];
    if (feature.place == Place::dense) {
      at_.push_back(dense_at + 8 * before);
      before += feature.width;
    } else {
      at_.push_back(feature.place == Place::bag ? bags_at + 4 * bits_[i] : ids_at + 8 * bits_[i]);
    }
  }
  head_bytes_ = bags_at + 4 * bags;
  bags_.resize(bags);
  met_in_.resize(features_.size());
  labels_.resize(tasks_.size());
  weights_.resize(tasks_.size());
  has_label_.resize(tasks_.size());
  has_weight_.resize(tasks_.size());
}

Events Decoder::decode(std::string_view values, const std::int64_t* ends, const std::int64_t* ingestion_ms,
                       std::size_t n) {
  Events into;
  into.fit.resize(n);
  into.event_time_ms.resize(n);
  into.bag_ends.assign(1, 0);
  into.key_ends.assign(1, 0);
  into.bag_ends.reserve(n + 1);
  into.key_ends.reserve(2 * n + 1);
  into.draws.resize(rules_.kind == Kind::shown ? n : 0);
  into.labels.resize(rules_.kind == Kind::joined ? n : 0);
  into.rates.resize(into.labels.size());
  into.actions.resize(rules_.kind == Kind::action ? n : 0);
  into.heads.resize(rules_.kind == Kind::action ? 0 : n * head_bytes_);
  into.buckets.resize(rules_.kind == Kind::action ? 0 : n * bucket_count_, kNoNumber);
  action_numbers_.clear();
  for (std::size_t i = 0; i < n; ++i) {
    const auto begin = static_cast<std::size_t>(ends[i]), end = static_cast<std::size_t>(ends[i + 1]);
    into.fit[i] = decode_one(values.substr(begin, end - begin), ingestion_ms[i], i, into);
    into.bag_ends.push_back(static_cast<std::int64_t>(into.bag_data.size()));
    if (!into.fit[i]) into.key_ends.insert(into.key_ends.end(), 2, static_cast<std::int64_t>(into.keys.size()));
  }
  return into;
}

// Writes to `into` only once the record is known to fit.
bool Decoder::decode_one(std::string_view bytes, std::int64_t ingestion_ms, std::size_t number, Events& into) {
  Cursor in(bytes);
  Event event;
  std::size_t parts;
  begin();
  if (!in.map(parts)) return false;
  for (std::size_t i = 0; i < parts; ++i) {
    std::string_view name;
    if (!in.raw_text(name) || !part(name, in, event)) return false;
  }
  const unsigned needed = kNeeded[static_cast<std::size_t>(rules_.kind)];
  std::int64_t time_ms;
  if (!in.done() || (event.seen & needed) != needed || !time_in_ms(event.time, ingestion_ms, time_ms)) return false;
  if (rules_.kind == Kind::joined && !(rate_ > 0.0 && rate_ <= 1.0 && label_block())) return false;
  write(event, time_ms, number, into);
  return true;
}

// Forgets the record before.
void Decoder::begin() {
  ++turn_;
  rate_ = 1.0;
  std::fill(has_label_.begin(), has_label_.end(), false);
  std::fill(has_weight_.begin(), has_weight_.end(), false);
  if (rules_.kind == Kind::action) return;
  head_.assign(head_bytes_, 0);
  buckets_.assign(bucket_count_, kNoNumber);
  for (auto& words : bags_) words.clear();
}

void Decoder::write(const Event& event, std::int64_t time_ms, std::size_t number, Events& into) {
  into.event_time_ms[number] = time_ms;
  for (const std::string_view text : {event.request, event.item}) {
    append(into.keys, text.data(), text.size());
    into.key_ends.push_back(static_cast<std::int64_t>(into.keys.size()));
  }
  if (rules_.kind == Kind::action) {
    into.actions[number] = action_number(event.action, into);
    return;
  }
  if (rules_.kind == Kind::shown) {
    key_.assign(event.request).push_back('\0');
    into.draws[number] = hashed(key_.append(event.item), rules_.sampling_seed);
  } else {
    into.labels[number] = static_cast<float>(labels_[0]);
    into.rates[number] = static_cast<float>(rate_);
  }
  std::copy(head_.begin(), head_.end(), into.heads.begin() + static_cast<std::ptrdiff_t>(number * head_bytes_));
  std::copy(buckets_.begin(), buckets_.end(),
            into.buckets.begin() + static_cast<std::ptrdiff_t>(number * bucket_count_));
  for (const auto& words : bags_) append(into.bag_data, words.data(), words.size());
}

// One entry of an event's map. A part that comes twice is left to Python; names that the event's type does not have
// are passed over.
bool Decoder::part(std::string_view name, Cursor& in, Event& event) {
  const unsigned part = part_of(name) & kHas[static_cast<std::size_t>(rules_.kind)];
  if (event.seen & part) return false;
  event.seen |= part;
  std::string_view type;
  std::int64_t version;
  switch (part) {
    case kRequest:
      return in.text(event.request);
    case kItem:
      return in.text(event.item);
    case kTime:
      return in.integer(event.time);
    case kType:
      return in.raw_text(type) && type == kTypes[static_cast<std::size_t>(rules_.kind)];
    case kVersion:
      return in.integer(version) && version == rules_.version;
    case kFeatures:
      return features(in);
    case kAction:
      return in.text(event.action);
    case kLabel:
      return by_task(in, true);
    case kRate:
      return in.number(rate_);
    case kWeights:
      return in.nil() || by_task(in, false);
    default:
      return messagepack::is_utf8(name) && in.skip();
  }
}

bool Decoder::time_in_ms(std::int64_t time, std::int64_t ingestion_ms, std::int64_t& time_ms) const {
  if (time < 0 || time > INT64_MAX / rules_.times_up) return false;
  time_ms = time * rules_.times_up / rules_.times_down;
  return time_ms <= rules_.latest_ms && ingestion_ms >= time_ms - rules_.most_ahead_ms;
}

std::int32_t Decoder::action_number(std::string_view action, Events& into) {
  const auto [known, is_new] =
      action_numbers_.try_emplace(std::string(action), static_cast<std::int32_t>(into.action_names.size()));
  if (is_new) into.action_names.push_back(known->first);
  return known->second;
}

// --- labels ----------------------------------------------------------------------------------------------------------

// Labels or their weights: one number where the job has one task, or a mapping from task to number.
bool Decoder::by_task(Cursor& in, bool are_labels) {
  std::size_t count;
  if (!in.map(count)) return tasks_.size() == 1 && of_task(0, in, are_labels);
  for (std::size_t i = 0; i < count; ++i) {
    std::string_view name;
    if (!in.raw_text(name)) return false;
    std::size_t task = 0;
    while (task < tasks_.size() && tasks_[task].name != name) ++task;
    if (task == tasks_.size() || (are_labels ? has_label_ : has_weight_)[task]) return false;
    if (are_labels && in.nil()) continue;
    if (!of_task(task, in, are_labels)) return false;
  }
  return true;
}

bool Decoder::of_task(std::size_t task, Cursor& in, bool is_label) {
  (is_label ? has_label_ : has_weight_)[task] = true;
  bool flag;
  if (is_label && in.flag(flag)) {
    labels_[task] = flag;
    return true;
  }
  return in.number((is_label ? labels_ : weights_)[task]);
}

// The block in front of the features; leaves in `labels_` what the block says.
bool Decoder::label_block() {
  for (std::size_t task = 0; task < tasks_.size(); ++task) {
    double label = has_label_[task] ? labels_[task] : 0.0, weight = has_weight_[task] ? weights_[task] : 1.0;
    if (has_label_[task]) {
      if (tasks_[task].binary && label != 0.0 && label != 1.0) return false;
      if (!(std::fabs(label) <= rules_.largest_label)) return false;
      if (!(weight >= 0.0 && weight <= rules_.largest_label)) return false;
    }
    if (!has_label_[task] || weight == 0.0) label = weight = 0.0;
    labels_[task] = label + 0.0;  // -0 becomes 0
    put(4 * task, static_cast<float>(labels_[task]));
    put(4 * (tasks_.size() + task), static_cast<float>(weight));
  }
  return true;
}

}  // namespace monolith::joining
