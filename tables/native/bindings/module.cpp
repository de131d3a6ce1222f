// Python bindings: monolith.tables._core. Arguments are checked in Python (monolith/tables/table.py), which gives
// errors their words; what arrives here is contiguous and of the right dtype and shape. Every call releases the GIL.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <system_error>

#include "bindings/bindings.h"
#include "memory/result_memory.h"
#include "table/table.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace monolith;

namespace {

// (size) float32 of any contents, in memory that an earlier result may have been in.
nb::ndarray<nb::numpy, float, nb::ndim<1>> result(std::size_t size) {
  float* const memory = take_memory(size);
  nb::capsule owner(memory, [](void* taken) noexcept { return_memory(static_cast<float*>(taken)); });
  return nb::ndarray<nb::numpy, float, nb::ndim<1>>(memory, {size}, owner);
}

template <class T>
std::vector<T> vector(const Array<T>& array) {
  return std::vector<T>(array.data(), array.data() + array.size());
}

Runs runs(const Array<std::uint32_t>& policies, const Array<std::int64_t>& ends) {
  return {policies.data(), ends.data(), policies.size()};
}

Part part_of(const Array<std::int64_t>& ids, const MutableMatrix& out, Runs runs = {}) {
  Part part;
  part.ids = ids.data();
  part.count = part.samples = ids.size();
  part.out = out.data();
  part.stride = out.shape(1);
  part.runs = runs;
  return part;
}

Times times(const Array<std::int64_t>& ms) { return {ms.data(), ms.size()}; }

NonFinite nonfinite(const std::string& policy) {
  return policy == "raise" ? NonFinite::raise : policy == "skip_row" ? NonFinite::skip_row : NonFinite::clip;
}

Storage storage(const std::string& name) {
  return name == "float32" ? Storage::float32 : name == "bfloat16" ? Storage::bfloat16 : Storage::float16;
}

// Bound structs take double and narrow once, as numpy.float32(x) does.
void bind_initializers(nb::module_& m) {
  nb::class_<Zeros>(m, "Zeros").def(nb::init<>());
  nb::class_<Uniform>(m, "Uniform")
      .def("__init__", [](Uniform* s, double scale) { new (s) Uniform{float(scale)}; }, "scale"_a);
  nb::class_<TruncatedNormal>(m, "TruncatedNormal")
      .def("__init__", [](TruncatedNormal* s, double std) { new (s) TruncatedNormal{float(std)}; }, "std"_a);
}

void bind_training(nb::class_<Table>& table) {
  table
      .def(
          "observe",
          [](Table& self, Array<std::int64_t> ids, Array<std::int64_t> ms, Array<std::uint32_t> policies,
             Array<std::int64_t> ends) {
            Release release;
            self.observe(ids.data(), ids.size(), times(ms), runs(policies, ends));
          },
          "ids"_a.noconvert(), "event_time_ms"_a.noconvert(), "policies"_a.noconvert(), "ends"_a.noconvert())
      .def(
          "lookup",
          [](const Table& self, Array<std::int64_t> ids, MutableMatrix out) {
            Release release;
            self.lookup({part_of(ids, out)});
          },
          "ids"_a.noconvert(), "out"_a.noconvert())
      .def(
          "contains",
          [](const Table& self, Array<std::int64_t> ids, MutableFlags out) {
            Release release;
            self.contains(ids.data(), ids.size(), out.data());
          },
          "ids"_a.noconvert(), "out"_a.noconvert())
      .def(
          "apply_gradients",
          [](Table& self, Array<std::int64_t> ids, Matrix grads, Array<std::int64_t> ms) {
            Release release;
            return self.apply_gradients(ids.data(), grads.data(), ids.size(), times(ms));
          },
          "ids"_a.noconvert(), "grads"_a.noconvert(), "event_time_ms"_a.noconvert())
      .def(
          "forward",
          [](Table& self, Array<std::int64_t> ids, Array<std::int64_t> ms, Step& step, MutableMatrix out,
             Array<std::uint32_t> policies, Array<std::int64_t> ends) {
            Release release;
            self.forward({part_of(ids, out, runs(policies, ends))}, times(ms), step);
          },
          "ids"_a.noconvert(), "event_time_ms"_a.noconvert(), "step"_a, "out"_a.noconvert(), "policies"_a.noconvert(),
          "ends"_a.noconvert())
      .def(
          "backward",
          [](Table& self, Step& step, Matrix grads, Array<std::int64_t> ms) {
            Release release;
            return self.backward(step, {{grads.data(), grads.shape(1)}}, times(ms));
          },
          "step"_a, "grads"_a.noconvert(), "event_time_ms"_a.noconvert())
      .def("advance", &Table::advance, "clock_ms"_a, nb::call_guard<Release>())
      .def(
          "sweep",
          [](Table& self, std::size_t buckets, std::uint64_t max_rows) {
            const Swept swept = self.sweep(buckets, max_rows);
            return std::pair(swept.removed, swept.looked_at);
          },
          "buckets"_a, "max_rows"_a, nb::call_guard<Release>())
      .def("sweepable", &Table::sweepable);
}

// What get() returns, called while other Python threads may run.
template <class Get>
auto released(Get get) {
  Release release;
  return get();
}

BucketSet bucket_set(const Array<bool>& wanted) {
  BucketSet buckets;
  for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) buckets[bucket] = wanted.data()[bucket];
  return buckets;
}

