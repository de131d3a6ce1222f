// What the files of the module share: the arrays that come in, and the parts that have files of their own.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

template <class T>
using Array = nanobind::ndarray<const T, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;
using Matrix = nanobind::ndarray<const float, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;
using MutableFlags = nanobind::ndarray<bool, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;
using MutableMatrix = nanobind::ndarray<float, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;
using Release = nanobind::gil_scoped_release;

void bind_build(nanobind::module_& m);
void bind_optimizers(nanobind::module_& m);
void bind_policies(nanobind::module_& m);
void bind_collection(nanobind::module_& m);  // after the table
