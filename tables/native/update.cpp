// Training: one optimizer step for each row that the call's gradients name.
#include "table.h"

namespace monolith {
namespace {

constexpr std::size_t kAhead = 24;  // rows fetched before they are stepped

}  // namespace

std::int64_t Table::apply_gradients(const std::int64_t* ids, const float* grads, std::size_t n, Times times) {
  std::lock_guard<std::mutex> writer(writer_);
  Statistics counted = statistics_;
  sums_.begin(grads, times);
  const std::int64_t bad = gather(ids, n, counted);
  if (bad >= 0) return bad;
  statistics_ = counted;
  ++steps_;
  std::visit(
      [&](const auto& rule) {
        const auto now = at_step(rule, steps_);
        for_dim(options_.dim, [&](auto dim) { step_rows(now, dim, ids, times); });
      },
      options_.optimizer);
  return -1;
}

// Reads what readers read and writes what they do not, so it needs no turn. Nothing is changed but scratch.
std::int64_t Table::gather(const std::int64_t* ids, std::size_t n, Statistics& counted) {
  Pipeline pipeline(rows_, Need::tail, ids, n, &recent_);
  while (pipeline.more()) {
    const Chunk& chunk = pipeline.next();
    const bool clean = sums_.finite(chunk.begin, chunk.count);
    for (std::size_t i = 0; i < chunk.count; ++i) {
      const std::size_t position = chunk.begin + i;
      const bool bad = !clean && !sums_.finite(position, 1);
      if (bad && options_.on_nonfinite == NonFinite::raise) return static_cast<std::int64_t>(position);
      counted.nonfinite += bad;
      if (chunk.row[i] == nullptr || expired(chunk.row[i]))
        ++counted.dropped_gradients;
      else
        sums_.add(chunk.row[i], static_cast<std::uint32_t>(position), bad);
    }
  }
  const std::int64_t overflow = sums_.settle();
  counted.nonfinite += sums_.overflowed();
  return overflow;
}

template <class Rule, class Dim>
void Table::step_rows(const Rule& rule, Dim dim, const std::int64_t* ids, Times times) {
  const std::vector<GradientSums::UniqueRow>& unique = sums_.rows();
  std::vector<float> scratch(rows_.narrow() ? options_.dim : 0);
  for (std::size_t begin = 0; begin < unique.size(); begin += Chunk::kSize) {
    const std::size_t end = std::min(begin + Chunk::kSize, unique.size());
    WriterTurn turn(turnstile_);
    for (std::size_t i = begin; i < end; ++i) {
      if (i + kAhead < unique.size()) rows_.fetch_row(unique[i + kAhead].row, Need::all);
      char* row = unique[i].row;
      if (times.given() && sums_.latest(i) > rows_.last_seen(row)) rows_.set_last_seen(row, sums_.latest(i));
      if (sums_.skipped(unique[i])) continue;
      float* values = rows_.values(row, scratch.data());
      step_row(rule, values, rows_.state(row), sums_.gradient(unique[i]), dim);
      if (rows_.narrow()) rows_.write(row, values, chance(hash_of(ids[unique[i].first]), steps_));
      if (rows_.mark(row) != sequence_) touch(row, hash_of(ids[unique[i].first]));
    }
  }
}

}  // namespace monolith
