// Python bindings of the decoder, and of the way from its columns into the joiner. Both run without the GIL.
#include "decoder_bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <utility>

#include "decoder.h"
#include "records.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace monolith::joining;

namespace {

template <class T>
using Column = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Ints = Column<std::int64_t>;
using Bytes = Column<std::uint8_t>;

// A NumPy array that owns the column.
template <class T>
nb::object array_of(std::vector<T>&& column, std::size_t rows, std::size_t width = 0) {
  auto* kept = new std::vector<T>(std::move(column));
  nb::capsule owner(kept, [](void* held) noexcept { delete static_cast<std::vector<T>*>(held); });
  const std::size_t shape[2] = {rows, width};
  return nb::cast(nb::ndarray<nb::numpy, T>(kept->data(), width ? 2 : 1, shape, owner));
}
template <class T>
nb::object array_of(std::vector<T>&& column) {
  const std::size_t size = column.size();
  return array_of(std::move(column), size);
}

// Byte strings that lie one after the other: n of them end at n + 1 places, the first of which is where they begin.
class Strings {
 public:
  Strings(const Bytes& data, const Ints& ends)
      : Strings(reinterpret_cast<const char*>(data.data()), data.size(), ends) {}
  Strings(const nb::bytes& data, const Ints& ends) : Strings(data.c_str(), data.size(), ends) {}

  std::size_t size() const { return size_; }
  std::string_view all() const { return {data_, bytes_}; }
  const std::int64_t* ends() const { return ends_; }
  std::string_view operator[](std::size_t i) const {
    return {data_ + ends_[i], static_cast<std::size_t>(ends_[i + 1] - ends_[i])};
  }

 private:
  Strings(const char* data, std::size_t bytes, const Ints& ends)
      : data_(data), bytes_(bytes), ends_(ends.data()), size_(ends.size() - 1) {
    if (ends.size() == 0) throw std::invalid_argument("strings need a place where they begin");
    for (std::size_t i = 0; i <= size_; ++i)
      if (ends_[i] < (i ? ends_[i - 1] : 0) || ends_[i] > static_cast<std::int64_t>(bytes))
        throw std::invalid_argument("strings end in descending places, or beyond their bytes");
  }

