// Python bindings of the hot ids of a table; monolith/tables/hot_index.py checks the arguments. All calls hold the GIL:
// that lets one in at a time. One adds a call to the table.
#include "policies/hot_ids.h"

#include <algorithm>

#include "bindings/bindings.h"
#include "table/table.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace monolith;

namespace {

using GradientMatrix = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;  // whose columns lie side by side

nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>> keys(const HotIds& self, Array<std::int64_t> ids) {
  std::vector<std::int64_t> out(ids.size());
  self.keys(ids.data(), ids.size(), out.data());
  return numpy(std::move(out));
}

// The arrays are held by the caller.
HotIds::Gradients gradients(const nb::object& lengths, const nb::object& weights, bool mean,
                            const GradientMatrix& grads) {
  HotIds::Gradients given{
      grads.data(), static_cast<std::size_t>(grads.stride(0)), grads.shape(1), grads.shape(0), nullptr, nullptr, mean};
  if (!lengths.is_none()) given.lengths = nb::cast<Array<std::int32_t>>(lengths, false).data();
  if (!weights.is_none()) given.weights = nb::cast<Array<float>>(weights, false).data();
  return given;
}

void add(HotIds& self, Array<std::int64_t> ids, const nb::object& lengths, const nb::object& weights, bool mean,
         const GradientMatrix& grads) {
  self.add(ids.data(), gradients(lengths, weights, mean, grads));
}

nb::ndarray<nb::numpy, float, nb::ndim<1>> amounts(const HotIds& self, std::size_t count, const nb::object& lengths,
                                                   const nb::object& weights, bool mean, const GradientMatrix& grads) {
  std::vector<float> out(count);
  self.amounts(gradients(lengths, weights, mean, grads), out.data());
  return numpy(std::move(out));
}

void add_amounts(HotIds& self, Array<std::int64_t> ids, Array<float> amounts) {
  self.add(ids.data(), amounts.data(), ids.size());
}

nb::tuple exchange(HotIds& self) {
  HotIds::Exchange done = self.exchange();
  return nb::make_tuple(numpy(std::move(done.ids)), numpy(std::move(done.slots)), numpy(std::move(done.removed)));
}

nb::tuple state(const HotIds& self) {
  HotIds::State copy = self.state();
  return nb::make_tuple(numpy(std::move(copy.ids)), numpy(std::move(copy.scores)), numpy(std::move(copy.slots)),
                        copy.weight);
}

bool restore(HotIds& self, Array<std::int64_t> ids, Array<float> scores, Array<std::int32_t> slots, double weight) {
  HotIds::State given;
  given.ids.assign(ids.data(), ids.data() + ids.size());
  given.scores.assign(scores.data(), scores.data() + scores.size());
  given.slots.assign(slots.data(), slots.data() + slots.size());
  given.weight = weight;
  return self.restore(given);
}

void write_rows(Table& table, Array<std::int64_t> ids, Matrix values) {
  Release release;
  table.write_rows(ids.data(), values.data(), ids.size());
}

}  // namespace

void bind_hot_ids(nb::module_& m) {
  m.def("write_rows", &write_rows, "table"_a, "ids"_a.noconvert(), "values"_a.noconvert());
  nb::class_<HotIds>(m, "HotIds")
      .def(nb::init<std::uint32_t, std::uint32_t, double>(), "shared"_a, "own"_a, "decay"_a)
      .def_prop_ro("cells", &HotIds::cells)
      .def("keys", &keys, "ids"_a.noconvert())
      .def("add", &add, "ids"_a.noconvert(), "lengths"_a.none(), "weights"_a.none(), "mean"_a, "grads"_a.noconvert())
      .def("amounts", &amounts, "count"_a, "lengths"_a.none(), "weights"_a.none(), "mean"_a, "grads"_a.noconvert())
      .def("add_amounts", &add_amounts, "ids"_a.noconvert(), "amounts"_a.noconvert())
      .def("end_step", &HotIds::end_step)
      .def("exchange", &exchange)
      .def("state", &state)
      .def("restore", &restore, "ids"_a.noconvert(), "scores"_a.noconvert(), "slots"_a.noconvert(), "weight"_a);
}