void bind_deltas(nb::class_<Table>& table) {
  table.def("cut", &Table::cut, nb::call_guard<Release>())
      .def(
          "delta",
          [](const Table& self, std::uint32_t since, Array<bool> wanted) {
            const BucketSet buckets = bucket_set(wanted);
            DeltaArrays delta = released([&] { return self.delta(since, buckets); });
            return nb::make_tuple(numpy(std::move(delta.ids)), numpy(std::move(delta.values)),
                                  numpy(std::move(delta.removed)));
          },
          "since"_a, "buckets"_a.noconvert())
      .def(
          "tail_delta",
          [](const Table& self, std::uint32_t since, Array<bool> wanted) {
            const BucketSet buckets = bucket_set(wanted);
            DeltaArrays delta = released([&] { return self.tail_delta(since, buckets); });
            return nb::make_tuple(numpy(std::move(delta.ids)), numpy(std::move(delta.values)));
          },
          "since"_a, "buckets"_a.noconvert())
      .def(
          "write_tail",
          [](Table& self, std::uint32_t sequence, Array<std::int64_t> numbers, Matrix values) {
            Release release;
            self.write_tail(sequence, numbers.data(), values.data(), numbers.size());
          },
          "sequence"_a, "numbers"_a.noconvert(), "values"_a.noconvert())
      .def("live_rows",
           [](const Table& self) {
             DeltaArrays rows = released([&] { return self.live_rows(); });
             return nb::make_tuple(numpy(std::move(rows.ids)), numpy(std::move(rows.values)));
           })
      .def(
          "apply_image",
          [](Table& self, std::uint32_t sequence, Array<std::int64_t> ids, Matrix values) {
            Release release;
            self.apply_image(sequence, ids.data(), values.data(), ids.size());
          },
          "sequence"_a, "ids"_a.noconvert(), "values"_a.noconvert())
      .def(
          "apply_delta",
          [](Table& self, std::uint32_t sequence, Array<std::int64_t> ids, Matrix values, Array<std::int64_t> removed) {
            Release release;
            self.apply_delta(sequence, ids.data(), values.data(), ids.size(), removed.data(), removed.size());
          },
          "sequence"_a, "ids"_a.noconvert(), "values"_a.noconvert(), "removed"_a.noconvert());
}

// A bucket travels as a dict of arrays, named as in the file format.
nb::dict bucket_dict(BucketImage&& image) {
  nb::dict bucket;
  bucket["ids"] = numpy(std::move(image.ids));
  bucket["last_seen_ms"] = numpy(std::move(image.last_seen_ms));
  bucket["counter_ids"] = numpy(std::move(image.counter_ids));
  bucket["counter_last_ms"] = numpy(std::move(image.counter_last_ms));
  bucket["tombstone_ids"] = numpy(std::move(image.tombstone_ids));
  bucket["marks"] = numpy(std::move(image.marks));
  bucket["counts"] = numpy(std::move(image.counts));
  bucket["tombstone_marks"] = numpy(std::move(image.tombstone_marks));
  bucket["values"] = numpy(std::move(image.values));
  bucket["state"] = numpy(std::move(image.state));
  bucket["admitted_ms"] = numpy(std::move(image.admitted_ms));
  bucket["uses"] = numpy(std::move(image.uses));
  bucket["policies"] = numpy(std::move(image.policies));
  bucket["counter_policies"] = numpy(std::move(image.counter_policies));
  bucket["tail_marks"] = numpy(std::move(image.tail_marks));
  bucket["tail_values"] = numpy(std::move(image.tail_values));
  bucket["tail_state"] = numpy(std::move(image.tail_state));
  return bucket;
}

template <class T>
std::vector<T> part(const nb::dict& bucket, const char* name) {
  return vector<T>(nb::cast<Array<T>>(bucket[name], false));
}

