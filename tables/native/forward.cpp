// Training: ids are observed and read in one pass, and what was resolved is kept for backward.
#include <algorithm>
#include <cstring>

#include "table.h"

namespace monolith {
namespace {

constexpr std::size_t kChunksATurn = 4;  // taking a turn waits for the stores before it; 256 ids are some 5 us

}  // namespace

void Table::forward(const std::int64_t* ids, std::size_t n, Times times, Step& step, float* out) {
  std::lock_guard<std::mutex> writer(writer_);
  if (n != 0 && times.given()) set_clock(*std::max_element(times.ms, times.ms + times.count));
  step.begin(ids, n);
  const std::uint64_t admitted = statistics_.admitted;
  for_dim(options_.dim, [&](auto dim) { observe_and_read(step, times, out, dim); });
  if (step.absent() != 0 && statistics_.admitted != admitted) read_admitted_since(step, out);
  step.end(rows_, cutoff_);
  statistics_.observed += n;
}

// A row that is there when its id is observed stays as it is to the call's end, so it can be read at once.
template <class Dim>
void Table::observe_and_read(Step& step, Times times, float* out, Dim dim) {
  Pipeline pipeline(rows_, Need::all, step.ids(), step.size());
  while (pipeline.more()) {
    WriterTurn turn(turnstile_);
    for (std::size_t chunks = 0; chunks < kChunksATurn && pipeline.more(); ++chunks)
      out = observe_and_read(pipeline, pipeline.next(), step, times, out, dim);
  }
}

template <class Dim>
float* Table::observe_and_read(const Pipeline& pipeline, const Chunk& chunk, Step& step, Times times, float* out,
                               Dim dim) {
  for (std::size_t i = 0; i < chunk.count; ++i, out += dim) {
    const std::size_t position = chunk.begin + i;
    Row row = pipeline.row_of(chunk, i);
    const std::int64_t t = times.given() ? times.at(position) : clock_ms_;
    if (row != kNoRow && !expired(row))
      rows_.set_last_seen(row, std::max(rows_.last_seen(row), t));  // as observe_one() does, without a branch
    else
      row = observe_one(chunk.hash[i], row, t);
    step.add(rows_, row, position);
    if (row != kNoRow)
      rows_.read(row, dim, out);
    else
      std::memset(out, 0, dim * sizeof *out);
  }
  return out;
}

// Occurrences that had no row when they were observed, and whose id a later one of the call brought in.
void Table::read_admitted_since(Step& step, float* out) {
  std::vector<Row> rows(step.size());
  bool found = false;
  for (std::size_t i = 0; i < step.size(); ++i) {
    rows[i] = step.row(i);
    if (rows[i] != kNoRow) continue;
    rows[i] = rows_.find(hash_of(step.ids()[i]));
    if (rows[i] == kNoRow) continue;
    rows_.read(rows[i], options_.dim, out + i * options_.dim);
    found = true;
  }
  if (!found) return;
  step.restart();  // their rows' first occurrences are others now
  for (std::size_t i = 0; i < step.size(); ++i) step.add(rows_, rows[i], i);
}

}  // namespace monolith
