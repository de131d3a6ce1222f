// The joiner under the sanitizers: its keyed pool against std::map, any order of calls without a fault of memory, and
// its segments, which hold together what the joiner holds.
#include "joiner.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "check.h"
#include "state.h"

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
  KeyedPool<Thing> pool, whole(true);
  Thing thing;
  thing.text = Text("ab", "c", "");
  pool.put(std::move(thing));
  CHECK(pool.find(Text("a", "bc", "")) == pool.kNone);
  CHECK(pool.find(Text("", "abc", "")) == pool.kNone);
  CHECK(pool.find(Text("ab", "c", "other")) != pool.kNone);
  Thing other;
  other.text = Text("ab", "c", "this");
  whole.put(std::move(other));
  CHECK(whole.find(Text("ab", "c", "other")) == whole.kNone);
  CHECK(whole.find(Text("ab", "c", "this")) != whole.kNone);
}

constexpr std::size_t kTasks = 3;

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
  const std::string action(1, static_cast<char>('a' + random() % 3));
  const bool is_action = record.kind == Kind::action;
  record.text = Text("r" + std::to_string(random() % 50), "i",
                     is_action ? action : std::string(kTasks * 8 + 8 + random() % 3 * 8, '\0'));
  return record;
}

JoinRules rules_of(Late late, bool gathers) {
  JoinRules rules{10, 4, 25, UINT64_MAX / 2, false, 0.5f, late};
  if (gathers) rules.tasks = {{{"a"}, false}, {{"a", "b"}, false}, {{"b"}, true}};
  return rules;
}

// The files of a joiner's saves, and the newest statuses.
struct Files {
  std::map<std::uint64_t, Columns> rows;
  std::vector<SavedSegment> segments;

  template <class T, class Add>
  void take(const SavedGroup<T>& saved, Add add) {
    segments = saved.segments;
    if (saved.added.empty()) return;
    Columns& columns = rows[segments.back().number];
    for (const T* member : saved.added) add(columns, *member);
  }
  Columns all(Group group) const {
    std::vector<SegmentViews> views;
    for (const SavedSegment& segment : segments) {
      const Columns& of = rows.at(segment.number);
      views.push_back({{bytes(of.numbers), bytes(of.lengths), of.texts}, segment.statuses});
    }
    return merged(group, views);
  }

 private:
  template <class T>
  static std::string_view bytes(const std::vector<T>& column) {
    return {reinterpret_cast<const char*>(column.data()), column.size() * sizeof(T)};
  }
};

bool same(const Columns& a, const Columns& b) {
  return a.numbers == b.numbers && a.lengths == b.lengths && a.texts == b.texts;
}

void segments_hold_what_the_joiner_holds() {
  for (const bool gathers : {false, true}) {
    Joiner joiner(rules_of(Late::emit, gathers), 8 * kTasks + 8, false);
    Files pending, waiting, parked;
    std::mt19937 random(3);
    std::int64_t now_ms = 0;
    const auto plain = [](Columns& to, const auto& member) { to.add(member); };
    for (std::int64_t offset = 0; offset < 10000; ++offset) {
      joiner.add(record_of(random, offset, now_ms));
      if (random() % 8 == 0) joiner.advance(now_ms += random() % 5, kStart, kEnd);
      if (random() % 32 != 0) continue;
      const bool whole = random() % 32 == 0;
      pending.take(joiner.save_pending(whole), plain);
      waiting.take(joiner.save_waiting(whole), [&](Columns& to, const Waiting& entry) { to.add(entry, joiner); });
      parked.take(joiner.save_parked(whole), plain);
      CHECK(same(pending.all(Group::pending), pending_of(joiner)));
      CHECK(same(waiting.all(Group::waiting), waiting_of(joiner)));
      CHECK(same(parked.all(Group::parked), parked_of(joiner)));
    }
  }
}

