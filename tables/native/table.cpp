#include "table.h"

#include <algorithm>

namespace monolith {
namespace {

std::size_t state_floats_of(const TableOptions& options) {
  return std::visit([&](const auto& rule) { return rule.state_floats(options.dim); }, options.optimizer);
}

CounterLimits limits_of(const TableOptions& options) {
  return std::visit([](const auto& rule) { return rule.limits(); }, options.admission);
}

std::int64_t cutoff_for(std::int64_t clock_ms, std::int64_t ttl_ms) {
  if (ttl_ms == 0 || clock_ms < INT64_MIN + ttl_ms) return INT64_MIN;
  return clock_ms - ttl_ms;
}

}  // namespace

Table::Table(const TableOptions& options)
    : options_(options),
      rows_({options.dim, state_floats_of(options), options.storage, options.reserve_bytes, options.folder}),
      counters_(limits_of(options)),
      first_values_(options.dim) {}

void Table::advance(std::int64_t clock_ms) {
  std::lock_guard<std::mutex> writer(writer_);
  set_clock(clock_ms);
}

std::uint64_t Table::sweep(std::size_t buckets, std::uint64_t max_rows) {
  std::lock_guard<std::mutex> writer(writer_);
  std::uint64_t removed = 0, looked_at = 0;
  for (std::size_t i = 0; i < std::min(buckets, kBuckets) && looked_at < max_rows; ++i) {
    looked_at += rows_.bucket_size(sweep_cursor_);
    removed += sweep_bucket(sweep_cursor_);
    sweep_cursor_ = (sweep_cursor_ + 1) % kBuckets;
  }
  return removed;
}

void Table::set_clock(std::int64_t clock_ms) {
  if (clock_ms <= clock_ms_) return;
  WriterTurn turn(turnstile_);
  clock_ms_ = clock_ms;
  cutoff_ = cutoff_for(clock_ms, options_.ttl_ms);
}

Row Table::observe_one(std::uint64_t hash, Row row, std::int64_t t) {
  if (row != kNoRow && expired(row)) {
    remove(hash, row);
    row = kNoRow;
  }
  if (row != kNoRow) {
    seen(row, t);
  } else if (t < cutoff_) {
    ++statistics_.late;
  } else if (!admits(hash, t)) {
    ++statistics_.rejected;
  } else {
    row = add_row(hash);
    start_values(row, hash);
    start_state(row, hash, t);
    ++statistics_.admitted;
  }
  return row;
}

bool Table::admits(std::uint64_t hash, std::int64_t t) {
  return std::visit([&](const auto& rule) { return rule.admits(counters_, options_.key, hash, t); },
                    options_.admission);
}

Row Table::add_row(std::uint64_t hash) {
  counters_.forget(hash);
  tombstones_.remove(hash);
  return rows_.add(hash);
}

void Table::start_values(Row row, std::uint64_t hash) {
  float* values = first_values_.data();
  std::visit([&](const auto& rule) { rule.fill(values, options_.dim, mix64(options_.key ^ hash)); },
             options_.initializer);
  std::visit([&](const auto& rule) { rule.start_values(values, options_.dim); }, options_.optimizer);
  rows_.write(row, values, chance(hash, 0));
}

std::uint64_t Table::chance(std::uint64_t hash, std::uint64_t step) const {
  constexpr std::uint64_t kRoundingStream = 0xD1342543DE82EF95u;
  return draw(mix64(options_.key ^ hash ^ kRoundingStream), step);
}

void Table::start_state(Row row, std::uint64_t hash, std::int64_t last_seen_ms) {
  std::visit([&](const auto& rule) { rule.start(rows_.state(row), options_.dim); }, options_.optimizer);
  rows_.set_last_seen(row, last_seen_ms);
  rows_.set_slot(row, 0);
  rows_.set_mark(row, 0);
  touch(row, hash);
}

void Table::remove(std::uint64_t hash, Row row) {
  rows_.remove(hash, row);
  tombstones_.add(hash, sequence_);
  ++statistics_.expired;
}

void Table::touch(Row row, std::uint64_t hash) {
  if (rows_.mark(row) == sequence_) return;
  rows_.set_mark(row, sequence_);
  touched_now_.add(hash, rows_.size());
}

std::uint64_t Table::sweep_bucket(std::size_t bucket) {
  counters_.sweep(bucket, clock_ms_);
  if (cutoff_ == INT64_MIN) return 0;
  std::vector<std::pair<std::uint64_t, Row>> all, gone;
  all.reserve(rows_.bucket_size(bucket));
  rows_.each(bucket, [&](std::uint64_t hash, Row row) { all.emplace_back(hash, row); });
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (i + 16 < all.size()) rows_.fetch_row(all[i + 16].second, Need::tail);
    if (expired(all[i].second)) gone.push_back(all[i]);
  }
  if (gone.empty()) return 0;
  WriterTurn turn(turnstile_);
  for (const auto& [hash, row] : gone) remove(hash, row);
  return gone.size();
}

Clockwork Table::clockwork() const {
  std::lock_guard<std::mutex> writer(writer_);
  return {sequence_, floor_, clock_ms_, sweep_cursor_, steps_};
}

void Table::set_clockwork(const Clockwork& clockwork) {
  std::lock_guard<std::mutex> writer(writer_);
  WriterTurn turn(turnstile_);
  sequence_ = clockwork.sequence;
  floor_ = clockwork.floor;
  clock_ms_ = clockwork.clock_ms;
  cutoff_ = cutoff_for(clock_ms_, options_.ttl_ms);
  sweep_cursor_ = clockwork.sweep_cursor;
  steps_ = clockwork.steps;
}

Statistics Table::statistics() const {
  std::lock_guard<std::mutex> writer(writer_);
  Statistics statistics = statistics_;
  statistics.counter_halvings = counters_.halvings();
  return statistics;
}

void Table::set_statistics(const Statistics& statistics) {
  std::lock_guard<std::mutex> writer(writer_);
  statistics_ = statistics;
  counters_.set_halvings(statistics.counter_halvings);
}

Sizes Table::sizes() const {
  std::lock_guard<std::mutex> writer(writer_);
  const std::uint64_t held = rows_.size() + rows_.free();
  std::size_t sums_bytes = 0;
  for (const GradientSums& sums : sums_) sums_bytes += sums.bytes();
  return {rows_.size(),
          rows_.free(),
          counters_.size(),
          tombstones_.size(),
          held * rows_.value_bytes(),
          held * rows_.state_floats() * sizeof(float),
          held * rows_.tail_bytes() + rows_.free_list_bytes(),
          rows_.index_bytes(),
          counters_.bytes(),
          tombstones_.bytes(),
          own_step_.bytes() + sums_bytes + touched_now_.bytes() + touched_last_.bytes()};
}

}  // namespace monolith
