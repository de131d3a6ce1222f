// A queue from which the least comes first, for things that mostly come in their order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace monolith::joining {

// What comes no earlier than everything before it is appended to a run, which costs nothing to take from; the rest lies
// in a heap. `later(a, b)`: whether a comes after b, a total order.
template <class T, bool (*later)(const T&, const T&)>
class OrderedQueue {
 public:
  bool empty() const { return begin_ == run_.size() && heap_.empty(); }
  const T& front() const { return in_run() ? run_[begin_] : heap_.front(); }

  void push(const T& thing) {
    if (begin_ == run_.size() || !later(run_.back(), thing)) {
      run_.push_back(thing);
    } else {
      heap_.push_back(thing);
      std::push_heap(heap_.begin(), heap_.end(), later);
    }
  }
  T pop() {
    if (!in_run()) {
      std::pop_heap(heap_.begin(), heap_.end(), later);
      const T thing = heap_.back();
      heap_.pop_back();
      return thing;
    }
    const T thing = run_[begin_++];
    if (2 * begin_ > run_.size()) {  // half of the run is gone: each thing is moved once, on the average
      run_.erase(run_.begin(), run_.begin() + static_cast<std::ptrdiff_t>(begin_));
      begin_ = 0;
    }
    return thing;
  }

  template <class Visit>
  void each(Visit visit) const {
    for (std::size_t i = begin_; i < run_.size(); ++i) visit(run_[i]);
    for (const T& thing : heap_) visit(thing);
  }

 private:
  bool in_run() const { return begin_ < run_.size() && (heap_.empty() || !later(run_[begin_], heap_.front())); }

  std::vector<T> run_;
  std::size_t begin_ = 0;  // of what is left of the run
  std::vector<T> heap_;
};

}  // namespace monolith::joining
