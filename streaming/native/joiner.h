// What waits in the joiner, and the rules by which it comes out: features and actions in, labelled samples out.
//
// `streaming/joiner.py` says what the rules are; `tests/streaming/python_joiner.py` says them once more in Python, and
// the two are held to each other. Here is how little a waiting key takes: one Entry, one allocation that holds request,
// item and packed row, half a slot of a table and one timer. Everything is worked off by (order time, stream,
// partition, offset), so nothing depends on addresses, hashes or the order in which records were added.
//
// Not thread safe. A call that throws std::bad_alloc leaves the joiner fit for destruction only.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "keys.h"
#include "ordered_queue.h"
#include "segments.h"

namespace monolith::joining {

constexpr std::int64_t kStart = INT64_MIN;  // before any event
constexpr std::int64_t kEnd = INT64_MAX;

enum class Late { emit, drop, dead_letter };

constexpr std::size_t kMostTasks = 16;  // bits of Waiting::seen

// A label that actions make: 1, or the action's value.
struct JoinTask {
  std::vector<std::string> actions;
  bool takes_value;
};

struct JoinRules {
  std::int64_t window_ms, early_ms, dedup_ms;
  std::uint64_t keep_below;  // a negative is kept if its draw is below
  bool keep_all;
  float rate;
  Late late;
  // With tasks a row begins with the label of each, then the weight of each (float32), as they are without any action;
  // and a kept negative's weights count so many times. Without, every action that is not ignored makes the one label.
  std::vector<JoinTask> tasks = {};
  float negative_weight = 1.0f;
  // The features and the actions of a request are in partitions of one number: others do not find each other.
  bool co_partitioned = false;
  bool tells_turns = false;  // see Turn
};

enum class Kind : std::uint8_t { shown, action, joined };

// One record on its way to its order time. `text` is request, item, then a packed row or the name of an action.
struct Record {
  std::int64_t order_ms, offset, ingestion_ms, event_time_ms;
  std::uint32_t stream, partition;
  std::uint64_t draw;  // of features: decides whether the negative is kept
  float label, rate;   // of joined samples; the label of an action is its value
  Kind kind;
  bool ignored;       // an action that makes no label
  bool fresh = true;  // in no segment of a snapshot
  Text text;
};

// A key whose features came. The row is dropped once it is not needed any more.
struct Waiting {
  std::int64_t event_time_ms, offset, deadline_ms, forget_ms;
  std::uint64_t draw;
  std::uint32_t partition;
  std::uint16_t seen;  // the tasks that an action came for, a bit each
  bool open : 1;       // the window has not ended, and not every task has its action
  bool fresh : 1;      // in no segment of a snapshot as it is now, but for `open` and a row that was dropped
  Text text;
};

// An action that waits for its features.
struct Parked {
  std::int64_t event_time_ms, offset, ingestion_ms, expire_ms;
  std::uint32_t partition;
  float value;
  Text text;
  bool fresh = true;  // in no segment of a snapshot
};

// Memory that each takes, with its places in a pool, a table and the timers.
constexpr std::size_t kAllocation = 16;  // what malloc takes beside the bytes asked for
constexpr std::size_t kSlot = 12;        // of a table at its usual load
inline std::size_t bytes_of(const Record& record) { return sizeof(Record) + 32 + kAllocation + record.text.size(); }
inline std::size_t bytes_of(const Waiting& entry) {
  return sizeof(Waiting) + 32 + kSlot + kAllocation + entry.text.size();
}
inline std::size_t bytes_of(const Parked& parked) {
  return sizeof(Parked) + 32 + kSlot + kAllocation + parked.text.size();
}

// Whose turn it is when a sample is made, whichever joiner makes it: samples of joiners that have different partitions,
// sorted by it, are in the order of one joiner that has all of them.
struct Turn {
  std::int64_t released;  // 1: by silence, behind all that the watermark lets go
  std::int64_t time_ms;   // of the record that made it, or of the timer
  std::int64_t kind;      // the record's stream; timers come behind all records of their instant
  std::int64_t partition, offset;
};

// Samples in order, as columns. Rows are cut into their heads, which have one length, and what follows.
struct Samples {
  std::vector<std::int64_t> event_time_ms, ingestion_ms;
  std::vector<float> labels, rates;
  std::vector<std::uint8_t> late;
  std::string heads, bag_data;
  std::string keys;                 // request and item of each sample, one after the other
  std::vector<std::uint32_t> ends;  // in `keys`, two a sample
  std::vector<Turn> turns;          // where the rules tell them
};

// A feature event that is not a repeat, in the order of samples: `before` samples came first.
struct Seen {
  std::size_t before;
  std::int64_t event_time_ms;
  std::string request, item, row;
};

struct Counters {
  std::uint64_t positives = 0, negatives = 0, late = 0, sampled_out = 0, passed = 0, duplicate_features = 0,
                duplicate_actions = 0, unmatched_actions = 0, ignored_actions = 0;
};

class Joiner {
 public:
  // Throws std::invalid_argument for more than kMostTasks tasks, and for heads that have no room for their labels.
  Joiner(const JoinRules& rules, std::size_t head_bytes, bool tells_seen);
  Joiner(const Joiner&) = delete;
  Joiner& operator=(const Joiner&) = delete;

  void add(Record record);  // throws std::invalid_argument for a row that has no whole head, before anything changes

