// The tables of a model, stepped together: one call forward for all features of a batch, one backward.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "table/table.h"

namespace monolith {

struct Feature {
  std::size_t table;                  // which of the collection's
  std::optional<std::uint64_t> salt;  // of a feature that shares the table, but no rows
  bool mean;
  std::uint32_t policy = 0;  // of its table
};

// The ids of one feature of a batch, and where its vectors go.
using FeatureBatch = Part;

class Collection {
 public:
  struct Steps {
    std::vector<Step> of_table;
  };

  // The tables are the caller's. Features of one table are next to each other, in the order of tables.
  Collection(std::vector<Table*> tables, std::vector<Feature> features);

  void forward(std::vector<FeatureBatch>& batch, Times times, Steps& steps) const;
  void lookup(std::vector<FeatureBatch>& batch) const;
  // Every table changes, or none. A table none of whose features has a gradient stays as it is. Returns the feature and
  // the number of the id of a gradient that Table::collect() refuses.
  std::optional<std::pair<std::size_t, std::size_t>> backward(const PartGradients& grads, Steps& steps) const;

  const std::vector<Feature>& features() const { return features_; }
  std::size_t dim(std::size_t feature) const { return tables_[features_[feature].table]->dim(); }

 private:
  Parts parts_of(std::size_t table, std::vector<FeatureBatch>& batch) const;

  std::vector<Table*> tables_;
  std::vector<Feature> features_;
  std::vector<std::size_t> first_;  // feature of each table, and one more
};

}  // namespace monolith
