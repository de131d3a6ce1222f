// Python bindings for tables whose parts are in several processes: bags of rows that came from elsewhere, gradients
// that go there, and backward in the steps between which processes agree. monolith/training/sharding checks the
// arguments.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "bindings/bindings.h"
#include "table/table.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace monolith;

namespace {

using Flat = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Vectors = nb::ndarray<float, nb::ndim<2>, nb::device::cpu>;                // whose columns lie side by side
using VectorGradients = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;  // and theirs
using Numbers = Array<std::int64_t>;

// Rows of one table in memory that holds those of others as well: a block for each rank, of which block r begins at
// float begins[r] and has the rows up to number ends[r].
struct Blocks {
  Flat flat;
  Numbers begins, ends;
  std::size_t dim;

  std::size_t ranks() const { return begins.size(); }
  std::size_t rows() const { return ranks() == 0 ? 0 : static_cast<std::size_t>(ends.data()[ranks() - 1]); }
  float* block(std::size_t rank) const { return flat.data() + begins.data()[rank]; }
  std::size_t count(std::size_t rank) const {
    return static_cast<std::size_t>(ends.data()[rank] - (rank == 0 ? 0 : ends.data()[rank - 1]));
  }
  std::vector<float*> each() const {
    std::vector<float*> rows;
    rows.reserve(this->rows());
    for (std::size_t rank = 0; rank < ranks(); ++rank)
      for (std::size_t k = 0; k < count(rank); ++k) rows.push_back(block(rank) + k * dim);
    return rows;
  }
  // Their ids, as features of one call.
  Parts of(const Numbers& ids) const {
    Parts parts(ranks());
    for (std::size_t rank = 0, done = 0; rank < ranks(); done += count(rank++)) {
      parts[rank].ids = ids.data() + done;
      parts[rank].count = parts[rank].samples = count(rank);
      parts[rank].out = block(rank);
      parts[rank].stride = dim;
    }
    return parts;
  }
  // As gradients of those features.
  PartGradients gradients() const {
    static const float none = 0.0f;  // of no rows: there is a gradient for each
    PartGradients gradients;
    for (std::size_t rank = 0; rank < ranks(); ++rank) gradients.push_back({count(rank) ? block(rank) : &none, dim});
    return gradients;
  }
};

// The bags of each feature of a table; arrays are held by the lists for the length of the call. Feature k has the ids
// [ends[k - 1], ends[k]).
Parts bags(const Numbers& ends, std::size_t samples, const nb::list& lengths, const nb::list& weights, bool mean) {
  Parts parts(ends.size());
  for (std::size_t k = 0; k < parts.size(); ++k) {
    parts[k].count = static_cast<std::size_t>(ends.data()[k] - (k == 0 ? 0 : ends.data()[k - 1]));
    parts[k].samples = samples;
    if (!lengths[k].is_none()) parts[k].lengths = nb::cast<Array<std::int32_t>>(lengths[k], false).data();
    if (!weights[k].is_none()) parts[k].weights = nb::cast<Array<float>>(weights[k], false).data();
    parts[k].mean = mean;
  }
  return parts;
}

// Bags of rows to vectors: the columns of `out` (samples, all features' dims) from `column` on.
void pool_blocks(Flat flat, Numbers begins, Numbers row_ends, Numbers places, Numbers ends, nb::list lengths,
                 nb::list weights, bool mean, std::size_t dim, MutableMatrix out, std::size_t column) {
  Parts parts = bags(ends, out.shape(0), lengths, weights, mean);
  Release release;
  const std::vector<float*> rows = Blocks{flat, begins, row_ends, dim}.each();
  const std::int64_t* place = places.data();
  for (Part& part : parts) {
    part.out = out.data() + column;
    part.stride = out.shape(1);
    pool_rows(part, rows.data(), dim, place);
    place += part.count;
    column += dim;
  }
}

// Gradients of those vectors to sums by row.
void sum_blocks(VectorGradients grads, std::size_t column, float shared_by, Numbers places, Numbers ends,
                nb::list lengths, nb::list weights, bool mean, std::size_t dim, Flat flat, Numbers begins,
                Numbers row_ends) {
  const Parts parts = bags(ends, grads.shape(0), lengths, weights, mean);
  Release release;
  const std::vector<float*> sums = Blocks{flat, begins, row_ends, dim}.each();
  std::vector<char> begun(sums.size());
  const auto stride = static_cast<std::size_t>(grads.stride(0));
  const std::int64_t* place = places.data();
  for (const Part& part : parts) {
    sum_gradients(part, {grads.data() + column, stride}, shared_by, place, dim, begun.data(), sums.data());
    place += part.count;
    column += dim;
  }
}

nb::list squares_by_rule(Table& table, const Step& step) {
  std::vector<std::vector<double>> all;
  {
    Release release;
    all = table.squares(step);
  }
  nb::list arrays;
  for (std::vector<double>& each : all) arrays.append(numpy(std::move(each)));
  return arrays;
}

}  // namespace