BucketImage bucket_image(const nb::dict& bucket) {
  BucketImage image;
  image.ids = part<std::int64_t>(bucket, "ids");
  image.last_seen_ms = part<std::int64_t>(bucket, "last_seen_ms");
  image.counter_ids = part<std::int64_t>(bucket, "counter_ids");
  image.counter_last_ms = part<std::int64_t>(bucket, "counter_last_ms");
  image.tombstone_ids = part<std::int64_t>(bucket, "tombstone_ids");
  image.marks = part<std::uint32_t>(bucket, "marks");
  image.counts = part<std::uint32_t>(bucket, "counts");
  image.tombstone_marks = part<std::uint32_t>(bucket, "tombstone_marks");
  image.values = part<float>(bucket, "values");
  image.state = part<float>(bucket, "state");
  image.admitted_ms = part<std::int64_t>(bucket, "admitted_ms");
  image.uses = part<std::uint32_t>(bucket, "uses");
  image.policies = part<std::uint32_t>(bucket, "policies");
  image.counter_policies = part<std::uint32_t>(bucket, "counter_policies");
  image.tail_marks = part<std::uint32_t>(bucket, "tail_marks");
  image.tail_values = part<float>(bucket, "tail_values");
  image.tail_state = part<float>(bucket, "tail_state");
  return image;
}

void bind_snapshots(nb::class_<Table>& table) {
  table
      .def(
          "export_bucket",
          [](const Table& self, std::size_t bucket) {
            BucketImage image = released([&] { return self.export_bucket(bucket); });
            return bucket_dict(std::move(image));
          },
          "bucket"_a)
      .def(
          "import_bucket",
          [](Table& self, std::size_t number, const nb::dict& bucket) {
            const BucketImage image = bucket_image(bucket);
            Release release;
            self.import_bucket(number, image);
          },
          "number"_a, "bucket"_a)
      .def("reserve", &Table::reserve, "rows"_a, nb::call_guard<Release>())
      .def("clockwork", &Table::clockwork, nb::call_guard<Release>())
      .def("set_clockwork", &Table::set_clockwork, "clockwork"_a, nb::call_guard<Release>())
      .def("statistics", &Table::statistics, nb::call_guard<Release>())
      .def("set_statistics", &Table::set_statistics, "statistics"_a, nb::call_guard<Release>())
      .def("sizes", &Table::sizes, nb::call_guard<Release>())
      .def("passed", &Table::passed, nb::call_guard<Release>())
      .def_prop_ro("state_floats", &Table::state_floats)
      .def_prop_ro("row_bytes", &Table::row_bytes);
}

void bind_numbers(nb::module_& m) {
  nb::class_<Clockwork>(m, "Clockwork")
      .def(
          "__init__",
          [](Clockwork* c, std::uint32_t sequence, std::uint32_t floor, std::int64_t clock_ms,
             std::uint32_t sweep_cursor, std::uint64_t steps, std::uint32_t eviction_cursor) {
            new (c) Clockwork{sequence, floor, clock_ms, sweep_cursor, steps, eviction_cursor};
          },
          "sequence"_a, "floor"_a, "clock_ms"_a, "sweep_cursor"_a, "steps"_a, "eviction_cursor"_a)
      .def_ro("sequence", &Clockwork::sequence)
      .def_ro("floor", &Clockwork::floor)
      .def_ro("clock_ms", &Clockwork::clock_ms)
      .def_ro("sweep_cursor", &Clockwork::sweep_cursor)
      .def_ro("steps", &Clockwork::steps)
      .def_ro("eviction_cursor", &Clockwork::eviction_cursor);
  nb::class_<Statistics>(m, "Statistics")
      .def(nb::init<>())
      .def_rw("observed", &Statistics::observed)
      .def_rw("admitted", &Statistics::admitted)
      .def_rw("rejected", &Statistics::rejected)
      .def_rw("late", &Statistics::late)
      .def_rw("expired_idle", &Statistics::expired_idle)
      .def_rw("expired_age", &Statistics::expired_age)
      .def_rw("swept", &Statistics::swept)
      .def_rw("evicted", &Statistics::evicted)
      .def_rw("pruned", &Statistics::pruned)
      .def_rw("dropped_gradients", &Statistics::dropped_gradients)
      .def_rw("nonfinite", &Statistics::nonfinite)
      .def_rw("counter_decrements", &Statistics::counter_decrements);
  nb::class_<Sizes>(m, "Sizes")
      .def_ro("rows", &Sizes::rows)
      .def_ro("free_rows", &Sizes::free_rows)
      .def_ro("tail_rows", &Sizes::tail_rows)
      .def_ro("row_limit", &Sizes::row_limit)
      .def_ro("counters", &Sizes::counters)
      .def_ro("tombstones", &Sizes::tombstones)
      .def_ro("bytes_values", &Sizes::bytes_values)
      .def_ro("bytes_state", &Sizes::bytes_state)
      .def_ro("bytes_stamps", &Sizes::bytes_stamps)
      .def_ro("bytes_index", &Sizes::bytes_index)
      .def_ro("bytes_counters", &Sizes::bytes_counters)
      .def_ro("bytes_tombstones", &Sizes::bytes_tombstones)
      .def_ro("bytes_scratch", &Sizes::bytes_scratch);
}

