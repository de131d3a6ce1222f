#include "joiner.h"

#include <algorithm>
#include <stdexcept>
#include <tuple>
#include <utility>

namespace monolith::joining {
namespace {

constexpr std::size_t kAllocation = 16;  // what malloc takes beside the bytes asked for
constexpr std::size_t kSlot = 12;        // of a table at its usual load

std::size_t bytes_of(const Record& record) { return sizeof(Record) + 32 + kAllocation + record.text.size(); }
std::size_t bytes_of(const Waiting& entry) { return sizeof(Waiting) + 32 + kSlot + kAllocation + entry.text.size(); }
std::size_t bytes_of(const Parked& parked) { return sizeof(Parked) + 32 + kSlot + kAllocation + parked.text.size(); }

template <class T>
void sort_by_origin(std::vector<const T*>& things) {
  std::sort(things.begin(), things.end(), [](const T* a, const T* b) {
    return std::tie(a->partition, a->offset) < std::tie(b->partition, b->offset);
  });
}

}  // namespace

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

void Joiner::advance(std::int64_t watermark_ms, std::int64_t released_ms, std::int64_t newest_ms) {
  newest_ms_ = newest_ms;
  if (watermark_ms == kEnd) {
    timed_ms_ = newest_ms;
    std::int64_t last_ms = kStart;
    pending_.each([&](const PendingPlace& pending) { last_ms = std::max(last_ms, pending.order_ms); });
    work_off(last_ms);
    end_windows();
  } else {
    work_off(watermark_ms);
    timed_ms_ = watermark_ms;
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
  const std::uint32_t parked = parked_.find(key), place = waiting_.find(key);
  if (parked != kNone && parked_[parked].expire_ms < order_ms) {
    unpark(parked);
    ++counters_.unmatched_actions;
  }
  if (place == kNone) return;
  if (waiting_[place].open && waiting_[place].deadline_ms < order_ms) negative(place);
  if (!waiting_[place].open && waiting_[place].forget_ms < order_ms) forget(place);
}

void Joiner::show(Record& record) {
  if (waiting_.find(record.text) != kNone) {
    ++counters_.duplicate_features;
    return;
  }
  tell(record.text, record.event_time_ms);
  const std::uint32_t parked = parked_.find(record.text);
  Waiting entry;
  entry.event_time_ms = record.event_time_ms;
  entry.offset = record.offset;
  entry.partition = record.partition;
  entry.draw = record.draw;
  entry.deadline_ms = std::max(record.event_time_ms + rules_.window_ms, record.order_ms);
  entry.forget_ms = std::max(record.event_time_ms + rules_.dedup_ms, entry.deadline_ms);
  entry.open = true;
  entry.positive = false;
  entry.text = std::move(record.text);
  held_bytes_ += bytes_of(entry);
  const std::int64_t deadline_ms = entry.deadline_ms;
  const std::uint32_t place = waiting_.put(std::move(entry));
  if (parked == kNone) return alarm(deadline_ms, Timer::deadline, place, record.partition, record.offset);
  unpark(parked);
  positive(place, record.order_ms, record.ingestion_ms, false);
}

void Joiner::tell(const Text& text, std::int64_t event_time_ms) {
  if (!tells_seen_) return;
  seen_.push_back({samples_.labels.size(), std::min(event_time_ms, newest_ms_), std::string(text.request()),
                   std::string(text.item()), std::string(text.rest())});
}

void Joiner::act(Record& record) {
  if (record.ignored) {
    ++counters_.ignored_actions;
    return;
  }
  const std::uint32_t place = waiting_.find(record.text);
  if (place == kNone) return park(record);
  if (waiting_[place].positive)
    ++counters_.duplicate_actions;
  else if (waiting_[place].open)
    positive(place, record.order_ms, record.ingestion_ms, false);
  else
    late_positive(place, record);
}

void Joiner::park(Record& record) {
  if (parked_.find(record.text) != kNone) {
    ++counters_.duplicate_actions;
    return;
  }
  Parked parked{record.event_time_ms, record.offset,         record.ingestion_ms, record.order_ms + rules_.early_ms,
                record.partition,     std::move(record.text)};
  held_bytes_ += bytes_of(parked);
  const std::int64_t expire_ms = parked.expire_ms;
  alarm(expire_ms, Timer::parked, parked_.put(std::move(parked)), record.partition, record.offset);
}

void Joiner::late_positive(std::uint32_t place, Record& record) {
  ++counters_.late;
  const bool has_row = waiting_[place].text.rest().size() >= head_bytes_;  // dropped under another policy, maybe
  if (rules_.late == Late::emit && has_row) return positive(place, record.order_ms, record.ingestion_ms, true);
  waiting_[place].positive = true;  // a repeat of it is a duplicate
  if (rules_.late == Late::dead_letter)
    late_actions_.push_back(
        {record.event_time_ms, record.offset, record.ingestion_ms, 0, record.partition, std::move(record.text)});
}

void Joiner::positive(std::uint32_t place, std::int64_t order_ms, std::int64_t ingestion_ms, bool late) {
  Waiting& entry = waiting_[place];
  ++counters_.positives;
  emit(entry, ingestion_ms, 1.0f, late);
  const bool was_open = entry.open;
  entry.open = false;
  entry.positive = true;
  drop_row(entry);
  const std::int64_t forget_ms = order_ms + rules_.dedup_ms;
  if (forget_ms <= entry.forget_ms && !was_open) return;  // its timer is there
  entry.forget_ms = std::max(entry.forget_ms, forget_ms);
  alarm(entry.forget_ms, Timer::forget, place, entry.partition, entry.offset);
}

void Joiner::negative(std::uint32_t place) {
  Waiting& entry = waiting_[place];
  entry.open = false;
  if (rules_.keep_all || entry.draw < rules_.keep_below) {
    ++counters_.negatives;
    emit(entry, newest_ingestion_ms_, 0.0f, false);
  } else {
    ++counters_.sampled_out;
  }
  if (rules_.late != Late::emit) drop_row(entry);
  alarm(entry.forget_ms, Timer::forget, place, entry.partition, entry.offset);
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
  samples_.tails.append(row.substr(head_bytes_));
  samples_.keys.append(request);
  samples_.ends.push_back(static_cast<std::uint32_t>(samples_.keys.size()));
  samples_.keys.append(item);
  samples_.ends.push_back(static_cast<std::uint32_t>(samples_.keys.size()));
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
    negative(alarm.place);
  else if (alarm.kind == Timer::forget && owner.forget_ms == alarm.time_ms)
    forget(alarm.place);
}

void Joiner::forget(std::uint32_t place) { held_bytes_ -= bytes_of(waiting_.take(place)); }
void Joiner::unpark(std::uint32_t place) { held_bytes_ -= bytes_of(parked_.take(place)); }

Samples Joiner::take_samples() { return std::exchange(samples_, Samples{}); }
std::vector<Seen> Joiner::take_seen() { return std::exchange(seen_, {}); }
std::vector<Parked> Joiner::take_late_actions() { return std::exchange(late_actions_, {}); }

std::vector<const Record*> Joiner::pending() const {
  std::vector<PendingPlace> sorted;
  pending_.each([&](const PendingPlace& pending) { sorted.push_back(pending); });
  std::sort(sorted.begin(), sorted.end(), [](const PendingPlace& a, const PendingPlace& b) { return later(b, a); });
  std::vector<const Record*> found;
  for (const PendingPlace& pending : sorted) found.push_back(&records_[pending.place]);
  return found;
}

std::vector<const Waiting*> Joiner::waiting() const {
  std::vector<const Waiting*> found;
  waiting_.each([&](const Waiting& entry) { found.push_back(&entry); });
  sort_by_origin(found);
  return found;
}

std::vector<const Parked*> Joiner::parked() const {
  std::vector<const Parked*> found;
  parked_.each([&](const Parked& parked) { found.push_back(&parked); });
  sort_by_origin(found);
  return found;
}

void Joiner::put(Waiting entry) {
  const std::size_t row_bytes = entry.text.rest().size();
  if (row_bytes < head_bytes_ && (row_bytes != 0 || entry.open))
    throw std::invalid_argument("a packed row is shorter than its head");
  held_bytes_ += bytes_of(entry);
  const bool open = entry.open;
  const std::int64_t time_ms = open ? entry.deadline_ms : entry.forget_ms, offset = entry.offset;
  const std::uint32_t partition = entry.partition;
  alarm(time_ms, open ? Timer::deadline : Timer::forget, waiting_.put(std::move(entry)), partition, offset);
}

void Joiner::put(Parked action) {
  held_bytes_ += bytes_of(action);
  const std::int64_t expire_ms = action.expire_ms, offset = action.offset;
  const std::uint32_t partition = action.partition;
  alarm(expire_ms, Timer::parked, parked_.put(std::move(action)), partition, offset);
}

}  // namespace monolith::joining
