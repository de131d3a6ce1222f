// What the files of the module share: the arrays that come in, and the parts that have files of their own.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <utility>
#include <vector>

template <class T>
using Array = nanobind::ndarray<const T, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;
using Matrix = nanobind::ndarray<const float, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;
using MutableFlags = nanobind::ndarray<bool, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;
using MutableMatrix = nanobind::ndarray<float, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;
using Release = nanobind::gil_scoped_release;

template <class T>
nanobind::ndarray<nanobind::numpy, T, nanobind::ndim<1>> numpy(std::vector<T>&& from) {
  auto* kept = new std::vector<T>(std::move(from));
  nanobind::capsule owner(kept, [](void* vector) noexcept { delete static_cast<std::vector<T>*>(vector); });
  return nanobind::ndarray<nanobind::numpy, T, nanobind::ndim<1>>(kept->data(), {kept->size()}, owner);
}

void bind_build(nanobind::module_& m);
void bind_optimizers(nanobind::module_& m);
void bind_splits(nanobind::module_& m);
void bind_policies(nanobind::module_& m);
void bind_collection(nanobind::module_& m);  // after the table
void bind_hot_ids(nanobind::module_& m);
void bind_sharding(nanobind::module_& m);  // after the table, of which it adds calls
