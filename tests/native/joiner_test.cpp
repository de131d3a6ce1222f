// The joiner under the sanitizers: its keyed pool against std::map, and any order of calls without a fault of memory.
#include "joiner.h"

#include <map>
#include <random>
#include <string>

#include "check.h"

using namespace monolith::joining;

namespace {

struct Thing {
  std::int64_t offset = 0;
  Text text;
};

Text key_of(unsigned number) { return Text("r" + std::to_string(number % 97), "i" + std::to_string(number / 97), "x"); }

void pool_finds_what_is_there_and_nothing_else() {
  KeyedPool<Thing> pool;
  std::map<unsigned, std::uint32_t> places;
  std::mt19937 random(1);
  for (int turn = 0; turn < 20000; ++turn) {
    const unsigned number = random() % 300;
    const auto known = places.find(number);
    CHECK(pool.find(key_of(number)) == (known == places.end() ? pool.kNone : known->second));
    if (known == places.end()) {
      Thing thing;
      thing.offset = number;
      thing.text = key_of(number);
      places[number] = pool.put(std::move(thing));
    } else {
      CHECK(pool.take(known->second).offset == number);
      places.erase(known);
    }
    CHECK(pool.size() == places.size());
  }
}

void where_a_key_is_cut_counts() {
  KeyedPool<Thing> pool;
  Thing thing;
  thing.text = Text("ab", "c", "");
  pool.put(std::move(thing));
  CHECK(pool.find(Text("a", "bc", "")) == pool.kNone);
  CHECK(pool.find(Text("", "abc", "")) == pool.kNone);
  CHECK(pool.find(Text("ab", "c", "other")) != pool.kNone);
}

Record record_of(std::mt19937& random, std::int64_t offset, std::int64_t now_ms) {
  Record record{};
  record.kind = static_cast<Kind>(random() % 3);
  record.stream = static_cast<std::uint32_t>(record.kind);
  record.partition = random() % 2;
  record.offset = offset;
  record.event_time_ms = now_ms + random() % 40;
  record.order_ms = record.event_time_ms;
  record.draw = random();
  record.rate = 1.0f;
  record.text = Text("r" + std::to_string(random() % 50), "i", std::string(8 + random() % 3 * 8, 'x'));
  return record;
}

void any_order_of_calls_ends_with_nothing_held() {
  for (const Late late : {Late::emit, Late::drop, Late::dead_letter}) {
    Joiner joiner({10, 4, 25, UINT64_MAX / 2, false, 0.5f, late}, 8, true);
    std::mt19937 random(2);
    std::int64_t now_ms = 0;
    for (std::int64_t offset = 0; offset < 20000; ++offset) {
      joiner.add(record_of(random, offset, now_ms));
      if (random() % 8 == 0) {
        now_ms += random() % 20;
        joiner.advance(now_ms, now_ms + random() % 10, now_ms + 30);
      }
      if (random() % 1000 == 0) joiner.advance(kEnd, kStart, now_ms);
      CHECK(joiner.pending().size() + joiner.waiting().size() + joiner.parked().size() < 100000);
    }
    joiner.advance(now_ms + 1000, kStart, kEnd);
    const Samples samples = joiner.take_samples();
    CHECK(samples.labels.size() == samples.late.size());
    CHECK(samples.ends.size() == 2 * samples.labels.size());
    CHECK(samples.ends.back() == samples.keys.size());
    CHECK(joiner.pending_bytes() == 0);
    CHECK(joiner.held_bytes() == 0);
    CHECK(!joiner.take_seen().empty());
    CHECK(joiner.take_late_actions().empty() == (late != Late::dead_letter));
  }
}

}  // namespace

std::vector<Test> joiner_tests() {
  return {{"a keyed pool finds what is there and nothing else", pool_finds_what_is_there_and_nothing_else},
          {"where a key is cut counts", where_a_key_is_cut_counts},
          {"any order of calls ends with nothing held", any_order_of_calls_ends_with_nothing_held}};
}