void gathered_labels_lie_in_front_of_the_row() {
  Joiner joiner(rules_of(Late::emit, true), 8 * kTasks + 8, false);
  const auto add = [&](Kind kind, std::int64_t time_ms, std::string_view rest, float value) {
    Record record{};
    record.kind = kind;
    record.event_time_ms = record.order_ms = time_ms;
    record.offset = time_ms;
    record.label = value;
    record.text = Text("r", "i", rest);
    joiner.add(std::move(record));
  };
  add(Kind::shown, 1, std::string(8 * kTasks + 8, '\0'), 0.0f);
  add(Kind::action, 2, "a", 5.0f);
  add(Kind::action, 3, "b", 2.5f);
  joiner.advance(3, kStart, kEnd);
  const Samples samples = joiner.take_samples();
  CHECK(samples.labels.size() == 1);
  float block[2 * kTasks];
  std::memcpy(block, samples.heads.data(), sizeof block);
  const float expected[] = {1.0f, 1.0f, 2.5f, 1.0f, 1.0f, 1.0f};
  CHECK(std::memcmp(block, expected, sizeof block) == 0);
}

// What a sample is told apart by, behind its turn.
std::vector<std::pair<Turn, std::string>> told(const Samples& samples) {
  std::vector<std::pair<Turn, std::string>> all;
  for (std::size_t i = 0; i < samples.turns.size(); ++i) {
    const std::uint32_t begin = i == 0 ? 0 : samples.ends[2 * i - 1];
    all.emplace_back(samples.turns[i], samples.keys.substr(begin, samples.ends[2 * i + 1] - begin) +
                                           std::to_string(samples.labels[i]) + std::to_string(samples.late[i]));
  }
  return all;
}

auto tied(const Turn& turn) { return std::tie(turn.released, turn.time_ms, turn.kind, turn.partition, turn.offset); }

void turns_put_the_samples_of_two_joiners_in_the_order_of_one() {
  JoinRules rules = rules_of(Late::emit, false);
  rules.co_partitioned = rules.tells_turns = true;
  Joiner whole(rules, 8 * kTasks + 8, false), first(rules, 8 * kTasks + 8, false), second(rules, 8 * kTasks + 8, false);
  std::mt19937 random(4);
  std::int64_t now_ms = 0;
  std::size_t compared = 0;
  for (std::int64_t offset = 0; offset < 20000; ++offset) {
    const std::mt19937 before = random;
    Record record = record_of(random, offset, now_ms);
    random = before;
    Record again = record_of(random, offset, now_ms);
    const std::uint32_t partition = record.text.request().back() % 2;  // those of one request are together
    record.partition = again.partition = partition;
    whole.add(std::move(record));
    (partition == 0 ? first : second).add(std::move(again));
    if (random() % 8 != 0) continue;
    now_ms += random() % 20;
    const std::int64_t until_ms = random() % 500 == 0 ? kEnd : now_ms;
    const std::int64_t released_ms = until_ms == kEnd ? kStart : now_ms + random() % 10;
    const std::int64_t last_ms = std::max(first.last_ms(), second.last_ms());
    CHECK(whole.last_ms() == last_ms);
    whole.advance(until_ms, released_ms, now_ms + 30);
    for (Joiner* joiner : {&first, &second}) joiner->advance(until_ms, released_ms, now_ms + 30, last_ms);
    const auto one = told(whole.take_samples()), more = told(second.take_samples());
    auto both = told(first.take_samples());
    both.insert(both.end(), more.begin(), more.end());
    std::stable_sort(both.begin(), both.end(),
                     [](const auto& a, const auto& b) { return tied(a.first) < tied(b.first); });
    CHECK(one.size() == both.size());
    for (std::size_t i = 0; i < one.size(); ++i) CHECK(one[i].second == both[i].second);
    compared += one.size();
  }
  CHECK(compared > 1000);
  CHECK(whole.crossed() == 0);
}

template <bool gathers>
void any_order_of_calls_ends_with_nothing_held() {
  for (const Late late : {Late::emit, Late::drop, Late::dead_letter}) {
    Joiner joiner(rules_of(late, gathers), 8 * kTasks + 8, true);
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
          {"any order of calls ends with nothing held", any_order_of_calls_ends_with_nothing_held<false>},
          {"so it does where labels are gathered", any_order_of_calls_ends_with_nothing_held<true>},
          {"turns put the samples of two joiners in the order of one",
           turns_put_the_samples_of_two_joiners_in_the_order_of_one},
          {"segments hold what the joiner holds", segments_hold_what_the_joiner_holds},
          {"gathered labels lie in front of the row", gathered_labels_lie_in_front_of_the_row}};
}
