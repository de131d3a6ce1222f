// The decoder under the sanitizers: one event by hand, then whatever damage does to events and to lists of records.
#include "decoder.h"

#include <random>
#include <string>

#include "check.h"
#include "records.h"

using namespace monolith::joining;

namespace {

std::string text(const std::string& value) {
  return std::string(1, static_cast<char>(0xA0 + value.size())) + value;  // up to 31 bytes
}
std::string small_map(std::size_t entries) { return std::string(1, static_cast<char>(0x80 + entries)); }

std::string features() {
  const std::string half("\xCB\x3F\xE0\0\0\0\0\0\0", 9);  // 0.5
  return small_map(6) + text("id") + '\x07' + text("word") + text("Z\xC3\xBCrich") + text("step") + half +
         text("dense") + "\x92" + half + "\xC0" + text("bag") + "\x93\x01\x02\xD0\xFF" + text("weighted") + "\x81" +
         text("a") + half;
}
std::string head(const std::string& type, std::size_t entries) {
  const std::string time("\xCE\x00\x00\x03\xE8", 5);  // 1000
  return small_map(entries) + text("type") + text(type) + text("request_id") + text("r") + text("item_id") +
         text("i7") + text("event_time_ms") + time;
}
std::string event_of(Kind kind) {
  if (kind == Kind::shown) return head("feature", 5) + text("features") + features();
  if (kind == Kind::action) return head("action", 5) + text("action") + text("click");
  return head("sample", 7) + text("features") + features() + text("label") + "\x81" + text("click") + "\xC3" +
         text("weights") + "\x81" + text("click") + "\x02";
}

std::vector<Feature> job_features() {
  return {{"id", Value::integer, Place::single, 1, 0, true, {}, {}, {}},
          {"word", Value::text, Place::single, 1, 5, true, {9}, {}, {}},
          {"step", Value::number, Place::bucket, 1, 0, true, {}, {}, {4}},
          {"dense", Value::number, Place::dense, 2, 0, true, {}, {0.0, 0.0}, {}},
          {"bag", Value::integer, Place::bag, 1, 0, false, {}, {}, {}},
          {"weighted", Value::text, Place::bag, 1, 6, true, {3}, {}, {}}};
}
Decoder decoder_of(Kind kind, bool ignores_unknown = false) {
  std::vector<Task> tasks;
  if (kind == Kind::joined) tasks = {{"click", true}, {"price", false}};
  return Decoder({kind, ignores_unknown, 1, 1, 1, 1'000'000, 1000, 1e6, 1e6, 1},
                 kind == Kind::action ? std::vector<Feature>{} : job_features(), tasks);
}

Events decoded(Decoder& decoder, const std::vector<std::string>& values) {
  std::string all;
  std::vector<std::int64_t> ends{0}, ingestion_ms(values.size(), 1000);
  for (const std::string& value : values) {
    all += value;
    ends.push_back(static_cast<std::int64_t>(all.size()));
  }
  const std::string exact(all.begin(), all.end());  // a read behind the end is a read behind the allocation
  return decoder.decode(exact, ends.data(), ingestion_ms.data(), values.size());
}

void check_shape(const Decoder& decoder, Kind kind, const Events& events) {
  const std::size_t n = events.fit.size();
  CHECK(events.event_time_ms.size() == n);
  CHECK(events.bag_ends.size() == n + 1 && events.key_ends.size() == 2 * n + 1);
  CHECK(events.bag_ends.back() == static_cast<std::int64_t>(events.bag_data.size()));
  CHECK(events.key_ends.back() == static_cast<std::int64_t>(events.keys.size()));
  for (std::size_t i = 0; i < 2 * n; ++i) CHECK(events.key_ends[i] <= events.key_ends[i + 1]);
  for (std::size_t i = 0; i < n; ++i) CHECK(events.bag_ends[i] <= events.bag_ends[i + 1]);
  CHECK(events.heads.size() == (kind == Kind::action ? 0 : n * decoder.head_bytes()));
  for (const std::int32_t action : events.actions)
    CHECK(action >= 0 && static_cast<std::size_t>(action) <= events.action_names.size());
}

void an_event_is_packed_as_its_features_say() {
  Decoder decoder = decoder_of(Kind::shown);
  const Events events = decoded(decoder, {event_of(Kind::shown), "", event_of(Kind::action), event_of(Kind::shown)});
  check_shape(decoder, Kind::shown, events);
  CHECK((events.fit == std::vector<std::uint8_t>{1, 0, 0, 1}));
  CHECK(std::string(events.keys.begin(), events.keys.end()) == "ri7ri7");
  CHECK((events.bag_ends == std::vector<std::int64_t>{0, 40, 40, 40, 80}));  // three ids, an id and its weight
  CHECK(decoder.head_bytes() == 1 + 3 * 8 + 2 * 8 + 2 * 4);
  std::int64_t id;
  std::memcpy(&id, events.heads.data() + 1, 8);
  CHECK(events.heads[0] == 7 && id == 7);
  CHECK(events.buckets[0] == 0.5 && events.event_time_ms[0] == 1000);
}

std::string damaged(std::mt19937& random, std::string value) {
  const std::size_t place = random() % value.size();
  switch (random() % 5) {
    case 0:
      return value.substr(0, place);
    case 1:
      value[place] = static_cast<char>(random());
      return value;
    case 2:
      return value.insert(place, 1, static_cast<char>(random()));
    case 3:
      return value.erase(place, 1 + random() % 4);
    default:
      for (int i = 0; i < 4; ++i) value[random() % value.size()] = static_cast<char>(random());
      return value;
  }
}

void damaged_events_are_decoded_without_a_fault_of_memory() {
  for (const Kind kind : {Kind::shown, Kind::action, Kind::joined}) {
    Decoder strict = decoder_of(kind), lenient = decoder_of(kind, true);
    std::mt19937 random(1);
    CHECK(decoded(strict, {event_of(kind)}).fit[0] == 1);
    for (int turn = 0; turn < 20000; ++turn) {
      std::string once = damaged(random, event_of(kind));
      std::string twice = once.empty() ? once : damaged(random, once);
      for (Decoder* decoder : {&strict, &lenient})
        check_shape(*decoder, kind, decoded(*decoder, {once, event_of(kind), twice}));
    }
  }
}

void damaged_lists_of_records_are_split_without_a_fault_of_memory() {
  const std::string list = std::string("\x93\x93\xC4\x01k\xC4\x02vv\x05\x93\xC0\xC0\xD0\xFF\x93\xC4\x00", 18) +
                           std::string("\xC4\x03xyz\x00", 6);
  Split parts;
  CHECK(split(list, parts));
  CHECK((parts.value_ends == std::vector<std::int64_t>{0, 2, 2, 5}));
  CHECK((parts.no_key == std::vector<std::uint8_t>{0, 1, 0}));
  CHECK((parts.event_time_ms == std::vector<std::int64_t>{5, -1, 0}));
  std::mt19937 random(1);
  for (int turn = 0; turn < 100000; ++turn) {
    Split some;
    const std::string damage = damaged(random, list);
    if (split(damage, some)) CHECK(some.value_ends.size() == some.event_time_ms.size() + 1);
  }
}

}  // namespace

std::vector<Test> decoder_tests() {
  return {
      {"an event is packed as its features say", an_event_is_packed_as_its_features_say},
      {"damaged events are decoded without a fault of memory", damaged_events_are_decoded_without_a_fault_of_memory},
      {"damaged lists of records are split without a fault of memory",
       damaged_lists_of_records_are_split_without_a_fault_of_memory}};
}
