#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>

#include <string>

#include "bindings/bindings.h"
#include "policies/eviction.h"
#include "policies/policy.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace monolith;

namespace {

void bind_admission(nb::module_& m) {
  nb::class_<Always>(m, "Always").def(nb::init<>());
  nb::class_<Never>(m, "Never").def(nb::init<>());
  nb::class_<MinCount>(m, "MinCount")
      .def(
          "__init__",
          [](MinCount* s, std::uint32_t count, std::optional<double> half_life_s, std::size_t max_counters) {
            new (s) MinCount{count, half_life_s, max_counters};
          },
          "count"_a, "half_life_s"_a.none(), "max_counters"_a);
  nb::class_<Probability>(m, "Probability")
      .def(
          "__init__",
          [](Probability* s, double p, std::optional<double> half_life_s, std::size_t max_counters) {
            new (s) Probability{p, half_life_s, max_counters};
          },
          "p"_a, "half_life_s"_a.none(), "max_counters"_a);
}

Eviction::By by(const std::string& kind) {
  if (kind == "lru") return Eviction::By::last_seen;
  if (kind == "lfu") return Eviction::By::uses;
  return kind == "score" ? Eviction::By::score : Eviction::By::none;
}

template <class T>
nb::object numpy(const std::vector<T>& from) {  // a view, for as long as the call lasts
  return nb::cast(nb::ndarray<nb::numpy, const T, nb::ndim<1>>(from.data(), {from.size()}, nb::handle()),
                  nb::rv_policy::copy);
}

// Asks a Python function, which checks its own result: see monolith/tables/eviction.py.
ScoreFunction score_function(const nb::object& function) {
  if (function.is_none()) return nullptr;
  return [function](const Sample& sample) {
    nb::gil_scoped_acquire acquire;
    const nb::object result = function(numpy(sample.ids), numpy(sample.last_seen_ms), numpy(sample.admitted_ms),
                                       numpy(sample.uses), numpy(sample.norms), sample.clock_ms);
    const auto scores = nb::cast<nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>>(result, false);
    return std::vector<double>(scores.data(), scores.data() + scores.size());
  };
}

}  // namespace

void bind_policies(nb::module_& m) {
  bind_admission(m);
  nb::class_<Policy>(m, "Policy")
      .def(
          "__init__",
          [](Policy* s, const Admission& admission, std::int64_t ttl_ms, std::int64_t max_age_ms,
             std::uint32_t counters) { new (s) Policy{admission, {ttl_ms, max_age_ms}, counters}; },
          "admission"_a, "ttl_ms"_a, "max_age_ms"_a, "counters"_a);
  nb::class_<Pruning>(m, "Pruning")
      .def(
          "__init__",
          [](Pruning* s, std::optional<double> threshold, std::int64_t probation_ms) {
            new (s) Pruning{threshold.value_or(-1), probation_ms};
          },
          "threshold"_a.none(), "probation_ms"_a);
  nb::class_<Eviction>(m, "Eviction")
      .def(
          "__init__",
          [](Eviction* s, const std::string& kind, std::uint64_t max_rows, std::uint64_t max_bytes,
             std::int64_t half_life_ms, const nb::object& score) {
            new (s) Eviction{by(kind), max_rows, max_bytes, half_life_ms, score_function(score)};
          },
          "kind"_a, "max_rows"_a, "max_bytes"_a, "half_life_ms"_a, "score"_a.none());
}