  std::int64_t pending_ms() const { return pending_.empty() ? kEnd : records_[pending_.front().place].order_ms; }
  std::int64_t due_ms() const;
  // The order time of the last record that waits; kStart if none does. Looks at each of them.
  std::int64_t last_ms() const;
  // `last_ms`: that of joiners which have other partitions. An end goes through the time up to the last of all.
  void advance(std::int64_t watermark_ms, std::int64_t released_ms, std::int64_t newest_ms,
               std::int64_t last_ms = kStart);

  // What advance() and those before it have made since the last call of these.
  Samples take_samples();
  std::vector<Seen> take_seen();
  std::vector<Parked> take_late_actions();

  std::size_t pending_bytes() const { return pending_bytes_; }
  std::size_t held_bytes() const { return held_bytes_; }
  Counters& counters() { return counters_; }
  std::int64_t& newest_ingestion_ms() { return newest_ingestion_ms_; }

  // Everything that waits, in canonical order, for a snapshot; and back, into an empty joiner.
  std::vector<const Record*> pending() const;
  std::vector<const Waiting*> waiting() const;
  std::vector<const Parked*> parked() const;
  void put(Waiting entry);  // of a key that is not there
  void put(Parked action);
  std::uint64_t crossed() const { return crossed_; }  // actions whose features are in another partition
  std::uint16_t all_tasks() const { return all_tasks_; }
  bool gathers() const { return !rules_.tasks.empty(); }

  // What became of everything that waits since the last call, for a snapshot that keeps the segments of earlier ones.
  // `whole`: no earlier segment can be had.
  SavedGroup<Record> save_pending(bool whole);
  SavedGroup<Waiting> save_waiting(bool whole);
  SavedGroup<Parked> save_parked(bool whole);

 private:
  static constexpr std::uint32_t kNone = KeyedPool<Waiting>::kNone;

  enum class Timer : std::uint8_t { deadline, parked, forget };  // timers of one instant fire in this order

  struct PendingPlace {
    std::int64_t order_ms, offset;
    std::uint32_t stream, partition, place;
  };
  // Of the owner with that partition and offset; where there is another one by then, the timer does nothing.
  struct Alarm {
    std::int64_t time_ms, offset;
    std::uint32_t partition, place;
    Timer kind;
  };

  static bool later(const PendingPlace& a, const PendingPlace& b);
  static bool fires_later(const Alarm& a, const Alarm& b);
  using Alarms = OrderedQueue<Alarm, fires_later>;

  void work_off(std::int64_t until_ms);
  void end_windows();
  void release_next();
  void release(Record& record);
  void catch_up(const Text& key, std::int64_t order_ms);
  void show(Record& record);
  void act(Record& record);
  void park(Record& record);
  void late_positive(std::uint32_t place, std::uint16_t made, Record& record);
  void emit_late(const Waiting& entry, std::uint16_t made, std::int64_t ingestion_ms);
  void label(Waiting& entry, std::uint16_t made, float value);
  void remember(Waiting& entry, std::int64_t order_ms);
  void close(std::uint32_t place, std::int64_t ingestion_ms);
  std::uint16_t made_by(std::string_view action) const;
  template <class Change>
  void weigh_last(Change change);
  void emit(const Waiting& entry, std::int64_t ingestion_ms, float label, bool late);
  void emit(std::string_view request, std::string_view item, std::string_view row, std::int64_t event_time_ms,
            std::int64_t ingestion_ms, float label, float rate, bool late);
  void tell(const Text& text, std::int64_t event_time_ms);
  void drop_row(Waiting& entry);
  void alarm(std::int64_t time_ms, Timer kind, std::uint32_t place, std::uint32_t partition, std::int64_t offset);
  void fire(const Alarm& alarm);
  void forget(std::uint32_t place);
  void unpark(std::uint32_t place);
  template <class Visit>
  void each_parked(const Text& key, Visit visit);
  Alarms& alarms_of(Timer kind) { return alarms_[static_cast<std::size_t>(kind)]; }
  bool parted(std::uint32_t features, std::uint32_t action);
  static Alarms* first_of(std::initializer_list<Alarms*> queues);

  struct Maker {
    std::string action;
    std::uint16_t tasks;
  };

  JoinRules rules_;
  std::size_t head_bytes_;
  bool tells_seen_;
  std::vector<Maker> makers_;  // of the tasks' labels
  std::uint16_t all_tasks_ = 1;

  Pool<Record> records_;
  OrderedQueue<PendingPlace, later> pending_;
  KeyedPool<Waiting> waiting_;
  KeyedPool<Parked> parked_;
  SegmentBook pending_segments_, waiting_segments_, parked_segments_;
  Alarms alarms_[3];  // of each kind, since each comes mostly in its order

  Samples samples_;
  std::vector<Seen> seen_;
  std::vector<Parked> late_actions_;
  Counters counters_;
  std::int64_t newest_ingestion_ms_ = kStart;
  std::int64_t timed_ms_ = kEnd;  // the timers up to here have fired before any record behind it is released
  std::int64_t newest_ms_ = kEnd;
  Turn turn_{};  // of what is being worked off
  std::uint64_t crossed_ = 0;
  std::size_t pending_bytes_ = 0, held_bytes_ = 0;
};

}  // namespace monolith::joining
