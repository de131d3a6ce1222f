// Training: one optimizer step for each row that the call's gradients name.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "memory/simd.h"
#include "rows/pipeline.h"
#include "table/rows_ahead.h"
#include "table/table.h"
#include "threads/crew.h"

namespace monolith {
namespace {

constexpr std::size_t kFar = std::size_t{256}
                             << 20;  // bytes of rows from where page walks were seen to take their time
constexpr std::size_t kATurn = 256;  // rows stepped in one turn

// The rule with its decay known to the compiler, which then has no branch at every column and uses SIMD.
template <class Rule>
Rule without_decay(Rule rule) {
  rule.weight_decay = 0.0;
  return rule;
}

struct Place {
  std::uint32_t group, place;  // place kAbsent: the occurrence has no row
};
constexpr std::uint32_t kAbsent = UINT32_MAX;

std::vector<Place> places_by_position(const Step& step) {
  std::vector<Place> places(step.size(), Place{0, kAbsent});
  for (std::uint32_t number = 0; number < step.groups().size(); ++number) {
    const Group& group = step.groups()[number];
    for (std::uint32_t place = 0; place < group.unique_count(); ++place)
      places[group.position(group.unique()[place].first)] = {number, place};
    for (std::size_t k = 0; k < group.repeat_count(); ++k)
      places[group.position(group.repeats()[k].i)] = {number, group.repeats()[k].place};
  }
  return places;
}

// NaN becomes 0, and what is beyond the largest size `to` with its sign.
void cut_down(float* values, std::size_t dim, float largest, float to) {
  for (std::size_t i = 0; i < dim; ++i) {
    if (std::isnan(values[i])) values[i] = 0.0f;
    if (std::fabs(values[i]) > largest) values[i] = std::copysign(to, values[i]);
  }
}

}  // namespace

std::int64_t Table::apply_gradients(const std::int64_t* ids, const float* grads, std::size_t n, Times times) {
  const Writing writing(writer_);
  begin(ids, n, own_step_);
  return collect_and_apply(own_step_, {{grads, options_.dim}}, times);
}

void Table::begin(const std::int64_t* ids, std::size_t n, Step& step) {
  Part part;
  part.ids = ids;
  part.count = part.samples = n;
  step.begin({part}, groups_for(n, n), rows_.shared() != 0);
}

std::int64_t Table::backward(Step& step, const PartGradients& grads, Times times) {
  const Writing writing(writer_);
  return collect_and_apply(step, grads, times);
}

std::int64_t Table::collect_and_apply(Step& step, const PartGradients& grads, Times times) {
  const std::int64_t bad = collect(step, grads);
  if (bad < 0) apply(step, times);
  return bad;
}

std::int64_t Table::collect(Step& step, const PartGradients& grads) {
  const Gradients gradients(step, grads, options_.dim, largest_);
  if (!gradients.all_given() || !step.holds(rows_, cutoff_)) resolve(step, gradients);
  const auto groups = static_cast<unsigned>(step.groups().size());
  if (sums_.size() < groups) sums_.resize(groups);
  std::vector<char> clean(groups);
  in_parallel(groups, [&](unsigned k) {
    clean[k] = gradients.within(k, groups) && sums_[k].collect(step.groups()[k], gradients);
  });
  nonfinite_ = 0;
  if (std::all_of(clean.begin(), clean.end(), [](char each) { return each != 0; })) return -1;
  const std::int64_t bad = collect_one_by_one(step, gradients);
  return bad >= 0 ? bad : settle(step);
}

// Reads what readers read and writes what they do not, so it needs no turn. Nothing is changed but scratch.
void Table::resolve(Step& step, const Gradients& gradients) {
  step.restart();
  const auto groups = static_cast<unsigned>(step.by_hash());
  std::vector<std::size_t> absent(groups);
  std::vector<std::vector<Shared>> shared(groups);
  in_parallel(groups, [&](unsigned k) {
    Group& group = step.groups()[k];
    Group::Adder adder(group, rows_);
    Pipeline pipeline(rows_, Need::stamps, group.size(), Hashes{group.hashes()});
    for (std::size_t feature = 0; feature < step.features().size(); ++feature) {
      while (pipeline.done() < group.end(feature)) {
        const Found found = pipeline.next(group.end(feature) - pipeline.done());
        if (!gradients.given(feature)) continue;
        for (std::size_t j = 0; j < found.count; ++j) {
          const std::size_t i = found.first + j;
          if (found.rows[j] != kNoRow && !expired(found.rows[j]))
            adder.add(found.rows[j], i);
          else if (rows_.shared() != 0)
            shared[k].push_back({group.position(i), shared_number(found.hashes[j], rows_.shared())});
          else
            ++absent[k];
        }
      }
    }
  });
  for (unsigned k = 1; k < groups; ++k) shared[0].insert(shared[0].end(), shared[k].begin(), shared[k].end());
  step.share(rows_, shared[0]);
  step.end(rows_, cutoff_, std::accumulate(absent.begin(), absent.end(), std::size_t{0}), gradients.all_given());
}

// Something is beyond the bound: every occurrence is looked at, in the order of the call. Returns the position of the
// first bad gradient if the policy is to raise, else -1.
std::int64_t Table::collect_one_by_one(const Step& step, const Gradients& gradients) {
  for (std::size_t k = 0; k < step.groups().size(); ++k) sums_[k].start(step.groups()[k], options_.dim);
  const std::vector<Place> places = places_by_position(step);
  std::vector<float> scratch(options_.dim), clipped(options_.dim);
  std::size_t feature = 0;
  for (std::size_t position = 0; position < step.size(); ++position) {
    feature = step.feature_at(position, feature);
    if (!gradients.given(feature)) continue;
    const float* grad = gradients.of(feature, position, scratch.data());
    const bool absent = places[position].place == kAbsent;
    GradientSums& sums = sums_[places[position].group];
    if (!all_within(grad, options_.dim, largest_)) {
      if (options_.on_nonfinite == NonFinite::raise) return static_cast<std::int64_t>(position);
      nonfinite_ += position < step.own_size();
      if (options_.on_nonfinite == NonFinite::skip_row && !absent) sums.skip(places[position].place);
      std::copy_n(grad, options_.dim, clipped.data());
      cut_down(clipped.data(), options_.dim, largest_, options_.max_gradient);
      grad = clipped.data();
    }
    if (!absent) sums.add(places[position].place, grad);
  }
  return -1;
}

// Sums may be beyond the bound: the first occurrence of a row whose sum is if the policy is to raise, else -1 with
// those sums clipped or their rows skipped.
std::int64_t Table::settle(const Step& step) {
  std::int64_t first = -1;
  for (std::size_t k = 0; k < step.groups().size(); ++k) {
    const Group& group = step.groups()[k];
    for (std::size_t place = 0; place < group.unique_count(); ++place) {
      float* const sum = sums_[k].sum(place);
      if (sum == nullptr || all_within(sum, options_.dim, largest_)) continue;
      const auto position = static_cast<std::int64_t>(group.position(group.unique()[place].first));
      if (first < 0 || position < first) first = position;
      nonfinite_ += step.counts(k);
      if (options_.on_nonfinite == NonFinite::skip_row) sums_[k].skip(place);
      if (options_.on_nonfinite == NonFinite::clip) cut_down(sum, options_.dim, largest_, options_.max_gradient);
    }
  }
  return options_.on_nonfinite == NonFinite::raise ? first : -1;
}

std::vector<std::int64_t> Table::sharing(Step& step) {
  const Writing writing(writer_);
  static const float given = 0.0f;
  const PartGradients all(step.features().size(), {&given, options_.dim});
  if (!step.holds(rows_, cutoff_)) resolve(step, Gradients(step, all, options_.dim, largest_));
  return step.sharing();
}

void Table::share_instead(Step& step, const std::int64_t* numbers, std::size_t n, bool counts) {
  const Writing writing(writer_);
  step.share_instead(rows_, numbers, n, counts);
}

std::int64_t Table::collect_part(Step& step, const PartGradients& grads) {
  const Writing writing(writer_);
  return collect(step, grads);
}

std::vector<std::vector<double>> Table::squares(const Step& step) {
  const Writing writing(writer_);
  return global_norm_.squares_of(at_step(options_.optimizer, steps_ + 1), step, sums_);
}

void Table::apply_part(const Step& step, const std::vector<double>& norms) {
  const Writing writing(writer_);
  apply(step, {}, &norms);
}

void Table::apply(const Step& step, Times times, const std::vector<double>* norms) {
  statistics_.dropped_gradients += step.absent();
  statistics_.nonfinite += nonfinite_;
  ++steps_;
  Optimizer optimizer = at_step(options_.optimizer, steps_);
  if (norms == nullptr)
    global_norm_.clip(optimizer, step, sums_);
  else
    GlobalNorm::clip_to(optimizer, *norms);
  in_parallel(static_cast<unsigned>(step.groups().size()), [&](unsigned k) {
    if (times.each()) sums_[k].see_times(step.groups()[k], step, times);
    std::visit(
        [&](const auto& rule) {
          for_dim(options_.dim, [&](auto dim) { step_rows_of(rule, dim, step.groups()[k], sums_[k], times); });
        },
        optimizer);
  });
  for (std::size_t k = 0; k < step.groups().size(); ++k) {
    if (k < step.by_hash())  // which shared rows were written, their marks tell
      for (const std::uint64_t hash : sums_[k].touched()) touched_now_.add(hash, rows_.size());
    sums_[k].touched().clear();
  }
}

template <class Rule, class Dim>
void Table::step_rows_of(const Rule& rule, Dim dim, const Group& group, GradientSums& sums, Times times) {
  if constexpr (std::is_base_of_v<monolith::Rule, Rule>)
    if (rule.decay() == 0.0f) return with_simd([&] { step_rows(without_decay(rule), dim, group, sums, times); });
  with_simd([&] { step_rows(rule, dim, group, sums, times); });
}

// The last rows come first: they, and their gradients, may still be in the cache.
template <class Rule, class Dim>
inline void Table::step_rows(Rule rule, Dim dim, const Group& group, GradientSums& sums, Times times) {
  const Group::UniqueRow* const unique = group.unique();
  const RowView rows = rows_;
  const std::uint32_t sequence = sequence_;
  RowsAhead ahead(rows, unique, group.unique_count(), sums, dim, (rows_.size() + rows_.free()) * rows.stride() > kFar);
  DiskWatch disk(rows.in_file());
  std::vector<float> scratch(rows_.narrow() ? options_.dim : 0);
  for (std::size_t left = group.unique_count(); left != 0;) {
    const std::size_t end = left - std::min(left, kATurn);
    const bool from_disk = disk.reads(left - end);
    WriterTurn turn(turnstile_);
    while (left-- > end) {
      ahead.fetch_before(left, from_disk);
      const Row row = unique[left].row;
      const float* const gradient = sums.gradient(left);
      if (times.given()) refresh(row, sums.latest(left, times));
      if (gradient == nullptr) continue;
      float* const values = rows.values(row, scratch.data());
      step_row(rule, values, rows.state(row), gradient, dim);
      if (rows.narrow()) rows.write(row, values, chance(group.hash(unique[left].first), steps_));
      if (rows.mark(row) == sequence) continue;
      rows.set_mark(row, sequence);
      sums.touched().push_back(group.hash(unique[left].first));
    }
    left = end;
  }
}

}  // namespace monolith
