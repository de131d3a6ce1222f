// Python bindings of the collection. A batch comes as lists with an entry for each feature, which Python has checked.
#include "table/collection.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include "bindings/bindings.h"
#include "threads/crew.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace monolith;

namespace {

using GradientMatrix = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;  // whose columns lie side by side

// The arrays' memory stays: their owners are held by the lists for the length of the call.
std::vector<FeatureBatch> batch_of(const Collection& collection, const nb::list& ids, const nb::list& lengths,
                                   const nb::list& weights, const MutableMatrix& out) {
  std::vector<FeatureBatch> batch(collection.features().size());
  float* column = out.data();
  for (std::size_t k = 0; k < batch.size(); ++k) {
    FeatureBatch& feature = batch[k];
    const auto feature_ids = nb::cast<Array<std::int64_t>>(ids[k], false);
    feature.ids = feature_ids.data();
    feature.count = feature_ids.size();
    feature.samples = out.shape(0);
    if (!lengths[k].is_none()) feature.lengths = nb::cast<Array<std::int32_t>>(lengths[k], false).data();
    if (!weights[k].is_none()) feature.weights = nb::cast<Array<float>>(weights[k], false).data();
    feature.out = column;
    feature.stride = out.shape(1);
    column += collection.dim(k);
  }
  return batch;
}

PartGradients gradients_of(const nb::list& grads) {
  PartGradients gradients;
  for (const nb::handle grad : grads) {
    if (grad.is_none()) {
      gradients.push_back({});
      continue;
    }
    const auto rows = nb::cast<GradientMatrix>(grad, false);
    static const float none = 0.0f;  // of a batch without samples, whose array may have no memory
    gradients.push_back({rows.size() == 0 ? &none : rows.data(), static_cast<std::size_t>(rows.stride(0))});
  }
  return gradients;
}

// Of a matrix in which the features' gradients lie side by side, as their vectors did.
PartGradients gradients_of(const Collection& collection, const GradientMatrix& matrix) {
  PartGradients gradients;
  static const float none = 0.0f;
  const float* column = matrix.size() == 0 ? &none : matrix.data();
  for (std::size_t k = 0; k < collection.features().size(); ++k) {
    gradients.push_back({column, static_cast<std::size_t>(matrix.stride(0))});
    if (matrix.size() != 0) column += collection.dim(k);
  }
  return gradients;
}

}  // namespace

void bind_collection(nb::module_& m) {
  nb::class_<Collection::Steps>(m, "Steps").def(nb::init<>());
  nb::class_<Feature>(m, "Feature")
      .def(
          "__init__",
          [](Feature* self, std::size_t table, std::optional<std::uint64_t> salt, bool mean, std::uint32_t policy) {
            new (self) Feature{table, salt, mean, policy};
          },
          "table"_a, "salt"_a.none(), "mean"_a, "policy"_a);
  nb::class_<Collection>(m, "Collection")
      .def(nb::init<std::vector<Table*>, std::vector<Feature>>(), "tables"_a, "features"_a, nb::keep_alive<1, 2>())
      .def(
          "forward",
          [](const Collection& self, const nb::list& ids, const nb::list& lengths, const nb::list& weights,
             Array<std::int64_t> ms, Collection::Steps& steps, MutableMatrix out) {
            auto batch = batch_of(self, ids, lengths, weights, out);
            Release release;
            self.forward(batch, {ms.data(), ms.size()}, steps);
          },
          "ids"_a, "lengths"_a, "weights"_a, "event_time_ms"_a.noconvert(), "steps"_a, "out"_a.noconvert())
      .def(
          "lookup",
          [](const Collection& self, const nb::list& ids, const nb::list& lengths, const nb::list& weights,
             MutableMatrix out) {
            auto batch = batch_of(self, ids, lengths, weights, out);
            Release release;
            self.lookup(batch);
          },
          "ids"_a, "lengths"_a, "weights"_a, "out"_a.noconvert())
      .def(
          "backward",
          [](const Collection& self, const nb::list& grads, Collection::Steps& steps) {
            const PartGradients gradients = gradients_of(grads);
            Release release;
            return self.backward(gradients, steps);
          },
          "grads"_a, "steps"_a)
      .def(
          "backward",
          [](const Collection& self, const GradientMatrix& matrix, Collection::Steps& steps) {
            const PartGradients gradients = gradients_of(self, matrix);
            Release release;
            return self.backward(gradients, steps);
          },
          "matrix"_a.noconvert(), "steps"_a);
  m.def("threads", &crew_threads);
  m.def("set_threads", &set_crew_threads, "threads"_a);
}
