#include "policies/hot_ids.h"

#include <algorithm>
#include <cmath>

#include "index/hash.h"

namespace monolith {
namespace {

constexpr double kHeavy = 4294967296.0;  // 2^32

float norm_of(const float* values, std::size_t dim) {
  float squares[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  std::size_t k = 0;
  for (; k + 4 <= dim; k += 4)
    for (std::size_t lane = 0; lane < 4; ++lane) squares[lane] += values[k + lane] * values[k + lane];
  for (; k < dim; ++k) squares[0] += values[k] * values[k];
  return std::sqrt((squares[0] + squares[1]) + (squares[2] + squares[3]));
}

constexpr std::size_t kAhead = 16;  // ids whose cells are fetched before they are looked at

}  // namespace

HotIds::HotIds(std::uint32_t shared, std::uint32_t own, double decay)
    : shared_(shared), own_(own), decay_(decay), buckets_((std::uint64_t{own} * 2 + kWays - 1) / kWays) {
  lines_.resize(static_cast<std::size_t>(buckets_));
  for (std::uint32_t slot = own; slot != 0; --slot) free_.push_back(static_cast<std::int32_t>(slot - 1));
}

// Without branches, here and below: whether an id is hot, and where its cell is, nobody can guess.
void HotIds::keys(const std::int64_t* ids, std::size_t n, std::int64_t* out) const {
  std::vector<std::uint64_t> hashes(n);
  hash_ids(ids, n, std::nullopt, hashes.data());
  for (std::size_t i = 0; i < n; ++i) {
    if (i + kAhead < n) __builtin_prefetch(&line(hashes[i + kAhead]));
    const Line& line = this->line(hashes[i]);
    std::int64_t slot = kNone;
    for (const Cell& cell : line.cells) slot = cell.id == ids[i] ? std::max(slot, std::int64_t{cell.slot}) : slot;
    const std::int64_t own = shared_ + slot, number = shared_number(hashes[i], shared_);
    const std::int64_t none = slot >> 63;  // all bits, where there is no slot
    out[i] = (number & none) | (own & ~none);
  }
}

void HotIds::add(const std::int64_t* ids, const Gradients& gradients) {
  each_amount(gradients, [&](std::size_t i, float amount) { add_one(ids[i], amount); });
}

void HotIds::amounts(const Gradients& gradients, float* out) const {
  each_amount(gradients, [&](std::size_t i, float amount) { out[i] = amount; });
}

void HotIds::add(const std::int64_t* ids, const float* amounts, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) add_one(ids[i], amounts[i]);
}

template <class Take>
void HotIds::each_amount(const Gradients& gradients, Take take) const {
  const float weight = static_cast<float>(weight_);
  std::size_t i = 0;
  for (std::size_t sample = 0; sample < gradients.samples; ++sample) {
    const std::size_t count = gradients.lengths == nullptr ? 1 : static_cast<std::size_t>(gradients.lengths[sample]);
    if (count == 0) continue;
    float norm = norm_of(gradients.values + sample * gradients.stride, gradients.dim) * weight;
    if (gradients.mean) norm /= static_cast<float>(count);
    for (std::size_t left = count; left != 0; --left, ++i)
      take(i, gradients.weights == nullptr ? norm : norm * std::fabs(gradients.weights[i]));
  }
}

void HotIds::add_one(std::int64_t id, float amount) {
  if (!(amount > 0.0f) || !std::isfinite(amount)) return;
  Line& line = lines_[number_of(hash_of(id))];
  std::size_t way = kWays;
  for (std::size_t k = 0; k < kWays; ++k) way = line.cells[k].id == id && !line.cells[k].empty() ? k : way;
  if (way == kWays) {
    for (std::size_t k = 0; k < kWays; ++k)
      if (line.cells[k].slot == kNone && (way == kWays || line.cells[k].score < line.cells[way].score)) way = k;
    if (way == kWays) return;  // all of them have rows
    line.cells[way].id = id;
  }
  line.cells[way].score = std::min(line.cells[way].score + amount, 1e37f);
}

void HotIds::end_step() {
  weight_ /= decay_;
  while (weight_ >= kHeavy) {
    weight_ /= kHeavy;
    for (Line& line : lines_)
      for (Cell& cell : line.cells) cell.score = static_cast<float>(cell.score / kHeavy);
  }
}

HotIds::Exchange HotIds::exchange() {
  const std::size_t most = free_.size() + own_ / 32 + 16;
  const auto hotter = [&](std::size_t a, std::size_t b) {
    if (at(a).score != at(b).score) return at(a).score > at(b).score;
    return at(a).id < at(b).id;
  };
  float lowest = INFINITY;  // of those with rows
  for (std::size_t cell = 0; cell < cells(); ++cell)
    lowest = std::min(lowest, at(cell).slot == kNone ? INFINITY : at(cell).score);
  const float bound = free_.empty() ? lowest * kMargin : 0.0f;
  std::vector<std::uint32_t> newcomers =
      cells_where([&](std::size_t cell) { return (at(cell).slot == kNone) & (at(cell).score > bound); });
  std::vector<std::uint32_t> holders;
  Exchange done;
  if (newcomers.empty()) return done;
  if (newcomers.size() > most) {
    std::nth_element(newcomers.begin(), newcomers.begin() + static_cast<std::ptrdiff_t>(most), newcomers.end(), hotter);
    newcomers.resize(most);
  }
  std::sort(newcomers.begin(), newcomers.end(), hotter);
  if (newcomers.size() > free_.size()) {
    holders = cells_where([&](std::size_t cell) { return at(cell).slot != kNone; });
    const std::size_t wanted = std::min(holders.size(), newcomers.size() - free_.size());
    const auto colder = [&](std::size_t a, std::size_t b) { return hotter(b, a); };
    if (wanted < holders.size())
      std::nth_element(holders.begin(), holders.begin() + static_cast<std::ptrdiff_t>(wanted), holders.end(), colder);
    holders.resize(wanted);
    std::sort(holders.begin(), holders.end(), colder);
  }
  std::size_t next = 0;  // of the holders
  for (const std::size_t cell : newcomers) {
    if (free_.empty()) {
      if (next == holders.size()) break;
      const std::size_t loser = holders[next++];
      if (!(at(cell).score > at(loser).score * kMargin)) break;
      done.removed.push_back(at(loser).id);
      free_.push_back(at(loser).slot);
      at(loser).slot = kNone;
    }
    at(cell).slot = free_.back();
    free_.pop_back();
    done.ids.push_back(at(cell).id);
    done.slots.push_back(at(cell).slot);
  }
  return done;
}

HotIds::State HotIds::state() const {
  State state;
  state.weight = weight_;
  for (const Line& line : lines_)
    for (const Cell& cell : line.cells) {
      state.ids.push_back(cell.id);
      state.scores.push_back(cell.score);
      state.slots.push_back(cell.slot);
    }
  return state;
}

bool HotIds::restore(const State& state) {
  if (state.ids.size() != cells() || state.scores.size() != cells() || state.slots.size() != cells()) return false;
  if (!(state.weight >= 1.0 / kHeavy && state.weight < kHeavy)) return false;
  std::vector<char> taken(own_);
  std::vector<Line> lines(lines_.size());
  for (std::size_t cell = 0; cell < cells(); ++cell) {
    const std::int32_t slot = state.slots[cell];
    if (!std::isfinite(state.scores[cell]) || state.scores[cell] < 0.0f || slot < kNone) return false;
    lines[cell / kWays].cells[cell % kWays] = {state.ids[cell], state.scores[cell], slot};
    if (slot == kNone) continue;
    if (static_cast<std::uint32_t>(slot) >= own_ || taken[static_cast<std::size_t>(slot)] != 0) return false;
    if (&line(hash_of(state.ids[cell])) != &lines_[cell / kWays]) return false;
    taken[static_cast<std::size_t>(slot)] = 1;
  }
  lines_ = std::move(lines);
  weight_ = state.weight;
  free_.clear();
  for (std::uint32_t slot = own_; slot != 0; --slot)
    if (taken[slot - 1] == 0) free_.push_back(static_cast<std::int32_t>(slot - 1));
  return true;
}

}  // namespace monolith
