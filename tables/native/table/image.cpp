// The table seen from outside: deltas and images for replicas, and buckets for snapshots.
#include <algorithm>
#include <utility>

#include "rows/pipeline.h"
#include "table/table.h"

namespace monolith {
namespace {

constexpr std::size_t kBlock = 32;  // of rows; each is fetched one block ahead
constexpr std::size_t kATurn = 64;  // rows written in one turn

}  // namespace

std::uint32_t Table::cut() {
  const Writing writing(writer_);
  return close_sequence();
}

std::uint32_t Table::close_sequence() {
  const std::uint32_t closed = sequence_;
  std::swap(touched_last_, touched_now_);
  touched_now_.clear();
  sequence_ = closed + 1;
  if (closed > Tombstones::kKept) tombstones_.drop_through(closed - Tombstones::kKept);
  if (!tombstones_.kept()) tombstones_.drop_through(sequence_);
  tombstones_.keep_within(rows_.size());
  return closed;
}

DeltaArrays Table::delta(std::uint32_t since, const BucketSet& buckets) const {
  const Writing writing(writer_);
  DeltaArrays delta = copy_rows(changed_after(since, buckets), false);
  if (since != 0) delta.removed = tombstones_.ids_after(since, buckets);
  return delta;
}

DeltaArrays Table::live_rows() const {
  const Writing writing(writer_);
  return copy_rows(changed_after(0, BucketSet().set()), true);
}

// Calls visit(id, row) for all, in order, with rows fetched ahead.
template <class Visit>
void Table::each_fetched(const std::vector<IdAndRow>& listed, Visit visit) const {
  DiskWatch disk(rows_.in_file());
  std::size_t fetched = 0;
  for (std::size_t block = 0; block < listed.size(); block += kBlock) {
    const bool from_disk = disk.reads(kBlock);
    for (; fetched < std::min(block + 2 * kBlock, listed.size()); ++fetched)
      rows_.fetch_row(listed[fetched].second, Need::all, from_disk);
    for (std::size_t i = block; i < std::min(block + kBlock, listed.size()); ++i)
      visit(listed[i].first, listed[i].second);
  }
}

DeltaArrays Table::copy_rows(const std::vector<IdAndRow>& changed, bool live_only) const {
  DeltaArrays delta;
  delta.ids.reserve(changed.size());
  delta.values.reserve(changed.size() * options_.dim);
  each_fetched(changed, [&](std::int64_t id, Row row) {
    if (live_only && expired(row)) return;
    delta.ids.push_back(id);
    append_values(row, delta.values);
  });
  return delta;
}

void Table::append_values(Row row, std::vector<float>& to) const {
  to.resize(to.size() + options_.dim);
  rows_.read(row, options_.dim, to.data() + to.size() - options_.dim);
}

// Rows written after `since`, by ascending id.
std::vector<Table::IdAndRow> Table::changed_after(std::uint32_t since, const BucketSet& buckets) const {
  const bool last_too = since + 2 == sequence_;
  std::vector<IdAndRow> changed;
  if (since != 0 && since + 2 >= sequence_ && touched_now_.complete() && (!last_too || touched_last_.complete())) {
    changed = listed(last_too, buckets);
  } else {
    const auto look = [&](std::uint64_t hash, Row row) {
      if (rows_.mark(row) > since) changed.emplace_back(id_of(hash), row);
    };
    if (buckets.all()) {
      rows_.each(look);
    } else {
      for (std::size_t bucket = 0; bucket < kBuckets; ++bucket)
        if (buckets[bucket]) rows_.each(bucket, look);
    }
  }
  std::sort(changed.begin(), changed.end());
  changed.erase(std::unique(changed.begin(), changed.end()), changed.end());
  return changed;
}

// The same from the lists, whose ids may be gone by now, or be there twice.
std::vector<Table::IdAndRow> Table::listed(bool last_too, const BucketSet& buckets) const {
  std::vector<std::uint64_t> hashes(touched_now_.hashes().begin(), touched_now_.hashes().end());
  if (last_too) hashes.insert(hashes.end(), touched_last_.hashes().begin(), touched_last_.hashes().end());
  if (!buckets.all()) {
    const auto elsewhere = [&](std::uint64_t hash) { return !buckets[bucket_of(hash)]; };
    hashes.erase(std::remove_if(hashes.begin(), hashes.end(), elsewhere), hashes.end());
  }
  std::vector<IdAndRow> rows;
  Pipeline pipeline(rows_, Need::stamps, hashes.size(), Hashes{hashes.data()});
  while (pipeline.more()) {
    const Found found = pipeline.next(hashes.size());
    for (std::size_t k = 0; k < found.count; ++k)
      if (found.rows[k] != kNoRow) rows.emplace_back(id_of(found.hashes[k]), found.rows[k]);
  }
  return rows;
}

void Table::apply_image(std::uint32_t sequence, const std::int64_t* ids, const float* values, std::size_t n) {
  const Writing writing(writer_);
  rows_.each([&](std::uint64_t, Row row) { rows_.set_mark(row, 0); });
  for (Counters& counters : counters_) counters.clear();
  tombstones_.clear();
  touched_now_.clear();
  sequence_ = sequence;
  {
    WriterTurn turn(turnstile_);
    rows_.reserve(n);
  }
  upsert(ids, values, n);
  for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
    std::vector<std::pair<std::uint64_t, Row>> stale;
    rows_.each(bucket, [&](std::uint64_t hash, Row row) {
      if (rows_.mark(row) == 0) stale.emplace_back(hash, row);
    });
    WriterTurn turn(turnstile_);
    for (const auto& [hash, row] : stale) remove(hash, row, Reason::image);
  }
  tombstones_.set_floor(sequence);
  close_sequence();
}

