// The gradients of one group of a step, brought down to one for each row: repeats summed in order of occurrence.
//
// A gradient that occurs once, and is the row's as it stands, is read where the caller has it; others get a sum buffer:
// those of repeated ids, and those that weights or a mean scale. Nothing a reader sees is written, so the whole pass
// needs no turn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "table/step.h"
#include "table/times.h"

namespace monolith {

enum class NonFinite { raise, skip_row, clip };  // what to do with a gradient that is not within the bound

// The gradient of each occurrence of a step, and the largest size that the table's optimizer bears in one.
class Gradients {
 public:
  Gradients(const Step& step, const PartGradients& parts, std::size_t dim, float largest)
      : step_(step), parts_(parts), dim_(dim), largest_(largest) {}

  bool given(std::size_t feature) const { return parts_[feature].grads != nullptr; }
  bool scaled(std::size_t feature) const {
    const Step::Feature& of = step_.features()[feature];
    return !of.weights.empty() || (of.mean && !of.lengths.empty());
  }
  bool all_given() const;
  bool any_scaled() const;
  // If there is one feature, of one id a sample: its gradients, which lie as the occurrences do. Else null.
  const PartGradient* plain() const {
    return parts_.size() == 1 && !step_.features()[0].pooled ? parts_.data() : nullptr;
  }
  const float* vector(std::size_t feature, std::size_t position) const {  // of its sample, not scaled
    const PartGradient& part = parts_[feature];
    return part.grads + step_.sample_at(position, step_.features()[feature]) * part.stride;
  }
  const float* of(std::size_t feature, std::size_t position, float* scratch) const;  // scratch: dim
  // Whether all are within the bound in the share `number` of `shares` equal ones.
  bool within(unsigned number, unsigned shares) const;

  std::size_t stride(std::size_t feature) const { return parts_[feature].stride; }
  const Step& step() const { return step_; }
  std::size_t dim() const { return dim_; }
  float largest() const { return largest_; }

 private:
  const Step& step_;
  const PartGradients& parts_;
  const std::size_t dim_;
  const float largest_;
};

class GradientSums {
 public:
  // The quick way, for gradients within the bound. False: something in the sums is not, and none of them counts.
  bool collect(const Group& group, const Gradients& gradients);
  // The careful way, step by step in the order of the call.
  void start(const Group& group, std::size_t dim);
  void add(std::size_t place, const float* grad);  // of any occurrence, the first one included
  void skip(std::size_t place) { grad_of_[place] = nullptr; }
  float* sum(std::size_t place) { return const_cast<float*>(grad_of_[place]); }  // nullptr: the row is skipped

  std::size_t dim() const { return dim_; }
  const float* gradient(std::size_t place) const { return grad_of_[place]; }  // nullptr: the row is skipped
  void see_times(const Group& group, const Step& step, Times times);
  std::int64_t latest(std::size_t place, Times times) const { return times.each() ? latest_ms_[place] : times.at(0); }

  std::vector<std::uint64_t>& touched() { return touched_; }  // hashes of rows written for the first time
  std::size_t bytes() const {
    return sums_size_ * sizeof(float) + grad_of_.capacity() * sizeof(float*) +
           (latest_ms_.capacity() + touched_.capacity()) * sizeof(std::int64_t);
  }

 private:
  void reserve(std::size_t sums);
  void take_first(const Group& group, const Gradients& gradients);
  template <class Dim>
  void add_repeats(const Group& group, const Gradients& gradients, Dim dim);
  template <class Dim, class GradientAt, class FetchAt>
  void add_repeats(const Group& group, Dim dim, GradientAt gradient_at, FetchAt fetch_at);
  bool is_sum(const float* gradient, const float* end) const {  // of the sums before `end`
    const auto begin = reinterpret_cast<std::uintptr_t>(sums_.get());
    return reinterpret_cast<std::uintptr_t>(gradient) - begin < reinterpret_cast<std::uintptr_t>(end) - begin;
  }
  float* new_sum() {
    float* const sum = next_sum_;
    next_sum_ += dim_;
    return sum;
  }

  std::size_t dim_ = 0;
  std::vector<const float*> grad_of_;  // of each row in the group's list
  std::unique_ptr<float[]> sums_;      // as long as any call needed
  std::size_t sums_size_ = 0;
  float* next_sum_ = nullptr;
  std::vector<std::int64_t> latest_ms_;  // of each row, if samples have times of their own
  std::vector<std::uint64_t> touched_;
};

// The gradient of each of the part's ids (its vector's divided by `shared_by`, then divided and weighted as in
// backward) is added to the sum at sums[places[i]], in order; the first one there is put there as it is. As many sums
// and flags as the largest place names, and one.
void sum_gradients(const Part& part, const PartGradient& gradient, float shared_by, const std::int64_t* places,
                   std::size_t dim, char* begun, float* const* sums);

// Whether no value is larger in size than `largest`, and none is NaN.
bool all_within(const float* values, std::size_t n, float largest);

}  // namespace monolith
