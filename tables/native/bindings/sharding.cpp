// Python bindings for tables whose parts are in several processes: bags of rows that came from elsewhere, gradients
// that go there, and backward in the steps between which processes agree. monolith/training/sharding checks the
// arguments.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "bindings/bindings.h"
#include "table/table.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace monolith;

namespace {

using Vectors = nb::ndarray<float, nb::ndim<2>, nb::device::cpu>;
using VectorGradients = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
using Lengths = std::optional<Array<std::int32_t>>;
using Weights = std::optional<Array<float>>;

Part bags(std::size_t count, std::size_t samples, const Lengths& lengths, const Weights& weights, bool mean) {
  Part part;
  part.count = count;
  part.samples = samples;
  part.lengths = lengths ? lengths->data() : nullptr;
  part.weights = weights ? weights->data() : nullptr;
  part.mean = mean;
  return part;
}

// Bags of rows to the vectors `out` (samples, dim), whose rows may lie apart.
void pool_places(Matrix rows, Array<std::int64_t> places, Lengths lengths, Weights weights, bool mean, Vectors out) {
  Part part = bags(places.size(), out.shape(0), lengths, weights, mean);
  part.out = out.data();
  part.stride = static_cast<std::size_t>(out.stride(0));
  Release release;
  pool_rows(part, rows.data(), rows.shape(1), places.data());
}

void sum_places(VectorGradients grads, Array<std::int64_t> places, Lengths lengths, Weights weights, bool mean,
                MutableFlags begun, MutableMatrix sums) {
  const Part part = bags(places.size(), grads.shape(0), lengths, weights, mean);
  const PartGradient gradient{grads.data(), static_cast<std::size_t>(grads.stride(0))};
  Release release;
  sum_gradients(part, gradient, places.data(), sums.shape(1), begun.data(), sums.data());
}

nb::list squares_by_rule(Table& table, const Step& step) {
  std::vector<std::vector<double>> all;
  {
    Release release;
    all = table.squares(step);
  }
  nb::list arrays;
  for (std::vector<double>& each : all) arrays.append(numpy(std::move(each)));
  return arrays;
}

}  // namespace

void bind_sharding(nb::module_& m) {
  bind_splits(m);
  m.def("pool_places", &pool_places, "rows"_a.noconvert(), "places"_a.noconvert(), "lengths"_a.none(),
        "weights"_a.none(), "mean"_a, "out"_a.noconvert());
  m.def("sum_places", &sum_places, "grads"_a.noconvert(), "places"_a.noconvert(), "lengths"_a.none(),
        "weights"_a.none(), "mean"_a, "begun"_a.noconvert(), "sums"_a.noconvert());
  m.def(
      "table_begin",
      [](Table& table, Array<std::int64_t> ids, Step& step) {
        Release release;
        table.begin(ids.data(), ids.size(), step);
      },
      "table"_a, "ids"_a.noconvert(), "step"_a);
  m.def(
      "table_collect",
      [](Table& table, Step& step, Matrix grads) {
        Release release;
        static const float none = 0.0f;
        return table.collect_part(step, {{grads.size() == 0 ? &none : grads.data(), grads.shape(1)}});
      },
      "table"_a, "step"_a, "grads"_a.noconvert());
  m.def("table_squares", &squares_by_rule, "table"_a, "step"_a);
  m.def(
      "table_apply",
      [](Table& table, const Step& step, const std::vector<double>& norms) {
        Release release;
        table.apply_part(step, norms);
      },
      "table"_a, "step"_a, "norms"_a);
}
