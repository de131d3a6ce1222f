// The pipeline gives every id the row it has, whatever comes and goes meanwhile.
#include "pipeline.h"

#include <numeric>

#include "check.h"

using namespace monolith;

namespace {

constexpr std::size_t kIds = 300;

struct Fixture {
  Fixture() : rows({4, 1, Storage::float32, std::size_t{8} << 20, ""}), ids(kIds) {
    std::iota(ids.begin(), ids.end(), 100);
    for (const std::int64_t id : ids)
      if (id % 7 != 0) rows.add(hash_of(id));
  }
  // Compares every id with the index, `limit` at a time; after_visit(i) may change the table.
  template <class AfterVisit>
  void check_all(std::size_t limit, AfterVisit after_visit) {
    std::size_t visited = 0;
    Pipeline pipeline(rows, Need::all, ids.size(), [&](std::size_t i) { return hash_of(ids[i]); });
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

}  // namespace

std::vector<Test> pipeline_tests() {
  return {
      {"every id has its row", every_id_has_its_row},
      {"row that comes meanwhile is found", row_that_comes_meanwhile_is_found},
      {"row that goes meanwhile is not", row_that_goes_meanwhile_is_not},
  };
}
