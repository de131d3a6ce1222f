// Python bindings of the rules by which ids come and go.
#pragma once

#include <nanobind/nanobind.h>

void bind_policies(nanobind::module_& m);
