// The pipeline gives every id the row it has, whatever comes and goes between its chunks.
#include "pipeline.h"

#include <numeric>

#include "check.h"

using namespace monolith;

namespace {

constexpr std::size_t kIds = 3 * Chunk::kSize + 5;

struct Fixture {
  Fixture() : rows({4, 1, Storage::float32, std::size_t{8} << 20, ""}), ids(kIds) {
    std::iota(ids.begin(), ids.end(), 100);
    for (const std::int64_t id : ids)
      if (id % 7 != 0) rows.add(hash_of(id));
  }
  // Compares every chunk with the index; `between` is called before each.
  template <class Between>
  void check_all(Between between) {
    std::size_t chunks = 0;
    Pipeline pipeline(rows, Need::all, ids.data(), ids.size());
    while (pipeline.more()) {
      between(chunks++);
      const Chunk& chunk = pipeline.next();
      for (std::size_t i = 0; i < chunk.count; ++i)
        CHECK(pipeline.row_of(chunk, i) == rows.find(hash_of(ids[chunk.begin + i])));
    }
    CHECK(chunks == 4);
  }

  Rows rows;
  std::vector<std::int64_t> ids;
};

void every_id_has_its_row() {
  Fixture f;
  f.check_all([](std::size_t) {});
  CHECK(f.rows.find(hash_of(105)) == kNoRow && f.rows.find(hash_of(106)) != kNoRow);
}

void row_that_came_between_is_found() {
  Fixture f;
  f.check_all([&](std::size_t chunk) {
    if (chunk == 1) f.rows.add(hash_of(f.ids[Chunk::kSize + 6]));  // of the second chunk, which was resolved before
  });
}

void row_that_went_between_is_not() {
  Fixture f;
  const std::int64_t gone = f.ids[Chunk::kSize + 1];
  f.check_all([&](std::size_t chunk) {
    if (chunk != 1) return;
    f.rows.remove(hash_of(gone), f.rows.find(hash_of(gone)));
    f.rows.add(hash_of(-gone));  // takes its place
  });
  CHECK(f.rows.find(hash_of(gone)) == kNoRow);
}

}  // namespace

std::vector<Test> pipeline_tests() {
  return {
      {"every id has its row", every_id_has_its_row},
      {"row that came between two chunks is found", row_that_came_between_is_found},
      {"row that went between two chunks is not", row_that_went_between_is_not},
  };
}
