#include "table/collection.h"

#include <algorithm>

#include "threads/crew.h"

namespace monolith {
namespace {

constexpr std::size_t kWorthThreads = 8192;  // ids of a batch

// Calls work(0) to work(count - 1), on several threads if so many ids are worth it. Each table adds parts of its own to
// what the threads have to do.
template <class Work>
void each_of(std::size_t count, std::size_t ids, const Work& work) {
  if (ids >= kWorthThreads) return in_parallel(static_cast<unsigned>(count), work);
  for (std::size_t k = 0; k < count; ++k) work(k);
}

}  // namespace

Collection::Collection(std::vector<Table*> tables, std::vector<Feature> features)
    : tables_(std::move(tables)), features_(std::move(features)), first_(tables_.size() + 1) {
  for (const Feature& feature : features_) ++first_[feature.table + 1];
  for (std::size_t table = 0; table < tables_.size(); ++table) first_[table + 1] += first_[table];
}

void Collection::forward(std::vector<FeatureBatch>& batch, Times times, Steps& steps) const {
  steps.of_table.resize(tables_.size());
  // A score function is called by the thread that came here: from another one it could wait for what this one holds.
  const bool scored = std::any_of(tables_.begin(), tables_.end(), [](const Table* table) { return table->scored(); });
  const std::size_t ids = ids_of(batch);
  each_of(tables_.size(), scored ? 0 : ids, [&](std::size_t table) {
    tables_[table]->forward(parts_of(table, batch), times, steps.of_table[table], scored ? 0 : ids);
  });
}

void Collection::lookup(std::vector<FeatureBatch>& batch) const {
  const std::size_t ids = ids_of(batch);
  each_of(tables_.size(), ids, [&](std::size_t table) { tables_[table]->lookup(parts_of(table, batch), ids); });
}

std::optional<std::pair<std::size_t, std::size_t>> Collection::backward(const PartGradients& grads,
                                                                        Steps& steps) const {
  std::vector<std::size_t> stepped;
  std::vector<PartGradients> parts;
  std::size_t ids = 0;
  for (std::size_t table = 0; table < tables_.size(); ++table) {
    const auto begin = grads.begin() + static_cast<std::ptrdiff_t>(first_[table]);
    PartGradients part(begin, begin + static_cast<std::ptrdiff_t>(first_[table + 1] - first_[table]));
    if (std::none_of(part.begin(), part.end(), [](const PartGradient& each) { return each.grads != nullptr; }))
      continue;
    stepped.push_back(table);
    parts.push_back(std::move(part));
    ids += steps.of_table[table].size();
  }
  std::vector<Table*> in_order;  // two collections over the same tables lock them in the same order
  for (const std::size_t table : stepped) in_order.push_back(tables_[table]);
  std::sort(in_order.begin(), in_order.end());
  std::vector<Writing> locks;
  for (const Table* table : in_order) locks.push_back(table->writing());

  std::vector<std::int64_t> bad(stepped.size());
  each_of(stepped.size(), ids,
          [&](std::size_t k) { bad[k] = tables_[stepped[k]]->collect(steps.of_table[stepped[k]], parts[k]); });
  for (std::size_t k = 0; k < stepped.size(); ++k) {
    if (bad[k] < 0) continue;
    const auto position = static_cast<std::size_t>(bad[k]);
    const std::size_t part = steps.of_table[stepped[k]].feature_at(position, 0);
    return std::pair{first_[stepped[k]] + part, position - steps.of_table[stepped[k]].features()[part].begin};
  }
  each_of(stepped.size(), ids, [&](std::size_t k) { tables_[stepped[k]]->apply(steps.of_table[stepped[k]], {}); });
  return std::nullopt;
}

Parts Collection::parts_of(std::size_t table, std::vector<FeatureBatch>& batch) const {
  Parts parts;
  for (std::size_t k = first_[table]; k < first_[table + 1]; ++k) {
    parts.push_back(batch[k]);
    parts.back().salt = features_[k].salt;
    parts.back().mean = features_[k].mean;
    parts.back().policy = features_[k].policy;
  }
  return parts;
}

}  // namespace monolith
