#pragma once

#include <nanobind/nanobind.h>

void bind_optimizers(nanobind::module_& m);
