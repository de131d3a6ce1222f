// Python bindings of the joiner. Columns travel as bytes, which Python shows as arrays; it has checked what goes in.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "decoder_bindings.h"
#include "joiner.h"
#include "state.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace monolith::joining;

namespace {

template <class T>
nb::bytes bytes_of(const std::vector<T>& column) {
  return nb::bytes(reinterpret_cast<const char*>(column.data()), column.size() * sizeof(T));
}
nb::bytes bytes_of(const std::string& text) { return nb::bytes(text.data(), text.size()); }
nb::str text_of(std::string_view text) { return nb::str(text.data(), text.size()); }
std::string_view view_of(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

nb::tuple columns_of(const Columns& columns) {
  return nb::make_tuple(bytes_of(columns.numbers), bytes_of(columns.lengths), bytes_of(columns.texts));
}
ColumnViews views_of(const nb::bytes& numbers, const nb::bytes& lengths, const nb::bytes& texts) {
  return {view_of(numbers), view_of(lengths), view_of(texts)};
}

// (number and statuses of each segment), the rows of the newest one where it is new
template <class T, class Add>
nb::tuple saved_of(const SavedGroup<T>& saved, Add add) {
  nb::list segments;
  for (const SavedSegment& one : saved.segments) segments.append(nb::make_tuple(one.number, bytes_of(one.statuses)));
  Columns added;
  for (const T* member : saved.added) add(added, *member);
  return nb::make_tuple(segments, saved.added.empty() ? nb::object(nb::none()) : nb::object(columns_of(added)));
}

nb::tuple saved(Joiner& joiner, bool whole) {
  const auto plain = [](Columns& columns, const auto& member) { columns.add(member); };
  return nb::make_tuple(
      saved_of(joiner.save_pending(whole), plain),
      saved_of(joiner.save_waiting(whole), [&](Columns& to, const Waiting& entry) { to.add(entry, joiner); }),
      saved_of(joiner.save_parked(whole), plain));
}

// `segments`: numbers, lengths, texts and statuses of each; `group`: 0 pending, 1 waiting, 2 parked.
nb::tuple merged_columns(int group, const std::vector<std::tuple<nb::bytes, nb::bytes, nb::bytes, nb::bytes>>& given) {
  std::vector<SegmentViews> segments;
  for (const auto& [numbers, lengths, texts, statuses] : given)
    segments.push_back({views_of(numbers, lengths, texts), view_of(statuses)});
  return columns_of(merged(static_cast<Group>(group), segments));
}

nb::tuple taken_samples(Joiner& joiner) {
  const Samples samples = joiner.take_samples();
  return nb::make_tuple(bytes_of(samples.event_time_ms), bytes_of(samples.ingestion_ms), bytes_of(samples.labels),
                        bytes_of(samples.rates), bytes_of(samples.late), bytes_of(samples.heads),
                        bytes_of(samples.bag_data), bytes_of(samples.keys), bytes_of(samples.ends),
                        bytes_of(samples.turns));
}

nb::list taken_seen(Joiner& joiner) {
  nb::list seen;
  for (const Seen& one : joiner.take_seen())
    seen.append(
        nb::make_tuple(one.before, text_of(one.request), text_of(one.item), one.event_time_ms, bytes_of(one.row)));
  return seen;
}

nb::list taken_late_actions(Joiner& joiner) {
  nb::list late;
  for (const Parked& one : joiner.take_late_actions())
    late.append(nb::make_tuple(text_of(one.text.request()), text_of(one.text.item()), text_of(one.text.rest()),
                               one.event_time_ms, one.ingestion_ms, one.partition, one.offset, one.value));
  return late;
}

// Order of the counters in Python's JoinCounters.
std::uint64_t Counters::* const kCounters[] = {&Counters::positives,
                                               &Counters::negatives,
                                               &Counters::late,
                                               &Counters::sampled_out,
                                               &Counters::passed,
                                               &Counters::duplicate_features,
                                               &Counters::duplicate_actions,
                                               &Counters::unmatched_actions,
                                               &Counters::ignored_actions};

nb::list counters_of(Joiner& joiner) {
  nb::list counts;
  for (const auto counter : kCounters) counts.append(joiner.counters().*counter);
  return counts;
}

void set_counters(Joiner& joiner, const nb::list& counts) {
  std::size_t next = 0;
  for (const auto counter : kCounters) joiner.counters().*counter = nb::cast<std::uint64_t>(counts[next++]);
}

Record record_at(std::int64_t order_ms, std::uint32_t stream, std::uint32_t partition, std::int64_t offset,
                 std::int64_t ingestion_ms, std::int64_t event_time_ms, Kind kind) {
  Record record{};
  record.order_ms = order_ms;
  record.stream = stream;
  record.partition = partition;
  record.offset = offset;
  record.ingestion_ms = ingestion_ms;
  record.event_time_ms = event_time_ms;
  record.kind = kind;
  return record;
}

template <class T, class Shape>
using Array = nb::ndarray<const T, Shape, nb::c_contig, nb::device::cpu>;
template <class T>
using Column = Array<T, nb::ndim<1>>;
using Rows = Array<std::uint8_t, nb::ndim<2>>;

// Byte strings that lie one after the other.
class Strings {
 public:
  Strings(const Column<std::uint8_t>& data, const Column<std::int64_t>& lengths)
      : rest_(reinterpret_cast<const char*>(data.data()), data.size()), next_(lengths.data()), left_(lengths.size()) {
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < left_; ++i) {
      if (next_[i] < 0 || next_[i] > std::int64_t{UINT32_MAX}) throw std::invalid_argument("a length is out of range");
      total += static_cast<std::uint64_t>(next_[i]);
    }
    if (total != rest_.size()) throw std::invalid_argument("lengths do not add up to the bytes");
  }
  std::size_t left() const { return left_; }
  std::string_view next() {
    const std::string_view one = rest_.substr(0, static_cast<std::size_t>(*next_));
    rest_.remove_prefix(one.size());
    ++next_;
    --left_;
    return one;
  }

 private:
  std::string_view rest_;
  const std::int64_t* next_;
  std::size_t left_;
};

// Joined samples of consecutive offsets, which were taken in at their event times and carry all of their slice.
void add_joined_block(Joiner& joiner, std::uint32_t stream, std::uint32_t partition, std::int64_t first_offset,
                      const Column<std::int64_t>& order_ms, const Column<std::int64_t>& event_time_ms,
                      const Column<float>& labels, const Rows& heads, const Column<std::uint8_t>& bag_data,
                      const Column<std::int64_t>& bag_lengths, const Column<std::uint8_t>& keys,
                      const Column<std::int64_t>& key_lengths) {
  const std::size_t count = order_ms.size(), head_bytes = heads.shape(1);
  Strings of_bag_data(bag_data, bag_lengths), of_keys(keys, key_lengths);
  if (event_time_ms.size() != count || labels.size() != count || heads.shape(0) != count ||
      of_bag_data.left() != count || of_keys.left() != 2 * count)
    throw std::invalid_argument("columns are of different lengths");
  const nb::gil_scoped_release release;
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t time_ms = event_time_ms.data()[i];
    Record record = record_at(order_ms.data()[i], stream, partition, first_offset + static_cast<std::int64_t>(i),
                              time_ms, time_ms, Kind::joined);
    record.label = labels.data()[i];
    record.rate = 1.0f;
    const std::string_view head(reinterpret_cast<const char*>(heads.data()) + i * head_bytes, head_bytes);
    const std::string_view request = of_keys.next(), item = of_keys.next();
    record.text = Text(request, item, head, of_bag_data.next());
    joiner.add(std::move(record));
  }
}

}  // namespace

