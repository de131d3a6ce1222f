// What one call resolved serves the next with the same ids, until a row is removed.
#include "pipeline.h"

#include <numeric>

#include "check.h"

using namespace monolith;

namespace {

constexpr std::size_t kIds = 3 * Chunk::kSize + 5;

struct Fixture {
  Fixture() : rows(4, 1, std::size_t{1} << 20), ids(kIds) {
    std::iota(ids.begin(), ids.end(), 100);
    recent.begin(ids.data(), ids.size());
    for (const std::int64_t id : ids) recent.add(id % 7 == 0 ? nullptr : rows.add(hash_of(id)));
    recent.end(rows);
  }
  // Compares every chunk with the index; `between` is called before each chunk.
  template <class Between>
  std::size_t recalled_chunks(const std::vector<std::int64_t>& wanted, Between between) {
    std::size_t recalled = 0;
    Pipeline pipeline(rows, Need::all, wanted.data(), wanted.size(), &recent);
    while (pipeline.more()) {
      between();
      const Chunk& chunk = pipeline.next();
      recalled += chunk.recalled;
      for (std::size_t i = 0; i < chunk.count; ++i) CHECK(chunk.row[i] == rows.find(hash_of(wanted[chunk.begin + i])));
    }
    return recalled;
  }

  Rows rows;
  Recent recent;
  std::vector<std::int64_t> ids;
};

void same_ids_are_recalled() {
  Fixture f;
  CHECK(f.recalled_chunks(f.ids, [] {}) == 4);
}

void other_ids_are_looked_up() {
  Fixture f;
  std::vector<std::int64_t> wanted = f.ids;
  wanted[Chunk::kSize + 3] = 101;
  wanted.push_back(102);
  CHECK(f.recalled_chunks(wanted, [] {}) == 2);
}

void row_that_was_added_since_is_found() {
  Fixture f;
  f.rows.add(hash_of(105));
  CHECK(f.recalled_chunks(f.ids, [] {}) == 4);
}

void row_that_was_removed_between_chunks_is_not() {
  Fixture f;
  const std::int64_t gone = f.ids[Chunk::kSize + 1];  // of the second chunk, which is prepared with the first
  int chunks = 0;
  f.recalled_chunks(f.ids, [&] {
    if (chunks++ != 1) return;
    f.rows.remove(hash_of(gone));
    f.rows.add(hash_of(-gone));  // takes its place
  });
  CHECK(chunks == 4 && f.rows.find(hash_of(gone)) == nullptr);
}

}  // namespace

std::vector<Test> pipeline_tests() {
  return {
      {"same ids are recalled", same_ids_are_recalled},
      {"other ids are looked up", other_ids_are_looked_up},
      {"row that was added since is found", row_that_was_added_since_is_found},
      {"row that was removed between chunks is not", row_that_was_removed_between_chunks_is_not},
  };
}
