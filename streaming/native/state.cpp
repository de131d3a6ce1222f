#include "state.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <tuple>
#include <utility>

namespace monolith::joining {
namespace {

constexpr std::int64_t kIsOpen = 1, kIsComplete = 2;  // of an entry's flags; above them a bit for each task
constexpr int kSeenFrom = 2;
constexpr std::size_t kFlags = 6;  // place among an entry's numbers

std::int64_t as_number(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
float as_float(std::int64_t number) {
  const auto bits = static_cast<std::uint32_t>(number);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

std::string_view cut(std::string_view& from, std::size_t size) {
  if (size > from.size()) throw std::invalid_argument("it ends early");
  const std::string_view part = from.substr(0, size);
  from.remove_prefix(size);
  return part;
}
template <class T>
T next(std::string_view& from) {
  T value;
  std::memcpy(&value, cut(from, sizeof(T)).data(), sizeof(T));
  return value;
}

class Reader {
 public:
  explicit Reader(const ColumnViews& columns) : columns_(columns) {}

  bool more() const { return !columns_.lengths.empty(); }
  std::int64_t number() { return next<std::int64_t>(columns_.numbers); }
  Text text() {
    const auto request = next<std::uint32_t>(columns_.lengths), item = next<std::uint32_t>(columns_.lengths),
               rest = next<std::uint32_t>(columns_.lengths);
    const std::string_view of_request = cut(columns_.texts, request), of_item = cut(columns_.texts, item);
    return Text(of_request, of_item, cut(columns_.texts, rest));
  }
  void end() const {
    if (!columns_.numbers.empty() || !columns_.lengths.empty() || !columns_.texts.empty())
      throw std::invalid_argument("it is too long");
  }

 private:
  ColumnViews columns_;
};

std::uint32_t low_half(std::int64_t number) { return static_cast<std::uint32_t>(number); }
std::int64_t high_half(std::int64_t number) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(number) >> 32);
}

}  // namespace

void Columns::add(const Text& text) {
  for (const std::string_view part : {text.request(), text.item(), text.rest()}) {
    lengths.push_back(static_cast<std::uint32_t>(part.size()));
    texts.append(part);
  }
}

void Columns::add(const Record& r) {
  for (const std::int64_t number :
       {r.order_ms, std::int64_t{r.stream}, std::int64_t{r.partition}, r.offset, r.ingestion_ms, r.event_time_ms,
        static_cast<std::int64_t>(r.draw), as_number(r.label), as_number(r.rate), static_cast<std::int64_t>(r.kind),
        std::int64_t{r.ignored}})
    numbers.push_back(number);
  add(r.text);
}

void Columns::add(const Waiting& w, const Joiner& joiner) {
  const std::int64_t complete = w.seen == joiner.all_tasks() ? kIsComplete : 0;
  const std::int64_t seen = joiner.gathers() ? std::int64_t{w.seen} << kSeenFrom : 0;
  for (const std::int64_t number : {w.event_time_ms, std::int64_t{w.partition}, w.offset, w.deadline_ms, w.forget_ms,
                                    static_cast<std::int64_t>(w.draw), (w.open ? kIsOpen : 0) + complete + seen})
    numbers.push_back(number);
  add(w.text);
}

void Columns::add(const Parked& p) {
  const auto value = static_cast<std::uint64_t>(as_number(p.value)) << 32;
  const auto partition = static_cast<std::int64_t>(value | p.partition);
  for (const std::int64_t number : {p.event_time_ms, partition, p.offset, p.ingestion_ms, p.expire_ms})
    numbers.push_back(number);
  add(p.text);
}

Columns pending_of(const Joiner& joiner) {
  Columns columns;
  for (const Record* record : joiner.pending()) columns.add(*record);
  return columns;
}

Columns waiting_of(const Joiner& joiner) {
  Columns columns;
  for (const Waiting* entry : joiner.waiting()) columns.add(*entry, joiner);
  return columns;
}

Columns parked_of(const Joiner& joiner) {
  Columns columns;
  for (const Parked* action : joiner.parked()) columns.add(*action);
  return columns;
}

void put_pending(Joiner& joiner, const ColumnViews& columns) {
  Reader reader(columns);
  while (reader.more()) {
    Record r;
    r.order_ms = reader.number();
    r.stream = static_cast<std::uint32_t>(reader.number());
    r.partition = static_cast<std::uint32_t>(reader.number());
    r.offset = reader.number();
    r.ingestion_ms = reader.number();
    r.event_time_ms = reader.number();
    r.draw = static_cast<std::uint64_t>(reader.number());
    r.label = as_float(reader.number());
    r.rate = as_float(reader.number());
    const std::int64_t kind = reader.number();
    if (kind < 0 || kind > 2) throw std::invalid_argument("a record is of no kind");
    r.kind = static_cast<Kind>(kind);
    r.ignored = reader.number() != 0;
    r.text = reader.text();
    joiner.add(std::move(r));
  }
  reader.end();
}

void put_waiting(Joiner& joiner, const ColumnViews& columns) {
  Reader reader(columns);
  while (reader.more()) {
    Waiting w{};
    w.event_time_ms = reader.number();
    w.partition = static_cast<std::uint32_t>(reader.number());
    w.offset = reader.number();
    w.deadline_ms = reader.number();
    w.forget_ms = reader.number();
    w.draw = static_cast<std::uint64_t>(reader.number());
    const std::int64_t flags = reader.number();
    w.open = (flags & kIsOpen) != 0;
    w.seen = (flags & kIsComplete) != 0
                 ? joiner.all_tasks()
                 : static_cast<std::uint16_t>(flags >> kSeenFrom & std::int64_t{joiner.all_tasks()});
    w.text = reader.text();
    joiner.put(std::move(w));
  }
  reader.end();
}

void put_parked(Joiner& joiner, const ColumnViews& columns) {
  Reader reader(columns);
  while (reader.more()) {
    Parked p{};
    p.event_time_ms = reader.number();
    const std::int64_t partition = reader.number();
    p.partition = low_half(partition);
    p.value = as_float(high_half(partition));
    p.offset = reader.number();
    p.ingestion_ms = reader.number();
    p.expire_ms = reader.number();
    p.text = reader.text();
    joiner.put(std::move(p));
  }
  reader.end();
}

namespace {

// One row of a segment.
struct Row {
  const char* numbers;
  std::uint32_t lengths[3];
  const char* texts;
  std::uint8_t status;

