// Readers beside a writer: whole rows, no race (this file is what the thread sanitizer is for).
#include <atomic>
#include <thread>

#include "check.h"
#include "make_table.h"
#include "table/table.h"

using namespace monolith;

namespace {

constexpr std::size_t kDim = 16;

// With zeros at first, equal gradients in all columns and one optimizer, the columns of a row stay equal: a torn row
// shows.
TableOptions even_options() {
  TableOptions options = table_options(kDim);
  options.initializer = Zeros{};
  options.optimizer = Adagrad{{0.1}, 0.1f};
  options.admission = MinCount{2, std::nullopt, 4096};
  options.tail = {3, true};
  return options;
}

void check_whole_rows(const std::vector<float>& rows) {
  for (std::size_t i = 0; i < rows.size(); ++i) CHECK(rows[i] == rows[i - i % kDim]);
}

// The ids of a training step: each twice, drifting on with the steps.
std::vector<std::int64_t> batch(std::int64_t step, std::int64_t salt) {
  std::vector<std::int64_t> ids(900);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = (step * 501 + static_cast<std::int64_t>(i / 2) + salt) % 30000;
  return ids;
}

// Looks up batches that a writer trains on, so that rows are also taken from what it resolved last.
void read_until(const Table& table, const std::atomic<bool>& done, std::atomic<int>& failures, int first) {
  std::vector<float> out(900 * kDim);
  for (std::int64_t round = first; !done.load(); ++round) {
    const std::vector<std::int64_t> ids = batch(round % 60, 0);
    table.lookup({part_of(ids, out)});
    try {
      check_whole_rows(out);
    } catch (const std::exception&) {
      ++failures;
    }
  }
}

void write_all(Table& table, std::int64_t salt) {
  const std::vector<float> grads(900 * kDim, 0.5f);
  for (std::int64_t step = 0; step < 60; ++step) {
    const std::vector<std::int64_t> ids = batch(step, salt);
    const std::int64_t t = step * 100;
    const std::uint32_t policy = static_cast<std::uint32_t>(step % 2);
    const std::int64_t end = static_cast<std::int64_t>(ids.size());
    table.observe(ids.data(), ids.size(), {&t, 1}, table.policies() > 1 ? Runs{&policy, &end, 1} : Runs{});
    table.apply_gradients(ids.data(), grads.data(), ids.size(), {&t, 1});
    table.sweep(200);
    if (step % 5 == 0) table.delta(table.cut() - 1);
    if (step % 20 == 0) table.sizes();
  }
}

// Rows that go by age, by limit, and by the rules of a feature.
TableOptions busy_options() {
  TableOptions options = even_options();
  options.features = {{Always{}, {0, 900}, 0}};
  options.max_age_ms = 2500;
  options.eviction = {Eviction::By::uses, 1500, 0, 400};
  return options;
}

void readers_see_whole_rows(int writers, const TableOptions& options) {
  Table table(options);
  std::atomic<bool> done{false};
  std::atomic<int> failures{0};
  std::vector<std::thread> readers, writing;
  for (int i = 0; i < 3; ++i) readers.emplace_back([&, i] { read_until(table, done, failures, i * 1000); });
  for (int i = 0; i < writers; ++i) writing.emplace_back([&, i] { write_all(table, i * 7000); });
  for (auto& thread : writing) thread.join();
  done = true;
  for (auto& thread : readers) thread.join();
  CHECK(failures == 0);
  CHECK(table.statistics().observed == static_cast<std::uint64_t>(writers) * 60 * 900);
}

void replica_is_read_while_it_follows() {
  Table table(even_options()), replica(even_options());
  std::atomic<bool> done{false};
  std::atomic<int> failures{0};
  std::thread reader([&] { read_until(replica, done, failures, 0); });
  for (std::int64_t step = 0; step < 20; ++step) {
    write_all(table, step * 900);
    const std::uint32_t sequence = table.cut();
    const DeltaArrays image = table.delta(0);
    replica.apply_image(sequence, image.ids.data(), image.values.data(), image.ids.size());
    if (step >= 3) break;
  }
  done = true;
  reader.join();
  CHECK(failures == 0);
  CHECK(replica.delta(0).ids == table.delta(0).ids);
}

}  // namespace

std::vector<Test> thread_tests() {
  return {
      {"readers see whole rows beside one writer", [] { readers_see_whole_rows(1, even_options()); }},
      {"readers see whole rows beside two writers", [] { readers_see_whole_rows(2, even_options()); }},
      {"readers see whole rows beside writers that evict", [] { readers_see_whole_rows(2, busy_options()); }},
      {"replica is read while it follows", replica_is_read_while_it_follows},
  };
}