  const char* data_;
  std::size_t bytes_;
  const std::int64_t* ends_;
  std::size_t size_;
};

Feature feature_of(const nb::tuple& told) {
  return {nb::cast<std::string>(told[0]),
          static_cast<Value>(nb::cast<int>(told[1])),
          static_cast<Place>(nb::cast<int>(told[2])),
          nb::cast<std::uint32_t>(told[3]),
          nb::cast<std::uint64_t>(told[4]),
          nb::cast<bool>(told[5]),
          nb::cast<std::vector<std::int64_t>>(told[6]),
          nb::cast<std::vector<double>>(told[7]),
          nb::cast<std::vector<std::int64_t>>(told[8])};
}

void make_decoder(Decoder* self, int kind, const nb::list& told, const nb::list& tasks, bool ignores_unknown,
                  std::int64_t version, std::int64_t times_up, std::int64_t times_down, std::int64_t latest_ms,
                  std::int64_t most_ahead_ms, double largest_weight, double largest_label,
                  std::uint64_t sampling_seed) {
  std::vector<Feature> features;
  for (const nb::handle one : told) features.push_back(feature_of(nb::cast<nb::tuple>(one)));
  std::vector<Task> of_job;
  for (const nb::handle one : tasks) {
    const auto task = nb::cast<nb::tuple>(one);
    of_job.push_back({nb::cast<std::string>(task[0]), nb::cast<bool>(task[1])});
  }
  new (self) Decoder({static_cast<Kind>(kind), ignores_unknown, version, times_up, times_down, latest_ms, most_ahead_ms,
                      largest_weight, largest_label, sampling_seed},
                     std::move(features), std::move(of_job));
}

nb::tuple decode(Decoder& self, const nb::bytes& data, const Ints& ends, const Ints& ingestion_ms) {
  const Strings values(data, ends);
  if (ingestion_ms.size() != values.size()) throw std::invalid_argument("columns are of different lengths");
  Events events;
  {
    const nb::gil_scoped_release release;
    events = self.decode(values.all(), values.ends(), ingestion_ms.data(), values.size());
  }
  const std::size_t n = values.size();
  nb::list names;
  for (const std::string& name : events.action_names) names.append(nb::str(name.data(), name.size()));
  return nb::make_tuple(array_of(std::move(events.fit)), array_of(std::move(events.event_time_ms)),
                        array_of(std::move(events.heads), events.heads.size() ? n : 0, self.head_bytes()),
                        array_of(std::move(events.bag_data)), array_of(std::move(events.bag_ends)),
                        array_of(std::move(events.keys)), array_of(std::move(events.key_ends)),
                        array_of(std::move(events.draws)), array_of(std::move(events.labels)),
                        array_of(std::move(events.rates)), array_of(std::move(events.actions)), names,
                        array_of(std::move(events.buckets)));
}

nb::object split_records(const nb::bytes& list, std::size_t begin) {
  if (begin > list.size()) throw std::invalid_argument("the list begins behind its bytes");
  Split parts;
  bool is_list;
  {
    const nb::gil_scoped_release release;
    is_list = split(std::string_view(list.c_str(), list.size()).substr(begin), parts);
  }
  if (!is_list) return nb::none();
  const auto text = [](const std::vector<std::uint8_t>& bytes) {
    return nb::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  return nb::make_tuple(text(parts.keys), array_of(std::move(parts.key_ends)), array_of(std::move(parts.no_key)),
                        text(parts.values), array_of(std::move(parts.value_ends)), array_of(std::move(parts.no_value)),
                        array_of(std::move(parts.event_time_ms)));
}

// What all blocks have in common: where each record stands, when it is worked off, and its key.
class Block {
 public:
  Block(std::uint32_t stream, std::uint32_t partition, const Ints& offsets, const Ints& order_ms,
        const Ints& ingestion_ms, const Ints& event_time_ms, const Bytes& keys, const Ints& key_ends)
      : stream_(stream),
        partition_(partition),
        offsets_(offsets.data()),
        order_ms_(order_ms.data()),
        ingestion_ms_(ingestion_ms.data()),
        event_time_ms_(event_time_ms.data()),
        size_(offsets.size()),
        keys_(keys, key_ends) {
    has_rows({order_ms.size(), ingestion_ms.size(), event_time_ms.size()});
    if (keys_.size() != 2 * size_) throw std::invalid_argument("each record has a request and an item");
  }

  std::size_t size() const { return size_; }
  void has_rows(std::initializer_list<std::size_t> counts) const {
    for (const std::size_t count : counts)
      if (count != size_) throw std::invalid_argument("columns are of different lengths");
  }
  std::string_view request(std::size_t i) const { return keys_[2 * i]; }
  std::string_view item(std::size_t i) const { return keys_[2 * i + 1]; }
  Record record(std::size_t i, Kind kind) const {
    Record record{};
    record.order_ms = order_ms_[i];
    record.offset = offsets_[i];
    record.ingestion_ms = ingestion_ms_[i];
    record.event_time_ms = event_time_ms_[i];
    record.stream = stream_;
    record.partition = partition_;
    record.kind = kind;
    return record;
  }

 private:
  std::uint32_t stream_, partition_;
  const std::int64_t *offsets_, *order_ms_, *ingestion_ms_, *event_time_ms_;
  std::size_t size_;
  Strings keys_;
};

// The packed rows of a block.
class PackedRows {
 public:
  PackedRows(const Rows& heads, const Bytes& bag_data, const Ints& bag_ends)
      : heads_(reinterpret_cast<const char*>(heads.data())),
        head_bytes_(heads.shape(1)),
        size_(heads.shape(0)),
        bag_data_(bag_data, bag_ends) {
    if (bag_data_.size() != size_) throw std::invalid_argument("columns are of different lengths");
  }
  std::size_t size() const { return size_; }
  std::string_view head(std::size_t i) const { return {heads_ + i * head_bytes_, head_bytes_}; }
  std::string_view bag_data(std::size_t i) const { return bag_data_[i]; }

 private:
  const char* heads_;
  std::size_t head_bytes_, size_;
  Strings bag_data_;
};

void add_shown_block(Joiner& joiner, std::uint32_t stream, std::uint32_t partition, const Ints& offsets,
                     const Ints& order_ms, const Ints& ingestion_ms, const Ints& event_time_ms, const Bytes& keys,
                     const Ints& key_ends, const Rows& heads, const Bytes& bag_data, const Ints& bag_ends,
                     const Column<std::uint64_t>& draws) {
  const Block block(stream, partition, offsets, order_ms, ingestion_ms, event_time_ms, keys, key_ends);
  const PackedRows rows(heads, bag_data, bag_ends);
  block.has_rows({rows.size(), draws.size()});
  const nb::gil_scoped_release release;
  for (std::size_t i = 0; i < block.size(); ++i) {
    Record record = block.record(i, Kind::shown);
    record.draw = draws.data()[i];
    record.text = Text(block.request(i), block.item(i), rows.head(i), rows.bag_data(i));
    joiner.add(std::move(record));
  }
}

void add_joined_events(Joiner& joiner, std::uint32_t stream, std::uint32_t partition, const Ints& offsets,
                       const Ints& order_ms, const Ints& ingestion_ms, const Ints& event_time_ms, const Bytes& keys,
                       const Ints& key_ends, const Rows& heads, const Bytes& bag_data, const Ints& bag_ends,
                       const Column<float>& labels, const Column<float>& rates) {
  const Block block(stream, partition, offsets, order_ms, ingestion_ms, event_time_ms, keys, key_ends);
  const PackedRows rows(heads, bag_data, bag_ends);
  block.has_rows({rows.size(), labels.size(), rates.size()});
  const nb::gil_scoped_release release;
  for (std::size_t i = 0; i < block.size(); ++i) {
    Record record = block.record(i, Kind::joined);
    record.label = labels.data()[i];
    record.rate = rates.data()[i];
    record.text = Text(block.request(i), block.item(i), rows.head(i), rows.bag_data(i));
    joiner.add(std::move(record));
  }
}

// `names` and `ignored` of the actions, by number.
void add_action_block(Joiner& joiner, std::uint32_t stream, std::uint32_t partition, const Ints& offsets,
                      const Ints& order_ms, const Ints& ingestion_ms, const Ints& event_time_ms, const Bytes& keys,
                      const Ints& key_ends, const Column<std::int32_t>& actions, const std::vector<std::string>& names,
                      const std::vector<bool>& ignored) {
  const Block block(stream, partition, offsets, order_ms, ingestion_ms, event_time_ms, keys, key_ends);
  block.has_rows({actions.size()});
  if (ignored.size() != names.size()) throw std::invalid_argument("columns are of different lengths");
  for (std::size_t i = 0; i < block.size(); ++i)
    if (static_cast<std::size_t>(actions.data()[i]) >= names.size()) throw std::invalid_argument("no such action");
  const nb::gil_scoped_release release;
  for (std::size_t i = 0; i < block.size(); ++i) {
    const auto action = static_cast<std::size_t>(actions.data()[i]);
    Record record = block.record(i, Kind::action);
    record.ignored = ignored[action];
    record.text = Text(block.request(i), block.item(i), names[action]);
    joiner.add(std::move(record));
  }
}

}  // namespace

void bind_decoder(nb::module_& m) {
  nb::class_<Decoder>(m, "Decoder")
      .def("__init__", &make_decoder, "kind"_a, "features"_a, "tasks"_a, "ignores_unknown"_a, "version"_a, "times_up"_a,
           "times_down"_a, "latest_ms"_a, "most_ahead_ms"_a, "largest_weight"_a, "largest_label"_a, "sampling_seed"_a)
      .def_prop_ro("head_bytes", &Decoder::head_bytes)
      .def("decode", &decode);
  m.def("split_records", &split_records);
  m.def("add_shown_block", &add_shown_block);
  m.def("add_joined_events", &add_joined_events);
  m.def("add_action_block", &add_action_block);
}
