// The parts of the module that have files of their own.
#pragma once

#include <nanobind/nanobind.h>

void bind_optimizers(nanobind::module_& m);
void bind_collection(nanobind::module_& m);  // after the table
