#include "table/table.h"

#include <algorithm>

namespace monolith {
namespace {

std::size_t state_floats_of(const TableOptions& options) {
  return std::visit([&](const auto& rule) { return rule.state_floats(options.dim); }, options.optimizer);
}

std::vector<Policy> policies_of(const TableOptions& options) {
  std::vector<Policy> policies{{options.admission, {options.ttl_ms, options.max_age_ms}, 0}};
  policies.insert(policies.end(), options.features.begin(), options.features.end());
  return policies;
}

RowOptions row_options(const TableOptions& options) {
  const Eviction::By by = options.eviction.by;
  bool ages = by == Eviction::By::score || options.max_age_ms != 0 || options.pruning.prunes();
  for (const Policy& policy : options.features) ages = ages || policy.lifetime.age_ms != 0;
  const bool uses = by == Eviction::By::uses || by == Eviction::By::score;
  return {options.dim, state_floats_of(options),  options.storage,  options.reserve_bytes, options.folder, ages,
          uses,        !options.features.empty(), options.tail.rows};
}

bool any_expires(const std::vector<Policy>& policies) {
  return std::any_of(policies.begin(), policies.end(),
                     [](const Policy& policy) { return policy.lifetime.idle_ms != 0 || policy.lifetime.age_ms != 0; });
}

std::deque<Counters> counters_of(const std::vector<Policy>& policies) {
  std::deque<Counters> counters;
  for (std::size_t i = 0; i < policies.size(); ++i)
    counters.emplace_back(policies[i].counters == i ? policies[i].limits() : CounterLimits{0, 0});
  return counters;
}

}  // namespace

Table::Table(const TableOptions& options)
    : options_(options),
      largest_(std::visit([](const auto& rule) { return largest_gradient(rule); }, options.optimizer)),
      policies_(policies_of(options)),
      rows_expire_(any_expires(policies_)),
      sweeps_rows_(rows_expire_ || options.pruning.prunes()),
      rows_(row_options(options)),
      cutoffs_(policies_.size()),
      counters_(counters_of(policies_)),
      tombstones_(options.tombstones),
      row_limit_(options.eviction.row_limit(rows_.stride())),
      first_values_(options.dim) {
  start_tail();
}

void Table::advance(std::int64_t clock_ms) {
  const Writing writing(writer_);
  set_clock(clock_ms);
}

void Table::set_clock(std::int64_t clock_ms) {
  if (clock_ms <= clock_ms_) return;
  WriterTurn turn(turnstile_);
  clock_ms_ = clock_ms;
  set_cutoffs();
}

void Table::set_cutoffs() {
  newest_cutoff_ = INT64_MIN;
  for (std::size_t i = 0; i < policies_.size(); ++i) {
    cutoffs_[i] = Cutoffs::at(clock_ms_, policies_[i].lifetime);
    newest_cutoff_ = std::max(newest_cutoff_, cutoffs_[i].age == INT64_MIN ? cutoffs_[i].idle : INT64_MAX);
  }
  cutoff_ = newest_cutoff_ == INT64_MIN ? INT64_MIN : clock_ms_;
}

bool Table::has_expired(Row row) const {
  const Cutoffs& cutoffs = cutoffs_[rows_.policy(row)];
  return rows_.last_seen(row) < cutoffs.idle || rows_.admitted(row) < cutoffs.age;
}

void Table::count_use(Row row, std::int64_t t) { rows_.set_uses(row, one_more(uses_at(row, t))); }

Row Table::observe_one(std::uint64_t hash, std::int64_t t, std::uint32_t policy) {
  Row row = rows_.find(hash);
  if (row != kNoRow && expired(row)) {
    remove(hash, row, expiry_of(row));
    row = kNoRow;
  }
  if (row != kNoRow) {
    seen(rows_, row, t);
  } else if (t < cutoffs_[policy].idle || t < cutoffs_[policy].age) {
    ++statistics_.late;
  } else if (!admits(hash, t, policies_[policy])) {
    ++statistics_.rejected;
  } else {
    row = add_row(hash);
    start_values(row, hash);
    start_state(row, hash, t, policy);
    ++statistics_.admitted;
  }
  return row;
}

bool Table::admits(std::uint64_t hash, std::int64_t t, const Policy& policy) {
  return std::visit([&](const auto& rule) { return rule.admits(counters_[policy.counters], options_.key, hash, t); },
                    policy.admission);
}

Row Table::add_row(std::uint64_t hash) {
  const Row row = rows_.add(hash);  // may throw: before the first change
  for (Counters& counters : counters_) counters.forget(hash);
  tombstones_.remove(hash);
  return row;
}

void Table::start_values(Row row, std::uint64_t hash) {
  float* values = first_values_.data();
  if (options_.tail.start && row > rows_.shared())
    rows_.read(rows_.shared_row(hash), options_.dim, values);
  else
    std::visit([&](const auto& rule) { rule.fill(values, options_.dim, mix64(options_.key ^ hash)); },
               options_.initializer);
  std::visit([&](const auto& rule) { rule.start_values(values, options_.dim); }, options_.optimizer);
  rows_.write(row, values, chance(hash, 0));
}

void Table::start_tail() {
  for (std::uint32_t number = 0; number < rows_.shared(); ++number) {
    const Row row = rows_.shared_at(number);
    start_values(row, shared_hash(number));
    std::visit([&](const auto& rule) { rule.start(rows_.state(row), options_.dim); }, options_.optimizer);
    rows_.set_mark(row, sequence_);
  }
}

std::uint64_t Table::chance(std::uint64_t hash, std::uint64_t step) const {
  constexpr std::uint64_t kRoundingStream = 0xD1342543DE82EF95u;
  return draw(mix64(options_.key ^ hash ^ kRoundingStream), step);
}

void Table::start_state(Row row, std::uint64_t hash, std::int64_t last_seen_ms, std::uint32_t policy) {
  std::visit([&](const auto& rule) { rule.start(rows_.state(row), options_.dim); }, options_.optimizer);
  rows_.set_last_seen(row, last_seen_ms);
  rows_.set_admitted(row, last_seen_ms);
  rows_.set_uses(row, 1);
  rows_.set_policy(row, policy);
  rows_.set_slot(row, 0);
  rows_.set_mark(row, 0);
  touch(row, hash);
}

Reason Table::expiry_of(Row row) const {
  return rows_.last_seen(row) < cutoffs_[rows_.policy(row)].idle ? Reason::idle : Reason::age;
}

void Table::remove(std::uint64_t hash, Row row, Reason reason) {
  rows_.remove(hash, row);
  if (reason != Reason::image) tombstones_.add(hash, sequence_);
  statistics_.expired_idle += reason == Reason::idle;
  statistics_.expired_age += reason == Reason::age;
  statistics_.evicted += reason == Reason::evicted;
  statistics_.pruned += reason == Reason::pruned;
}

void Table::touch(Row row, std::uint64_t hash) {
  if (rows_.mark(row) == sequence_) return;
  rows_.set_mark(row, sequence_);
  touched_now_.add(hash, rows_.size());
}

Clockwork Table::clockwork() const {
  const Writing writing(writer_);
  return {sequence_, tombstones_.floor(), clock_ms_, sweep_cursor_, steps_, eviction_cursor_};
}

void Table::set_clockwork(const Clockwork& clockwork) {
  const Writing writing(writer_);
  WriterTurn turn(turnstile_);
  sequence_ = clockwork.sequence;
  tombstones_.set_floor(clockwork.floor);
  clock_ms_ = clockwork.clock_ms;
  set_cutoffs();
  sweep_cursor_ = clockwork.sweep_cursor;
  eviction_cursor_ = clockwork.eviction_cursor;
  steps_ = clockwork.steps;
}

Statistics Table::statistics() const {
  const Writing writing(writer_);
  Statistics statistics = statistics_;
  for (const Counters& counters : counters_) statistics.counter_decrements += counters.decrements();
  return statistics;
}

void Table::set_statistics(const Statistics& statistics) {
  const Writing writing(writer_);
  statistics_ = statistics;
  for (const Counters& counters : counters_) statistics_.counter_decrements -= counters.decrements();
}

Sizes Table::sizes() const {
  const Writing writing(writer_);
  const std::uint64_t held = rows_.size() + rows_.free() + rows_.shared();
  std::size_t sums_bytes = 0;
  for (const GradientSums& sums : sums_) sums_bytes += sums.bytes();
  std::size_t counters = 0, bytes_counters = 0;
  for (const Counters& each : counters_) {
    counters += each.size();
    bytes_counters += each.bytes();
  }
  return {rows_.size(),
          rows_.free(),
          rows_.shared(),
          row_limit_,
          counters,
          tombstones_.size(),
          held * rows_.value_bytes(),
          held * rows_.state_floats() * sizeof(float),
          held * rows_.stamp_bytes(),
          rows_.index_bytes(),
          bytes_counters,
          tombstones_.bytes(),
          own_step_.bytes() + sums_bytes + global_norm_.bytes() + touched_now_.bytes() + touched_last_.bytes() +
              rows_.list_bytes()};
}

std::uint64_t Table::passed() const {
  const Writing writing(writer_);
  std::uint64_t passed = rows_.passed() + tombstones_.passed();
  for (const Counters& counters : counters_) passed += counters.passed();
  return passed;
}

}  // namespace monolith