// A bijection of the 64-bit ids for each salt: how several features share a table without sharing rows.
nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>> salted(Array<std::int64_t> ids, std::uint64_t salt) {
  std::vector<std::int64_t> keys(ids.size());
  {
    Release release;
    for (std::size_t i = 0; i < keys.size(); ++i)
      keys[i] = static_cast<std::int64_t>(mix64(static_cast<std::uint64_t>(ids.data()[i]) ^ salt));
  }
  return numpy(std::move(keys));
}

nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>> tail_numbers(Array<std::int64_t> ids, std::uint32_t rows) {
  std::vector<std::int64_t> numbers(ids.size());
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = shared_number(hash_of(ids.data()[i]), rows);
  return numpy(std::move(numbers));
}

// Bags of rows to vectors; `weights` is empty where every row weighs 1.
void pool(Matrix rows, Array<std::int32_t> lengths, Array<float> weights, bool mean, MutableMatrix out) {
  Release release;
  Part part;
  part.count = rows.shape(0);
  part.samples = lengths.size();
  part.lengths = lengths.data();
  part.weights = weights.size() == 0 ? nullptr : weights.data();
  part.mean = mean;
  part.out = out.data();
  part.stride = out.shape(1);
  pool_rows(part, rows.data(), rows.shape(1));
}

// A full disk, a folder that takes no file: OSError by the system's number. (std::bad_alloc is MemoryError by itself.)
void system_error_is_oserror(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const std::system_error& error) {
    const nb::tuple arguments = nb::make_tuple(error.code().value(), error.what());
    PyErr_SetObject(PyExc_OSError, arguments.ptr());
  }
}

void called_from_within_is_input_error(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const CalledFromWithin& error) {
    PyErr_SetString(nb::module_::import_("monolith.errors").attr("InputError").ptr(), error.what());
  }
}

}  // namespace

NB_MODULE(_core, m) {
  nb::set_leak_warnings(false);  // a table that lives until the interpreter ends is no leak
  nb::register_exception_translator(system_error_is_oserror);
  nb::register_exception_translator(called_from_within_is_input_error);
  bind_build(m);
  bind_optimizers(m);
  bind_policies(m);
  bind_initializers(m);
  bind_numbers(m);
  nb::class_<Tail>(m, "Tail").def(
      "__init__", [](Tail* tail, std::uint32_t rows, bool start) { new (tail) Tail{rows, start}; }, "rows"_a,
      "start"_a);
  nb::class_<Step>(m, "Step").def(nb::init<>());
  nb::class_<Table> table(m, "Table");
  table.def(
      "__init__",
      [](Table* self, std::size_t dim, std::uint64_t key, const Optimizer& optimizer, const Initializer& initializer,
         const std::string& on_nonfinite, double max_gradient, const std::string& values,
         const std::vector<Policy>& policies, const Eviction& eviction, const Tail& tail,
         std::optional<std::size_t> tombstones, const std::string& folder, std::size_t reserve_bytes,
         const Pruning& pruning) {
        const Policy& own = policies.at(0);
        new (self) Table(TableOptions{dim,
                                      key,
                                      optimizer,
                                      own.admission,
                                      initializer,
                                      own.lifetime.idle_ms,
                                      nonfinite(on_nonfinite),
                                      float(max_gradient),
                                      reserve_bytes,
                                      storage(values),
                                      folder,
                                      own.lifetime.age_ms,
                                      {policies.begin() + 1, policies.end()},
                                      eviction,
                                      tail,
                                      tombstones,
                                      pruning});
      },
      "dim"_a, "key"_a, "optimizer"_a, "initializer"_a, "on_nonfinite"_a, "max_gradient"_a, "storage"_a, "policies"_a,
      "eviction"_a, "tail"_a, "tombstones"_a.none(), "folder"_a, "reserve_bytes"_a, "pruning"_a);
  bind_training(table);
  bind_deltas(table);
  bind_snapshots(table);
  bind_collection(m);
  bind_sharding(m);
  bind_hot_ids(m);
  m.def("result", &result, "size"_a);
  m.def("pool", &pool, "rows"_a.noconvert(), "lengths"_a.noconvert(), "weights"_a.noconvert(), "mean"_a,
        "out"_a.noconvert());
  m.def("set_order_seed", &SecretOrder::set_seed, "seed"_a);
  m.def("salted", &salted, "ids"_a.noconvert(), "salt"_a);
  m.def("tail_numbers", &tail_numbers, "ids"_a.noconvert(), "rows"_a);
}