void Table::apply_delta(std::uint32_t sequence, const std::int64_t* ids, const float* values, std::size_t n,
                        const std::int64_t* removed, std::size_t n_removed) {
  const Writing writing(writer_);
  sequence_ = sequence;
  upsert(ids, values, n);
  for (std::size_t i = 0; i < n_removed; ++i) {
    const std::uint64_t hash = hash_of(removed[i]);
    WriterTurn turn(turnstile_);
    if (const Row row = rows_.find(hash))
      remove(hash, row, Reason::delta);
    else
      tombstones_.add(hash, sequence_);
  }
  close_sequence();
}

void Table::write_rows(const std::int64_t* ids, const float* values, std::size_t n) {
  const Writing writing(writer_);
  upsert(ids, values, n);
}

// Values as given; the rest starts afresh, since only values travel.
void Table::upsert(const std::int64_t* ids, const float* values, std::size_t n) {
  if (rows_.size() == 0) return fill(ids, values, n);
  Pipeline pipeline(rows_, Need::stamps, n, Ids{ids});
  while (pipeline.more()) {
    WriterTurn turn(turnstile_);
    const Found found = pipeline.next(n);
    for (std::size_t k = 0; k < found.count; ++k) {
      const std::uint64_t hash = found.hashes[k];
      Row row = pipeline.now(found, k);
      if (row == kNoRow) row = add_row(hash);
      start_state(row, hash, clock_ms_, 0);
      rows_.write(row, values + (found.first + k) * options_.dim, chance(hash, 0));
    }
  }
}

// The same for a table without rows: nearly every id is new, and a pipeline would search anew after each.
void Table::fill(const std::int64_t* ids, const float* values, std::size_t n) {
  for (std::size_t begin = 0; begin < n; begin += kATurn) {
    WriterTurn turn(turnstile_);
    for (std::size_t i = begin; i < std::min(begin + kATurn, n); ++i) {
      if (i + kBlock < n) rows_.fetch_entry(hash_of(ids[i + kBlock]));
      const std::uint64_t hash = hash_of(ids[i]);
      Row row = rows_.find(hash);
      if (row == kNoRow) row = add_row(hash);
      start_state(row, hash, clock_ms_, 0);
      rows_.write(row, values + i * options_.dim, chance(hash, 0));
    }
  }
}