  std::int64_t number(std::size_t place) const {
    std::int64_t value;
    std::memcpy(&value, numbers + place * sizeof value, sizeof value);
    return value;
  }
};

void take_rows(const SegmentViews& segment, std::size_t count, std::vector<Row>& rows) {
  ColumnViews left = segment.rows;
  for (const char status : segment.statuses) {
    Row row{};
    row.numbers = cut(left.numbers, count * sizeof(std::int64_t)).data();
    std::size_t total = 0;
    for (std::uint32_t& length : row.lengths) total += length = next<std::uint32_t>(left.lengths);
    row.texts = cut(left.texts, total).data();
    row.status = static_cast<std::uint8_t>(status);
    if (row.status != 0) rows.push_back(row);
  }
  if (!left.numbers.empty() || !left.lengths.empty() || !left.texts.empty())
    throw std::invalid_argument("it is too long");
}

bool is_before(Group group, const Row& a, const Row& b) {
  if (group != Group::pending)
    return std::make_tuple(low_half(a.number(1)), a.number(2)) < std::make_tuple(low_half(b.number(1)), b.number(2));
  const auto key = [](const Row& row) {
    return std::make_tuple(row.number(0), row.number(1), row.number(2), row.number(3));
  };
  return key(a) < key(b);
}

}  // namespace

Columns merged(Group group, const std::vector<SegmentViews>& segments) {
  const std::size_t count = group == Group::pending   ? kPendingNumbers
                            : group == Group::waiting ? kWaitingNumbers
                                                      : kParkedNumbers;
  std::vector<Row> rows;
  for (const SegmentViews& segment : segments) take_rows(segment, count, rows);
  std::sort(rows.begin(), rows.end(), [&](const Row& a, const Row& b) { return is_before(group, a, b); });
  Columns columns;
  for (const Row& row : rows) {
    for (std::size_t place = 0; place < count; ++place) columns.numbers.push_back(row.number(place));
    const bool waits = group == Group::waiting;
    if (waits) {
      std::int64_t& flags = columns.numbers[columns.numbers.size() - count + kFlags];
      flags = (flags & ~kIsOpen) | ((row.status & kOpen) != 0 ? kIsOpen : 0);
    }
    const std::uint32_t rest = waits && (row.status & kRow) == 0 ? 0 : row.lengths[2];
    columns.lengths.insert(columns.lengths.end(), {row.lengths[0], row.lengths[1], rest});
    columns.texts.append(row.texts, std::size_t{row.lengths[0]} + row.lengths[1] + rest);
  }
  return columns;
}

// --- the joiner's own part ---

namespace {

template <class T>
bool by_origin(const T* a, const T* b) {
  return std::tie(a->partition, a->offset) < std::tie(b->partition, b->offset);
}

}  // namespace

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
  std::sort(found.begin(), found.end(), by_origin<Waiting>);
  return found;
}

