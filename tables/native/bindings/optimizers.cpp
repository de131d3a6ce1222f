// Python bindings of the optimizers, one line each: a native struct is made empty, then given the fields of the config
// struct of the same name (monolith/tables/options.py), which has checked them.
#include <nanobind/stl/variant.h>

#include "bindings/bindings.h"
#include "optimizers/optimizer.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace monolith;

namespace {

template <class Bound>
nb::class_<Bound> bind(nb::module_& m, const char* name) {
  return nb::class_<Bound>(m, name)
      .def(nb::init<>())
      .def_rw("lr", &Bound::lr)
      .def_rw("weight_decay", &Bound::weight_decay)
      .def_rw("clip_row_norm", &Bound::clip_row_norm)
      .def_rw("clip_global_norm", &Bound::clip_global_norm)
      .def_rw("schedule", &Bound::schedule);
}

template <class Bound>
nb::class_<Bound> bind_adam(nb::module_& m, const char* name) {
  return bind<Bound>(m, name)
      .def_rw("beta1", &Bound::beta1)
      .def_rw("beta2", &Bound::beta2)
      .def_rw("eps", &Bound::eps)
      .def_rw("steps", &Bound::steps);
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
  bind<Sgd>(m, "SGD");
  bind<Momentum>(m, "Momentum").def_rw("momentum", &Momentum::momentum).def_rw("nesterov", &Momentum::nesterov);
  bind<Adagrad>(m, "Adagrad").def_rw("initial_accumulator", &Adagrad::initial_accumulator).def_rw("eps", &Adagrad::eps);
  bind<RowWiseAdagrad>(m, "RowWiseAdagrad")
      .def_rw("initial_accumulator", &RowWiseAdagrad::initial_accumulator)
      .def_rw("eps", &RowWiseAdagrad::eps);
  bind<RmsProp>(m, "RMSProp").def_rw("alpha", &RmsProp::alpha).def_rw("eps", &RmsProp::eps);
  bind_adam<Adam>(m, "Adam").def_rw("amsgrad", &Adam::amsgrad);
  bind_adam<AdamW>(m, "AdamW").def_rw("amsgrad", &AdamW::amsgrad);
  bind_adam<RowWiseAdam>(m, "RowWiseAdam");
  bind_adam<RowWiseAdamW>(m, "RowWiseAdamW");
  bind<Ftrl>(m, "FTRL")
      .def_rw("beta", &Ftrl::beta)
      .def_rw("l1", &Ftrl::l1)
      .def_rw("l2", &Ftrl::l2)
      .def_rw("initial_accumulator", &Ftrl::initial_accumulator);
  nb::class_<Sliced<WholeRow>>(m, "Sliced")
      .def(nb::init<>())
      .def(
          "add",
          [](Sliced<WholeRow>& self, std::size_t columns, const WholeRow& rule) {
            self.slices.push_back({columns, rule});
          },
          "columns"_a, "optimizer"_a);
}