NB_MODULE(_joiner, m) {
  bind_decoder(m);
  nb::class_<Joiner>(m, "Joiner")
      .def(
          "__init__",
          [](Joiner* self, std::int64_t window_ms, std::int64_t early_ms, std::int64_t dedup_ms,
             std::uint64_t keep_below, bool keep_all, float rate, int late, std::size_t head_bytes, bool tells_seen,
             const std::vector<std::pair<std::vector<std::string>, bool>>& tasks, float negative_weight,
             bool co_partitioned, bool tells_turns) {
            JoinRules rules{window_ms, early_ms, dedup_ms, keep_below, keep_all, rate, static_cast<Late>(late)};
            for (const auto& [actions, takes_value] : tasks) rules.tasks.push_back({actions, takes_value});
            rules.negative_weight = negative_weight;
            rules.co_partitioned = co_partitioned;
            rules.tells_turns = tells_turns;
            new (self) Joiner(rules, head_bytes, tells_seen);
          },
          "window_ms"_a, "early_ms"_a, "dedup_ms"_a, "keep_below"_a, "keep_all"_a, "rate"_a, "late"_a, "head_bytes"_a,
          "tells_seen"_a, "tasks"_a, "negative_weight"_a, "co_partitioned"_a, "tells_turns"_a)
      .def("add_shown",
           [](Joiner& self, std::int64_t order_ms, std::uint32_t stream, std::uint32_t partition, std::int64_t offset,
              std::int64_t ingestion_ms, std::int64_t event_time_ms, std::string_view request, std::string_view item,
              const nb::bytes& row, std::uint64_t draw) {
             Record record = record_at(order_ms, stream, partition, offset, ingestion_ms, event_time_ms, Kind::shown);
             record.draw = draw;
             record.text = Text(request, item, view_of(row));
             self.add(std::move(record));
           })
      .def("add_action",
           [](Joiner& self, std::int64_t order_ms, std::uint32_t stream, std::uint32_t partition, std::int64_t offset,
              std::int64_t ingestion_ms, std::int64_t event_time_ms, std::string_view request, std::string_view item,
              std::string_view action, bool ignored, float value) {
             Record record = record_at(order_ms, stream, partition, offset, ingestion_ms, event_time_ms, Kind::action);
             record.ignored = ignored;
             record.label = value;
             record.text = Text(request, item, action);
             self.add(std::move(record));
           })
      .def("add_joined",
           [](Joiner& self, std::int64_t order_ms, std::uint32_t stream, std::uint32_t partition, std::int64_t offset,
              std::int64_t ingestion_ms, std::int64_t event_time_ms, std::string_view request, std::string_view item,
              const nb::bytes& row, float label, float rate) {
             Record record = record_at(order_ms, stream, partition, offset, ingestion_ms, event_time_ms, Kind::joined);
             record.label = label;
             record.rate = rate;
             record.text = Text(request, item, view_of(row));
             self.add(std::move(record));
           })
      .def("add_joined_block", &add_joined_block)
      .def("advance", &Joiner::advance, "watermark_ms"_a, "released_ms"_a, "newest_ms"_a, "last_ms"_a,
           nb::call_guard<nb::gil_scoped_release>())
      .def("take_samples", &taken_samples)
      .def("take_seen", &taken_seen)
      .def("take_late_actions", &taken_late_actions)
      .def_prop_ro("pending_ms", &Joiner::pending_ms)
      .def_prop_ro("last_ms", &Joiner::last_ms)
      .def_prop_ro("due_ms", &Joiner::due_ms)
      .def_prop_ro("pending_bytes", &Joiner::pending_bytes)
      .def_prop_ro("held_bytes", &Joiner::held_bytes)
      .def_prop_ro("crossed", &Joiner::crossed)
      .def_prop_rw("counters", &counters_of, &set_counters)
      .def_prop_rw(
          "newest_ingestion_ms", [](Joiner& self) { return self.newest_ingestion_ms(); },
          [](Joiner& self, std::int64_t newest_ms) { self.newest_ingestion_ms() = newest_ms; })
      .def("pending", [](const Joiner& self) { return columns_of(pending_of(self)); })
      .def("waiting", [](const Joiner& self) { return columns_of(waiting_of(self)); })
      .def("parked", [](const Joiner& self) { return columns_of(parked_of(self)); })
      .def("put_pending", [](Joiner& self, const nb::bytes& numbers, const nb::bytes& lengths,
                             const nb::bytes& texts) { put_pending(self, views_of(numbers, lengths, texts)); })
      .def("put_waiting", [](Joiner& self, const nb::bytes& numbers, const nb::bytes& lengths,
                             const nb::bytes& texts) { put_waiting(self, views_of(numbers, lengths, texts)); })
      .def("put_parked", [](Joiner& self, const nb::bytes& numbers, const nb::bytes& lengths,
                            const nb::bytes& texts) { put_parked(self, views_of(numbers, lengths, texts)); })
      .def("save", &saved);
  m.def("merged", &merged_columns);
}