std::vector<const Parked*> Joiner::parked() const {
  std::vector<const Parked*> found;
  parked_.each([&](const Parked& parked) { found.push_back(&parked); });
  std::sort(found.begin(), found.end(), by_origin<Parked>);
  return found;
}

SavedGroup<Record> Joiner::save_pending(bool whole) {
  const auto order = [](const Record* a, const Record* b) {
    return std::tie(a->order_ms, a->stream, a->partition, a->offset) <
           std::tie(b->order_ms, b->stream, b->partition, b->offset);
  };
  return pending_segments_.save(records_, whole, order, [](const Record&) { return kThere; });
}

SavedGroup<Waiting> Joiner::save_waiting(bool whole) {
  return waiting_segments_.save(waiting_.pool(), whole, by_origin<Waiting>, [](const Waiting& entry) {
    return static_cast<std::uint8_t>(kThere | (entry.open ? kOpen : 0) | (entry.text.rest().empty() ? 0 : kRow));
  });
}

SavedGroup<Parked> Joiner::save_parked(bool whole) {
  return parked_segments_.save(parked_.pool(), whole, by_origin<Parked>, [](const Parked&) { return kThere; });
}

void Joiner::put(Waiting entry) {
  const std::size_t row_bytes = entry.text.rest().size();
  if (row_bytes < head_bytes_ && (row_bytes != 0 || entry.open))
    throw std::invalid_argument("a packed row is shorter than its head");
  held_bytes_ += bytes_of(entry);
  entry.fresh = true;
  const bool open = entry.open;
  const std::int64_t time_ms = open ? entry.deadline_ms : entry.forget_ms, offset = entry.offset;
  const std::uint32_t partition = entry.partition;
  alarm(time_ms, open ? Timer::deadline : Timer::forget, waiting_.put(std::move(entry)), partition, offset);
}

void Joiner::put(Parked action) {
  if (parked_.find(action.text) != kNone) return;  // of a job that told actions apart
  action.fresh = true;
  held_bytes_ += bytes_of(action);
  const std::int64_t expire_ms = action.expire_ms, offset = action.offset;
  const std::uint32_t partition = action.partition;
  alarm(expire_ms, Timer::parked, parked_.put(std::move(action)), partition, offset);
}

}  // namespace monolith::joining
