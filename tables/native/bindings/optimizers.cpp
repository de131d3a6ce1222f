// Python bindings of the optimizers: a native struct is made empty, then given the fields of the config struct of the
// same name (monolith/config/optimizers.py), which has checked them. Rules say their names and fields themselves.
#include <nanobind/stl/variant.h>

#include "bindings/bindings.h"
#include "optimizers/optimizer.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace monolith;

namespace {

template <class Bound>
void bind(nb::module_& m) {
  nb::class_<Bound> bound(m, Bound::kName);
  bound.def(nb::init<>())
      .def_rw("lr", &Bound::lr)
      .def_rw("weight_decay", &Bound::weight_decay)
      .def_rw("clip_row_norm", &Bound::clip_row_norm)
      .def_rw("clip_global_norm", &Bound::clip_global_norm)
      .def_rw("schedule", &Bound::schedule);
  Bound::fields([&](const char* name, auto field) { bound.def_rw(name, field); });
}

void bind_schedule(nb::module_& m) {
  nb::enum_<LrDecay>(m, "LrDecay")
      .value("constant", LrDecay::constant)
      .value("inverse_sqrt", LrDecay::inverse_sqrt)
      .value("cosine", LrDecay::cosine)
      .value("step", LrDecay::step);
  nb::class_<Schedule>(m, "Schedule")
      .def(nb::init<>())
      .def_rw("decay", &Schedule::decay)
      .def_rw("warmup_steps", &Schedule::warmup_steps)
      .def_rw("decay_steps", &Schedule::decay_steps)
      .def_rw("gamma", &Schedule::gamma)
      .def_rw("floor", &Schedule::floor)
      .def("at", &Schedule::at, "step"_a);
}

}  // namespace

void bind_optimizers(nb::module_& m) {
  bind_schedule(m);
  nb::enum_<StepCount>(m, "StepCount").value("row", StepCount::row).value("table", StepCount::table);
  Rules::each([&](auto* rule) { bind<std::remove_pointer_t<decltype(rule)>>(m); });
  nb::class_<Sliced<WholeRow>>(m, "Sliced")
      .def(nb::init<>())
      .def(
          "add",
          [](Sliced<WholeRow>& self, std::size_t columns, const WholeRow& rule) {
            self.slices.push_back({columns, rule});
          },
          "columns"_a, "optimizer"_a);
}
