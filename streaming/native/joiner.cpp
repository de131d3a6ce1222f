#include "joiner.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <tuple>
#include <utility>

namespace monolith::joining {

Joiner::Joiner(const JoinRules& rules, std::size_t head_bytes, bool tells_seen)
    : rules_(rules), head_bytes_(head_bytes), tells_seen_(tells_seen), parked_(!rules.tasks.empty()) {
  const std::size_t tasks = rules.tasks.size();
  if (tasks > kMostTasks) throw std::invalid_argument("more tasks than a waiting key has bits for");
  if (head_bytes < 2 * sizeof(float) * tasks) throw std::invalid_argument("rows have no room for their labels");
  if (tasks != 0) all_tasks_ = static_cast<std::uint16_t>((1u << tasks) - 1);
  for (std::size_t task = 0; task < tasks; ++task)
    for (const std::string& action : rules.tasks[task].actions) {
      auto maker =
          std::find_if(makers_.begin(), makers_.end(), [&](const Maker& known) { return known.action == action; });
      if (maker == makers_.end()) maker = makers_.insert(maker, {action, 0});
      maker->tasks = static_cast<std::uint16_t>(maker->tasks | 1u << task);
    }
}

bool Joiner::later(const PendingPlace& a, const PendingPlace& b) {
  return std::tie(a.order_ms, a.stream, a.partition, a.offset) > std::tie(b.order_ms, b.stream, b.partition, b.offset);
}

bool Joiner::fires_later(const Alarm& a, const Alarm& b) {
  return std::tie(a.time_ms, a.kind, a.partition, a.offset) > std::tie(b.time_ms, b.kind, b.partition, b.offset);
}

void Joiner::add(Record record) {
  if (record.kind != Kind::action && record.text.rest().size() < head_bytes_)
    throw std::invalid_argument("a packed row is shorter than its head");
  newest_ingestion_ms_ = std::max(newest_ingestion_ms_, record.ingestion_ms);
  pending_bytes_ += bytes_of(record);
  PendingPlace pending{record.order_ms, record.offset, record.stream, record.partition, 0};
  pending.place = records_.put(std::move(record));
  pending_.push(pending);
}

std::int64_t Joiner::due_ms() const {
  std::int64_t due_ms = pending_ms();
  for (const Alarms& alarms : alarms_)
    if (!alarms.empty()) due_ms = std::min(due_ms, alarms.front().time_ms);
  return due_ms;
}

std::int64_t Joiner::last_ms() const {
  std::int64_t last_ms = kStart;
  pending_.each([&](const PendingPlace& pending) { last_ms = std::max(last_ms, pending.order_ms); });
  return last_ms;
}

void Joiner::advance(std::int64_t watermark_ms, std::int64_t released_ms, std::int64_t newest_ms,
                     std::int64_t last_ms) {
  newest_ms_ = newest_ms;
  turn_.released = 0;
  if (watermark_ms == kEnd) {
    timed_ms_ = newest_ms;
    work_off(std::max(last_ms, this->last_ms()));
    end_windows();
  } else {
    work_off(watermark_ms);
    timed_ms_ = watermark_ms;
    turn_.released = 1;
    while (!pending_.empty() && pending_ms() <= released_ms) release_next();
  }
  timed_ms_ = kEnd;
}

// Records and timers up to `until_ms`, by time; a timer waits for the records of its instant. What is remembered for
// duplicates is forgotten up to `timed_ms_` only: a time ahead must not clear it.
void Joiner::work_off(std::int64_t until_ms) {
  std::vector<Alarm> kept;
  while (true) {
    Alarms* const alarms = first_of({&alarms_[0], &alarms_[1], &alarms_[2]});
    if (pending_.empty() && alarms == nullptr) break;
    const std::int64_t record_ms = pending_ms(), alarm_ms = alarms == nullptr ? kEnd : alarms->front().time_ms;
    if (std::min(record_ms, alarm_ms) > until_ms) break;
    if (!pending_.empty() && record_ms <= alarm_ms) {
      release_next();
      continue;
    }
    const Alarm alarm = alarms->pop();
    if (alarm_ms > timed_ms_ && alarm.kind == Timer::forget)
      kept.push_back(alarm);
    else
      fire(alarm);
  }
  for (const Alarm& alarm : kept) alarms_of(alarm.kind).push(alarm);
}

// Fires the timers of open windows and parked actions, in order, and keeps those of the duplicates' memory.
void Joiner::end_windows() {
  for (Alarms* first; (first = first_of({&alarms_of(Timer::deadline), &alarms_of(Timer::parked)})) != nullptr;)
    fire(first->pop());  // which may set alarms of the duplicates' memory, and no others
}

// The queue whose front fires first; null where all are empty.
Joiner::Alarms* Joiner::first_of(std::initializer_list<Alarms*> queues) {
  Alarms* first = nullptr;
  for (Alarms* queue : queues)
    if (!queue->empty() && (first == nullptr || fires_later(first->front(), queue->front()))) first = queue;
  return first;
}

void Joiner::release_next() {
  const std::uint32_t place = pending_.pop().place;
  Record record = records_.take(place);
  pending_bytes_ -= bytes_of(record);
  turn_ = {turn_.released, record.order_ms, record.stream, record.partition, record.offset};
  release(record);
}

void Joiner::release(Record& record) {
  if (record.order_ms > timed_ms_) catch_up(record.text, record.order_ms);
  if (record.kind == Kind::action) return act(record);
  if (record.kind == Kind::shown) return show(record);
  ++counters_.passed;
  tell(record.text, record.event_time_ms);
  emit(record.text.request(), record.text.item(), record.text.rest(), record.event_time_ms, record.ingestion_ms,
       record.label, record.rate, false);
}

// Does what timers of the key alone would have done before `order_ms`, where timers stand still.
void Joiner::catch_up(const Text& key, std::int64_t order_ms) {
  each_parked(key, [&](std::uint32_t place) {
    if (parked_[place].expire_ms >= order_ms) return;
    unpark(place);
    ++counters_.unmatched_actions;
  });
  const std::uint32_t place = waiting_.find(key);
  if (place == kNone) return;
  if (waiting_[place].open && waiting_[place].deadline_ms < order_ms) close(place, newest_ingestion_ms_);
  if (!waiting_[place].open && waiting_[place].forget_ms < order_ms) forget(place);
}

// Visits the actions that wait for the features of `key`; a visit may unpark its own.
template <class Visit>
void Joiner::each_parked(const Text& key, Visit visit) {
  if (parked_.size() == 0) return;
  if (!gathers()) {
    const std::uint32_t place = parked_.find(key);
    if (place != kNone) visit(place);
    return;
  }
  for (const Maker& maker : makers_) {
    const std::uint32_t place = parked_.find(Text(key.request(), key.item(), maker.action));
    if (place != kNone) visit(place);
  }
}

void Joiner::show(Record& record) {
  if (waiting_.find(record.text) != kNone) {
    ++counters_.duplicate_features;
    return;
  }
  tell(record.text, record.event_time_ms);
  Waiting entry{};
  entry.event_time_ms = record.event_time_ms;
  entry.offset = record.offset;
  entry.partition = record.partition;
  entry.draw = record.draw;
  entry.deadline_ms = std::max(record.event_time_ms + rules_.window_ms, record.order_ms);
  entry.forget_ms = std::max(record.event_time_ms + rules_.dedup_ms, entry.deadline_ms);
  entry.open = entry.fresh = true;
  entry.text = std::move(record.text);
  held_bytes_ += bytes_of(entry);
  const std::uint32_t place = waiting_.put(std::move(entry));
  Waiting& shown = waiting_[place];
  each_parked(shown.text, [&](std::uint32_t parked) {
    if (parted(record.partition, parked_[parked].partition)) return;
    const auto made = static_cast<std::uint16_t>(made_by(parked_[parked].text.rest()) & ~shown.seen);
    if (made == 0) ++counters_.duplicate_actions;  // another action made these labels already
    label(shown, made, parked_[parked].value);
    remember(shown, record.order_ms);
    unpark(parked);
  });
  if (shown.seen == all_tasks_) return close(place, record.ingestion_ms);
  alarm(shown.deadline_ms, Timer::deadline, place, record.partition, record.offset);
}

void Joiner::tell(const Text& text, std::int64_t event_time_ms) {
  if (!tells_seen_) return;
  seen_.push_back({samples_.labels.size(), std::min(event_time_ms, newest_ms_), std::string(text.request()),
                   std::string(text.item()), std::string(text.rest())});
}

// The tasks whose label an action makes.
std::uint16_t Joiner::made_by(std::string_view action) const {
  if (!gathers()) return all_tasks_;
  for (const Maker& maker : makers_)
    if (maker.action == action) return maker.tasks;
  return 0;
}

void Joiner::act(Record& record) {
  const std::uint16_t makes = record.ignored ? 0 : made_by(record.text.rest());
  if (makes == 0) {
    ++counters_.ignored_actions;
    return;
  }
  const std::uint32_t place = waiting_.find(record.text);
  if (place == kNone || parted(waiting_[place].partition, record.partition)) return park(record);
  Waiting& entry = waiting_[place];
  const auto made = static_cast<std::uint16_t>(makes & ~entry.seen);
  if (made == 0) {
    ++counters_.duplicate_actions;
  } else if (entry.open) {
    label(entry, made, record.label);
    remember(entry, record.order_ms);
    if (entry.seen == all_tasks_) close(place, record.ingestion_ms);
  } else {
    late_positive(place, made, record);
  }
}

// Whether features and an action that belong together must not meet: another joiner could not have them meet.
bool Joiner::parted(std::uint32_t features, std::uint32_t action) {
  if (!rules_.co_partitioned || features == action) return false;
  ++crossed_;
  return true;
}

void Joiner::park(Record& record) {
  if (parked_.find(record.text) != kNone) {
    ++counters_.duplicate_actions;
    return;
  }
  Parked parked{record.event_time_ms, record.offset, record.ingestion_ms,   record.order_ms + rules_.early_ms,
                record.partition,     record.label,  std::move(record.text)};
  held_bytes_ += bytes_of(parked);
  const std::int64_t expire_ms = parked.expire_ms;
  alarm(expire_ms, Timer::parked, parked_.put(std::move(parked)), record.partition, record.offset);
}

void Joiner::late_positive(std::uint32_t place, std::uint16_t made, Record& record) {
  ++counters_.late;
  Waiting& entry = waiting_[place];
  const bool has_row = entry.text.rest().size() >= head_bytes_;  // dropped under another policy, maybe
  label(entry, made, record.label);                              // a repeat of the action is a duplicate
  if (rules_.late == Late::emit && has_row) {
    ++counters_.positives;
    emit_late(entry, made, record.ingestion_ms);
    if (entry.seen == all_tasks_) drop_row(entry);
    const std::int64_t forget_ms = entry.forget_ms;
    remember(entry, record.order_ms);
    if (entry.forget_ms > forget_ms) alarm(entry.forget_ms, Timer::forget, place, entry.partition, entry.offset);
  } else if (rules_.late == Late::dead_letter) {
    late_actions_.push_back({record.event_time_ms, record.offset, record.ingestion_ms, 0, record.partition,
                             record.label, std::move(record.text)});
  }
}

// Have the entry's row say that an action came for the tasks `made`.
void Joiner::label(Waiting& entry, std::uint16_t made, float value) {
  entry.seen = static_cast<std::uint16_t>(entry.seen | made);
  entry.fresh = true;
  if (!gathers() || entry.text.rest().size() < head_bytes_) return;
  const std::size_t tasks = rules_.tasks.size();
  for (std::size_t task = 0; task < tasks; ++task) {
    if ((made >> task & 1u) == 0) continue;
    const float found = rules_.tasks[task].takes_value ? value : 1.0f, weight = 1.0f;
    char* const labels = entry.text.rest_bytes();
    std::memcpy(labels + task * sizeof(float), &found, sizeof(float));
    std::memcpy(labels + (tasks + task) * sizeof(float), &weight, sizeof(float));
  }
}

// The key is known for so long after an action.
void Joiner::remember(Waiting& entry, std::int64_t order_ms) {
  entry.forget_ms = std::max(entry.forget_ms, order_ms + rules_.dedup_ms);
}

// Makes the sample of an open entry: every task has its action, or the window has ended.
void Joiner::close(std::uint32_t place, std::int64_t ingestion_ms) {
  Waiting& entry = waiting_[place];
  entry.open = false;
  if (entry.seen != 0) {
    ++counters_.positives;
    emit(entry, ingestion_ms, 1.0f, false);
  } else if (rules_.keep_all || entry.draw < rules_.keep_below) {
    ++counters_.negatives;
    emit(entry, ingestion_ms, 0.0f, false);
    weigh_last([&](std::size_t, float& weight) { weight *= rules_.negative_weight; });
  } else {
    ++counters_.sampled_out;
  }
  if (entry.seen == all_tasks_ || rules_.late != Late::emit) drop_row(entry);
  alarm(entry.forget_ms, Timer::forget, place, entry.partition, entry.offset);
}

// A sample with the labels `made` alone: those that came with it before are not counted again.
void Joiner::emit_late(const Waiting& entry, std::uint16_t made, std::int64_t ingestion_ms) {
  emit(entry, ingestion_ms, 1.0f, true);
  weigh_last([&](std::size_t task, float& weight) { weight = (made >> task & 1u) != 0 ? weight : 0.0f; });
}

// Changes the weights of the labels of the sample that was made last; a label that weighs nothing is 0.
template <class Change>
void Joiner::weigh_last(Change change) {
  const std::size_t tasks = rules_.tasks.size();
  char* const labels = &samples_.heads[samples_.heads.size() - head_bytes_];
  for (std::size_t task = 0; task < tasks; ++task) {
    char* const at = labels + (tasks + task) * sizeof(float);
    float weight;
    std::memcpy(&weight, at, sizeof(float));
    change(task, weight);
    std::memcpy(at, &weight, sizeof(float));
    if (weight == 0.0f) std::memset(labels + task * sizeof(float), 0, sizeof(float));
  }
}

void Joiner::emit(const Waiting& entry, std::int64_t ingestion_ms, float label, bool late) {
  emit(entry.text.request(), entry.text.item(), entry.text.rest(), entry.event_time_ms, ingestion_ms, label,
       rules_.rate, late);
}

void Joiner::emit(std::string_view request, std::string_view item, std::string_view row, std::int64_t event_time_ms,
                  std::int64_t ingestion_ms, float label, float rate, bool late) {
  samples_.event_time_ms.push_back(std::min(event_time_ms, newest_ms_));
  samples_.ingestion_ms.push_back(ingestion_ms);
  samples_.labels.push_back(label);
  samples_.rates.push_back(rate);
  samples_.late.push_back(late);
  samples_.heads.append(row.substr(0, head_bytes_));
  samples_.bag_data.append(row.substr(head_bytes_));
  samples_.keys.append(request);
  samples_.ends.push_back(static_cast<std::uint32_t>(samples_.keys.size()));
  samples_.keys.append(item);
  samples_.ends.push_back(static_cast<std::uint32_t>(samples_.keys.size()));
  if (rules_.tells_turns) samples_.turns.push_back(turn_);
}

void Joiner::drop_row(Waiting& entry) {
  held_bytes_ -= entry.text.rest().size();
  entry.text = entry.text.without_rest();
}

void Joiner::alarm(std::int64_t time_ms, Timer kind, std::uint32_t place, std::uint32_t partition,
                   std::int64_t offset) {
  alarms_of(kind).push({time_ms, offset, partition, place, kind});
}

void Joiner::fire(const Alarm& alarm) {
  constexpr std::int64_t kBehindRecords = std::int64_t{1} << 32;
  turn_ = {turn_.released, alarm.time_ms, kBehindRecords + static_cast<std::int64_t>(alarm.kind), alarm.partition,
           alarm.offset};
  if (alarm.kind == Timer::parked) {
    const Parked& owner = parked_[alarm.place];
    if (owner.offset != alarm.offset || owner.partition != alarm.partition) return;
    unpark(alarm.place);
    ++counters_.unmatched_actions;
    return;
  }
  const Waiting& owner = waiting_[alarm.place];
  if (owner.offset != alarm.offset || owner.partition != alarm.partition) return;
  if (alarm.kind == Timer::deadline && owner.open)
    close(alarm.place, newest_ingestion_ms_);
  else if (alarm.kind == Timer::forget && owner.forget_ms == alarm.time_ms)
    forget(alarm.place);
}

void Joiner::forget(std::uint32_t place) { held_bytes_ -= bytes_of(waiting_.take(place)); }
void Joiner::unpark(std::uint32_t place) { held_bytes_ -= bytes_of(parked_.take(place)); }

Samples Joiner::take_samples() { return std::exchange(samples_, Samples{}); }
std::vector<Seen> Joiner::take_seen() { return std::exchange(seen_, {}); }
std::vector<Parked> Joiner::take_late_actions() { return std::exchange(late_actions_, {}); }

}  // namespace monolith::joining
