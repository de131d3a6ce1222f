// The pipeline gives every id the row it has, whatever comes and goes meanwhile.
#include "rows/pipeline.h"

#include <numeric>

#include "check.h"
#include "memory/simd.h"
#include "table/rows_ahead.h"

using namespace monolith;

namespace {

constexpr std::size_t kIds = 300;

struct Fixture {
  explicit Fixture(std::size_t dim = 4) : rows({dim, 1, Storage::float32, std::size_t{8} << 20, ""}), ids(kIds) {
    std::iota(ids.begin(), ids.end(), 100);
    for (const std::int64_t id : ids)
      if (id % 7 != 0) rows.add(hash_of(id));
  }
  // Compares every id with the index, `limit` at a time; after_visit(i) may change the table.
  template <class AfterVisit>
  void check_all(std::size_t limit, AfterVisit after_visit) {
    std::size_t visited = 0;
    Pipeline pipeline(rows, Need::all, ids.size(), Ids{ids.data()});
    while (pipeline.more()) {
      const Found found = pipeline.next(limit);
      CHECK(found.first == visited && found.count > 0 && found.count <= limit);
      for (std::size_t k = 0; k < found.count; ++k, ++visited) {
        const std::uint64_t hash = hash_of(ids[visited]);
        CHECK(found.hashes[k] == hash && pipeline.now(found, k) == rows.find(hash));
        after_visit(visited);
      }
      CHECK(pipeline.done() == visited);
    }
    CHECK(visited == kIds);
  }

  Rows rows;
  std::vector<std::int64_t> ids;
};

void every_id_has_its_row() {
  for (const std::size_t limit : {std::size_t{1}, std::size_t{7}, std::size_t{64}, kIds}) {
    Fixture f;
    f.check_all(limit, [](std::size_t) {});
    CHECK(f.rows.find(hash_of(105)) == kNoRow && f.rows.find(hash_of(106)) != kNoRow);
  }
}

void row_that_comes_meanwhile_is_found() {
  for (const std::size_t limit : {std::size_t{1}, std::size_t{7}, std::size_t{64}, kIds}) {
    Fixture f;
    f.check_all(limit, [&](std::size_t i) {
      if (i + 10 < kIds && f.ids[i + 10] % 7 == 0) f.rows.add(hash_of(f.ids[i + 10]));  // was searched before
    });
  }
}

void row_that_goes_meanwhile_is_not() {
  for (const std::size_t limit : {std::size_t{1}, std::size_t{7}, std::size_t{64}, kIds}) {
    Fixture f;
    f.check_all(limit, [&](std::size_t i) {
      if (i % 10 != 0 || i + 5 >= kIds || f.ids[i + 5] % 7 == 0) return;
      const std::uint64_t gone = hash_of(f.ids[i + 5]);
      f.rows.remove(gone, f.rows.find(gone));
      f.rows.add(hash_of(-f.ids[i + 5]));  // takes its place
    });
  }
}

void many_at_once_are_as_one_by_one() {
  const Simd detected = simd();
  const Fixture f;
  const Index::Homes homes = f.rows.homes();
  for (const Simd level : {Simd::portable, detected})
    for (std::size_t n = 0; n < 70; ++n) {
      simd() = level;
      std::vector<std::uint64_t> hashes(n), salted(n);
      std::vector<const IndexEntry*> at(n);
      hash_ids(f.ids.data(), n, std::nullopt, hashes.data());
      hash_ids(f.ids.data(), n, 99, salted.data());
      homes.of(hashes.data(), n, at.data());
      for (std::size_t i = 0; i < n; ++i) {
        CHECK(hashes[i] == hash_of(f.ids[i]) && at[i] == homes.of(hashes[i]));
        CHECK(salted[i] == mix64(hash_of(f.ids[i] ^ 99)));
      }
    }
  simd() = detected;
}

// Only the sanitizer sees what it reads. Rows are so wide that it is four of them ahead.
void rows_are_fetched_ahead_within_the_list() {
  Fixture f(256);
  for (const std::size_t count : {1, 4, 8, 12, 13, 250})
    for (const bool far : {false, true}) {
      Part part;
      part.ids = f.ids.data();
      part.count = part.samples = count;
      Group group;
      group.begin({part}, 0, 1);
      group.restart(1);
      {
        Group::Adder adder(group, f.rows);
        for (std::size_t i = 0; i < count; ++i)
          if (const Row row = f.rows.find(group.hash(i)); row != kNoRow) adder.add(row, i);
      }
      GradientSums sums;
      sums.start(group, 256);
      const std::vector<Group::UniqueRow> unique(group.unique(), group.unique() + group.unique_count());
      RowsAhead ahead(f.rows, unique.data(), unique.size(), sums, std::size_t{256}, far);
      for (std::size_t left = unique.size(); left-- > 0;) ahead.fetch_before(left, false);
    }
}

}  // namespace

std::vector<Test> pipeline_tests() {
  return {
      {"many at once are as one by one", many_at_once_are_as_one_by_one},
      {"rows are fetched ahead within the list", rows_are_fetched_ahead_within_the_list},
      {"every id has its row", every_id_has_its_row},
      {"row that comes meanwhile is found", row_that_comes_meanwhile_is_found},
      {"row that goes meanwhile is not", row_that_goes_meanwhile_is_not},
  };
}
