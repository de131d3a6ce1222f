// Training: one optimizer step for each row that the call's gradients name.
#include "table.h"

namespace monolith {
namespace {

constexpr std::size_t kBytesAhead = 2048;  // of rows fetched before they are stepped: what a core can have in flight
constexpr std::size_t kATurn = 256;        // rows stepped in one turn

// The rule with its decay known to the compiler, which then has no branch at every column and uses SIMD.
template <class Rule>
Rule without_decay(Rule rule) {
  rule.weight_decay = 0.0;
  return rule;
}

}  // namespace

std::int64_t Table::apply_gradients(const std::int64_t* ids, const float* grads, std::size_t n, Times times) {
  std::lock_guard<std::mutex> writer(writer_);
  own_step_.begin(ids, n);
  resolve(own_step_);
  return update(own_step_, grads, times);
}

std::int64_t Table::backward(Step& step, const float* grads, Times times) {
  std::lock_guard<std::mutex> writer(writer_);
  if (!step.holds(rows_, cutoff_)) {
    step.restart();
    resolve(step);
  }
  return update(step, grads, times);
}

// Reads what readers read and writes what they do not, so it needs no turn. Nothing is changed but scratch.
void Table::resolve(Step& step) {
  Pipeline pipeline(rows_, Need::tail, step.ids(), step.size());
  while (pipeline.more()) {
    const Chunk& chunk = pipeline.next();
    for (std::size_t i = 0; i < chunk.count; ++i) {
      const Row row = pipeline.row_of(chunk, i);
      step.add(rows_, row == kNoRow || expired(row) ? kNoRow : row, chunk.begin + i);
    }
  }
  step.end(rows_, cutoff_);
}

std::int64_t Table::update(const Step& step, const float* grads, Times times) {
  const std::int64_t bad = sums_.collect(step, grads, times);
  if (bad >= 0) return bad;
  statistics_.dropped_gradients += step.absent();
  statistics_.nonfinite += sums_.nonfinite();
  ++steps_;
  std::visit(
      [&](const auto& rule) {
        const auto now = at_step(rule, steps_);
        for_dim(options_.dim, [&](auto dim) { step_rows_of(now, dim, step, times); });
      },
      options_.optimizer);
  return -1;
}

template <class Rule, class Dim>
void Table::step_rows_of(const Rule& rule, Dim dim, const Step& step, Times times) {
  if constexpr (std::is_base_of_v<monolith::Rule, Rule>)
    if (rule.decay() == 0.0f) return step_rows(without_decay(rule), dim, step, times);
  step_rows(rule, dim, step, times);
}

template <class Rule, class Dim>
inline void Table::step_rows(Rule rule, Dim dim, const Step& step, Times times) {
  const Step::UniqueRow* unique = step.unique();
  const std::size_t count = step.unique_count();
  const std::size_t ahead = std::max<std::size_t>(4, kBytesAhead / rows_.stride());
  std::vector<float> scratch(rows_.narrow() ? options_.dim : 0);
  for (std::size_t begin = 0; begin < count; begin += kATurn) {
    const std::size_t end = std::min(begin + kATurn, count);
    WriterTurn turn(turnstile_);
    for (std::size_t i = begin; i < end; ++i) {
      if (i + ahead < count) {
        rows_.fetch_row(unique[i + ahead].row, Need::all);
        fetch_floats(sums_.gradient(i + ahead), dim);
      }
      const Row row = unique[i].row;
      if (times.given() && sums_.latest(i) > rows_.last_seen(row)) rows_.set_last_seen(row, sums_.latest(i));
      if (sums_.skipped(i)) continue;
      float* values = rows_.values(row, scratch.data());
      step_row(rule, values, rows_.state(row), sums_.gradient(i), dim);
      const auto hash = [&] { return hash_of(step.ids()[unique[i].first]); };
      if (rows_.narrow()) rows_.write(row, values, chance(hash(), steps_));
      if (rows_.mark(row) != sequence_) touch(row, hash());
    }
  }
}

}  // namespace monolith
