// Python bindings of splits by owners of buckets; monolith/tables/split.py checks the arguments.
#include <nanobind/stl/optional.h>

#include "bindings/bindings.h"
#include "index/split.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace monolith;

namespace {

using Salt = std::optional<std::uint64_t>;

template <Split (*kSplit)(const IdsToSplit&, const Owners&)>
nb::tuple split_as(Array<std::int64_t> ids, Salt salt, Array<std::int32_t> owners, std::size_t count) {
  Split split;
  {
    Release release;
    split = kSplit({ids.data(), ids.size(), salt}, {owners.data(), count});
  }
  return nb::make_tuple(numpy(std::move(split.positions)), numpy(std::move(split.ends)), numpy(std::move(split.back)),
                        numpy(std::move(split.counts)));
}

nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>> buckets(Array<std::int64_t> ids, Salt salt) {
  std::vector<std::int64_t> numbers;
  {
    Release release;
    numbers = buckets_of({ids.data(), ids.size(), salt});
  }
  return numpy(std::move(numbers));
}

}  // namespace

void bind_splits(nb::module_& m) {
  m.def("split", &split_as<&split>, "ids"_a.noconvert(), "salt"_a.none(), "owners"_a.noconvert(), "count"_a);
  m.def("split_unique", &split_as<&split_unique>, "ids"_a.noconvert(), "salt"_a.none(), "owners"_a.noconvert(),
        "count"_a);
  m.def("buckets", &buckets, "ids"_a.noconvert(), "salt"_a.none());
}
