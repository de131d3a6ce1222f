// Training in groups: the same bits for any number of threads, for every way a part can be pooled.
#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "check.h"
#include "make_table.h"
#include "memory/simd.h"
#include "table/collection.h"
#include "threads/crew.h"

using namespace monolith;

namespace {

constexpr std::size_t kDim = 8, kSamples = 9000;

struct Batch {  // of three features: one id each, bags, weighted bags
  std::vector<std::int64_t> ids[3];
  std::vector<std::int32_t> lengths;
  std::vector<float> weights, out, grads;
  std::vector<std::int64_t> times;

  explicit Batch(std::mt19937_64& random) : out(kSamples * 3 * kDim), grads(kSamples * 3 * kDim) {
    for (std::size_t i = 0; i < kSamples; ++i) {
      ids[0].push_back(static_cast<std::int64_t>(random() % 5000));
      lengths.push_back(static_cast<std::int32_t>(random() % 3));
      times.push_back(static_cast<std::int64_t>(random() % 1000));
      for (int k = 0; k < lengths.back(); ++k)
        for (int feature = 1; feature < 3; ++feature) ids[feature].push_back(static_cast<std::int64_t>(random() % 500));
    }
    for (std::size_t i = 0; i < ids[2].size(); ++i) weights.push_back(static_cast<float>(random() % 7) / 4);
    for (float& grad : grads) grad = static_cast<float>(random() % 101) / 50 - 1;
  }
  std::vector<FeatureBatch> parts() {
    std::vector<FeatureBatch> parts(3);
    for (std::size_t k = 0; k < 3; ++k) {
      parts[k].ids = ids[k].data();
      parts[k].count = ids[k].size();
      parts[k].samples = kSamples;
      parts[k].lengths = k == 0 ? nullptr : lengths.data();
      parts[k].weights = k == 2 ? weights.data() : nullptr;
      parts[k].out = out.data() + k * kDim;
      parts[k].stride = 3 * kDim;
    }
    return parts;
  }
  PartGradients gradients() const {
    return {{grads.data(), 3 * kDim}, {grads.data() + kDim, 3 * kDim}, {grads.data() + 2 * kDim, 3 * kDim}};
  }
};

struct Outcome {
  std::vector<float> vectors;
  std::vector<BucketImage> buckets;
};

Outcome trained(unsigned threads) {
  set_crew_threads(threads);
  std::mt19937_64 random(1);
  TableOptions with_tail = table_options(kDim);
  with_tail.tail = {5, true};
  Table one(with_tail), other(table_options(kDim));
  const Collection collection({&one, &other}, {{0, std::nullopt, false}, {0, 77, true}, {1, std::nullopt, false}});
  Collection::Steps steps;
  Outcome outcome;
  for (int step = 0; step < 4; ++step) {
    Batch batch(random);
    if (step == 3) batch.grads[5 * 3 * kDim] = INFINITY;  // the careful way
    auto parts = batch.parts();
    collection.forward(parts, {batch.times.data(), batch.times.size()}, steps);
    const auto bad = collection.backward(batch.gradients(), steps);
    CHECK(bad.has_value() == (step == 3));
    outcome.vectors.insert(outcome.vectors.end(), batch.out.begin(), batch.out.end());
  }
  for (std::size_t bucket = 0; bucket < kBuckets; ++bucket)
    for (const Table* table : {&one, &other}) outcome.buckets.push_back(table->export_bucket(bucket));
  set_crew_threads(1);
  return outcome;
}

void check_same(const Outcome& one, const Outcome& more) {
  CHECK(std::memcmp(one.vectors.data(), more.vectors.data(), one.vectors.size() * sizeof(float)) == 0);
  for (std::size_t k = 0; k < one.buckets.size(); ++k) {
    const BucketImage &a = one.buckets[k], &b = more.buckets[k];
    CHECK(a.ids == b.ids && a.values == b.values && a.state == b.state && a.last_seen_ms == b.last_seen_ms);
    CHECK(a.counter_ids == b.counter_ids && a.counts == b.counts && a.marks == b.marks);
    CHECK(a.tail_values == b.tail_values && a.tail_state == b.tail_state && a.tail_marks == b.tail_marks);
  }
}

void threads_change_no_bit() {
  const Outcome one = trained(1);
  for (const unsigned threads : {2u, 4u}) check_same(one, trained(threads));
}

void vector_instructions_change_no_bit() {
  const Simd detected = simd().exchange(Simd::portable);
  const Outcome portable = trained(1);
  simd() = detected;
  check_same(portable, trained(1));
}

void crew_does_every_part_once_and_passes_errors_on() {
  set_crew_threads(4);
  for (int round = 0; round < 200; ++round) {
    std::vector<int> done(17);
    in_parallel(17, [&](unsigned part) { ++done[part]; });
    for (const int times : done) CHECK(times == 1);
  }
  bool thrown = false;
  try {
    in_parallel(8, [](unsigned part) {
      if (part >= 3) throw std::runtime_error(std::to_string(part));
    });
  } catch (const std::runtime_error& error) {
    thrown = std::string(error.what()) == "3";
  }
  CHECK(thrown);
  set_crew_threads(1);
}

void crew_is_no_larger_than_was_set() {
  for (const unsigned threads : {4u, 2u, 1u}) {  // a crew that was larger once stays within the smaller number
    set_crew_threads(threads);
    std::atomic<unsigned> at_work{0}, most{0};
    for (int round = 0; round < 50; ++round)
      in_parallel(12, [&](unsigned) {
        const unsigned now = ++at_work;
        unsigned known = most.load();
        while (known < now && !most.compare_exchange_weak(known, now)) continue;
        std::this_thread::yield();
        --at_work;
      });
    CHECK(most.load() <= threads);
  }
  set_crew_threads(1);
}

}  // namespace

std::vector<Test> step_tests() {
  return {
      {"threads change no bit", threads_change_no_bit},
      {"vector instructions change no bit", vector_instructions_change_no_bit},
      {"crew does every part once and passes errors on", crew_does_every_part_once_and_passes_errors_on},
      {"crew is no larger than was set", crew_is_no_larger_than_was_set},
  };
}