DeltaArrays Table::tail_delta(std::uint32_t since, const BucketSet& buckets) const {
  const Writing writing(writer_);
  DeltaArrays delta;
  for (std::uint32_t number = 0; number < rows_.shared(); ++number) {
    const Row row = rows_.shared_at(number);
    if (rows_.mark(row) <= since || !buckets[number % kBuckets]) continue;
    delta.ids.push_back(number);
    append_values(row, delta.values);
  }
  return delta;
}

void Table::write_tail(std::uint32_t sequence, const std::int64_t* numbers, const float* values, std::size_t n) {
  const Writing writing(writer_);
  for (std::size_t begin = 0; begin < n; begin += kATurn) {
    WriterTurn turn(turnstile_);
    for (std::size_t i = begin; i < std::min(begin + kATurn, n); ++i) {
      const auto number = static_cast<std::uint32_t>(numbers[i]);
      const Row row = rows_.shared_at(number);
      std::visit([&](const auto& rule) { rule.start(rows_.state(row), options_.dim); }, options_.optimizer);
      rows_.write(row, values + i * options_.dim, chance(shared_hash(number), 0));
      rows_.set_mark(row, sequence);
    }
  }
}

BucketImage Table::export_bucket(std::size_t bucket) const {
  const Writing writing(writer_);
  BucketImage image;
  export_rows(bucket, image);
  export_counters(bucket, image);
  export_tail(bucket, image);
  std::vector<std::pair<std::int64_t, std::uint32_t>> tombstones;
  tombstones_[bucket].each([&](const Tombstone& tombstone) {
    tombstones.emplace_back(id_of(tombstones_.hash_of(tombstone)), static_cast<std::uint32_t>(tombstone.mark));
  });
  std::sort(tombstones.begin(), tombstones.end());
  for (const auto& [id, mark] : tombstones) {
    image.tombstone_ids.push_back(id);
    image.tombstone_marks.push_back(mark);
  }
  return image;
}

void Table::export_rows(std::size_t bucket, BucketImage& image) const {
  std::vector<IdAndRow> rows;
  rows_.each(bucket, [&](std::uint64_t hash, Row row) { rows.emplace_back(id_of(hash), row); });
  std::sort(rows.begin(), rows.end());
  each_fetched(rows, [&](std::int64_t id, Row row) {
    image.ids.push_back(id);
    image.last_seen_ms.push_back(rows_.last_seen(row));
    image.marks.push_back(rows_.mark(row));
    append_values(row, image.values);
    image.state.insert(image.state.end(), rows_.state(row), rows_.state(row) + rows_.state_floats());
    if (rows_.has_admitted()) image.admitted_ms.push_back(rows_.admitted(row));
    if (rows_.has_uses()) image.uses.push_back(rows_.uses(row));
    if (rows_.has_policies()) image.policies.push_back(rows_.policy(row));
  });
}

void Table::export_counters(std::size_t bucket, BucketImage& image) const {
  struct Exported {
    std::int64_t id;
    std::uint32_t policy;
    Counter counter;
  };
  std::vector<Exported> all;
  for (std::uint32_t policy = 0; policy < counters_.size(); ++policy) {
    const Counters& counters = counters_[policy];
    counters[bucket].each(
        [&](const Counter& counter) { all.push_back({id_of(counters.hash_of(counter)), policy, counter}); });
  }
  std::sort(all.begin(), all.end(),
            [](const Exported& a, const Exported& b) { return std::pair(a.id, a.policy) < std::pair(b.id, b.policy); });
  for (const Exported& each : all) {
    image.counter_ids.push_back(each.id);
    image.counter_last_ms.push_back(each.counter.last_ms);
    image.counts.push_back(each.counter.count);
    if (counters_.size() > 1) image.counter_policies.push_back(each.policy);
  }
}