void bind_sharding(nb::module_& m) {
  bind_splits(m);
  m.def("pool_blocks", &pool_blocks, "flat"_a.noconvert(), "begins"_a.noconvert(), "row_ends"_a.noconvert(),
        "places"_a.noconvert(), "ends"_a.noconvert(), "lengths"_a, "weights"_a, "mean"_a, "dim"_a, "out"_a.noconvert(),
        "column"_a);
  m.def("sum_blocks", &sum_blocks, "grads"_a.noconvert(), "column"_a, "shared_by"_a, "places"_a.noconvert(),
        "ends"_a.noconvert(), "lengths"_a, "weights"_a, "mean"_a, "dim"_a, "flat"_a.noconvert(), "begins"_a.noconvert(),
        "row_ends"_a.noconvert());
  m.def(
      "table_lookup_blocks",
      [](const Table& table, Numbers ids, Flat flat, Numbers begins, Numbers row_ends) {
        Release release;
        table.lookup(Blocks{flat, begins, row_ends, table.dim()}.of(ids));
      },
      "table"_a, "ids"_a.noconvert(), "flat"_a.noconvert(), "begins"_a.noconvert(), "row_ends"_a.noconvert());
  m.def(
      "table_forward_blocks",
      [](Table& table, Numbers ids, Numbers ms, Step& step, Flat flat, Numbers begins, Numbers row_ends) {
        Release release;
        table.forward(Blocks{flat, begins, row_ends, table.dim()}.of(ids), {ms.data(), ms.size()}, step);
      },
      "table"_a, "ids"_a.noconvert(), "event_time_ms"_a.noconvert(), "step"_a, "flat"_a.noconvert(),
      "begins"_a.noconvert(), "row_ends"_a.noconvert());
  m.def(
      "table_collect_blocks",
      [](Table& table, Step& step, Flat flat, Numbers begins, Numbers row_ends) {
        Release release;
        return table.collect_part(step, Blocks{flat, begins, row_ends, table.dim()}.gradients());
      },
      "table"_a, "step"_a, "flat"_a.noconvert(), "begins"_a.noconvert(), "row_ends"_a.noconvert());
  m.def(
      "table_begin",
      [](Table& table, Array<std::int64_t> ids, Step& step) {
        Release release;
        table.begin(ids.data(), ids.size(), step);
      },
      "table"_a, "ids"_a.noconvert(), "step"_a);
  m.def(
      "table_collect",
      [](Table& table, Step& step, Matrix grads) {
        Release release;
        static const float none = 0.0f;
        return table.collect_part(step, {{grads.size() == 0 ? &none : grads.data(), grads.shape(1)}});
      },
      "table"_a, "step"_a, "grads"_a.noconvert());
  m.def(
      "table_sharing",
      [](Table& table, Step& step) {
        std::vector<std::int64_t> positions;
        {
          Release release;
          positions = table.sharing(step);
        }
        return numpy(std::move(positions));
      },
      "table"_a, "step"_a);
  m.def(
      "table_share_instead",
      [](Table& table, Step& step, Numbers numbers, bool counts) {
        Release release;
        table.share_instead(step, numbers.data(), numbers.size(), counts);
      },
      "table"_a, "step"_a, "numbers"_a.noconvert(), "counts"_a);
  m.def(
      "table_collect_shared",
      [](Table& table, Step& step, Matrix grads, Matrix shared) {
        Release release;
        static const float none = 0.0f;
        return table.collect_part(step, {{grads.size() == 0 ? &none : grads.data(), grads.shape(1)},
                                         {shared.size() == 0 ? &none : shared.data(), shared.shape(1)}});
      },
      "table"_a, "step"_a, "grads"_a.noconvert(), "shared"_a.noconvert());
  m.def(
      "table_tail_rows",
      [](const Table& table, Numbers numbers) {
        TailRows rows;
        {
          Release release;
          rows = table.tail_rows(numbers.data(), numbers.size());
        }
        return nb::make_tuple(numpy(std::move(rows.marks)), numpy(std::move(rows.values)),
                              numpy(std::move(rows.state)));
      },
      "table"_a, "numbers"_a.noconvert());
  m.def(
      "table_set_tail_rows",
      [](Table& table, Numbers numbers, Array<std::uint32_t> marks, Array<float> values, Array<float> state) {
        const TailRows rows{{marks.data(), marks.data() + marks.size()},
                            {values.data(), values.data() + values.size()},
                            {state.data(), state.data() + state.size()}};
        Release release;
        table.set_tail_rows(numbers.data(), rows);
      },
      "table"_a, "numbers"_a.noconvert(), "marks"_a.noconvert(), "values"_a.noconvert(), "state"_a.noconvert());
  m.def("table_squares", &squares_by_rule, "table"_a, "step"_a);
  m.def(
      "table_apply",
      [](Table& table, const Step& step, const std::vector<double>& norms) {
        Release release;
        table.apply_part(step, norms);
      },
      "table"_a, "step"_a, "norms"_a);
}