void Table::export_tail(std::size_t bucket, BucketImage& image) const {
  TailRows rows;
  for (std::size_t number = bucket; number < rows_.shared(); number += kBuckets)
    append_tail(static_cast<std::uint32_t>(number), rows);
  image.tail_marks = std::move(rows.marks);
  image.tail_values = std::move(rows.values);
  image.tail_state = std::move(rows.state);
}

void Table::import_tail(std::size_t bucket, const BucketImage& image) {
  const TailRows rows{image.tail_marks, image.tail_values, image.tail_state};
  for (std::size_t i = 0; i < rows.marks.size(); ++i)
    put_tail(static_cast<std::uint32_t>(bucket + i * kBuckets), rows, i);
}

TailRows Table::tail_rows(const std::int64_t* numbers, std::size_t n) const {
  const Writing writing(writer_);
  TailRows rows;
  for (std::size_t i = 0; i < n; ++i) append_tail(static_cast<std::uint32_t>(numbers[i]), rows);
  return rows;
}

void Table::set_tail_rows(const std::int64_t* numbers, const TailRows& rows) {
  const Writing writing(writer_);
  for (std::size_t begin = 0; begin < rows.marks.size(); begin += kATurn) {
    WriterTurn turn(turnstile_);
    for (std::size_t i = begin; i < std::min(begin + kATurn, rows.marks.size()); ++i)
      put_tail(static_cast<std::uint32_t>(numbers[i]), rows, i);
  }
}

void Table::append_tail(std::uint32_t number, TailRows& to) const {
  const Row row = rows_.shared_at(number);
  to.marks.push_back(rows_.mark(row));
  append_values(row, to.values);
  to.state.insert(to.state.end(), rows_.state(row), rows_.state(row) + rows_.state_floats());
}

void Table::put_tail(std::uint32_t number, const TailRows& rows, std::size_t place) {
  const Row row = rows_.shared_at(number);
  rows_.write(row, rows.values.data() + place * options_.dim, chance(shared_hash(number), 0));
  std::copy_n(rows.state.data() + place * rows_.state_floats(), rows_.state_floats(), rows_.state(row));
  rows_.set_mark(row, rows.marks[place]);
}

void Table::reserve(std::size_t rows) {
  const Writing writing(writer_);
  WriterTurn turn(turnstile_);
  rows_.reserve(rows);
}

void Table::import_bucket(std::size_t bucket, const BucketImage& image) {
  const Writing writing(writer_);
  WriterTurn turn(turnstile_);
  for (std::size_t i = 0; i < image.ids.size(); ++i) {
    if (i + kBlock < image.ids.size()) rows_.fetch_entry(hash_of(image.ids[i + kBlock]));
    const std::uint64_t hash = hash_of(image.ids[i]);
    const Row row = rows_.add(hash);
    rows_.write(row, &image.values[i * options_.dim], chance(hash, 0));
    std::copy_n(image.state.data() + i * rows_.state_floats(), rows_.state_floats(), rows_.state(row));
    rows_.set_last_seen(row, image.last_seen_ms[i]);
    rows_.set_admitted(row, image.admitted_ms.empty() ? image.last_seen_ms[i] : image.admitted_ms[i]);
    rows_.set_uses(row, image.uses.empty() ? 1 : image.uses[i]);
    rows_.set_policy(row, image.policies.empty() ? 0 : image.policies[i]);
    rows_.set_mark(row, image.marks[i]);
    rows_.set_slot(row, 0);
  }
  for (std::size_t i = 0; i < image.counter_ids.size(); ++i) {
    const std::uint32_t policy = image.counter_policies.empty() ? 0 : image.counter_policies[i];
    counters_[policies_[policy].counters].restore(hash_of(image.counter_ids[i]), image.counter_last_ms[i],
                                                  image.counts[i]);
  }
  for (std::size_t i = 0; i < image.tombstone_ids.size(); ++i)
    tombstones_.add(hash_of(image.tombstone_ids[i]), image.tombstone_marks[i]);
  import_tail(bucket, image);
  touched_now_.give_up();  // deltas look through the table until the next two cuts
  touched_last_.give_up();
}

}  // namespace monolith
