// The collisionless table: ids come by admission, learn by an optimizer, go by expiry or eviction; every change has a
// sequence.
//
// Any method may be called from any thread. Calls that change something come one at a time; look-ups run beside them
// and beside each other, and wait for one turn (a chunk of ids, or some that are admitted) at most. What a call does is
// a function of the table's state and its arguments: no clock, no thread count, no memory layout changes a bit.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "index/hash_range.h"
#include "optimizers/optimizer.h"
#include "policies/admission.h"
#include "policies/counters.h"
#include "policies/decay.h"
#include "policies/eviction.h"
#include "policies/policy.h"
#include "rows/initializer.h"
#include "rows/pipeline.h"
#include "rows/rows.h"
#include "table/global_norm.h"
#include "table/gradient_sums.h"
#include "table/parts.h"
#include "table/step.h"
#include "table/times.h"
#include "table/tombstones.h"
#include "table/touched.h"
#include "threads/turnstile.h"
#include "threads/writer_mutex.h"

namespace monolith {

// The rows that ids without one share. They belong to no id: they stay, and are not among the table's rows.
struct Tail {
  std::uint32_t rows = 0;  // 0: such ids read zeros, and their gradients are dropped
  bool start = false;      // an id's row starts with the values that the id has read so far
};

struct TableOptions {
  std::size_t dim;
  std::uint64_t key;  // stands for the seed and the table's name
  Optimizer optimizer;
  Admission admission;
  Initializer initializer;
  std::int64_t ttl_ms;  // 0: rows do not expire for being idle
  NonFinite on_nonfinite;
  float max_gradient;
  std::size_t reserve_bytes = 0;  // of address space for rows; 0: twice the machine's memory, or the disk
  Storage storage = Storage::float32;
  std::string folder;                 // of the file that holds rows and index; empty: memory
  std::int64_t max_age_ms = 0;        // 0: rows do not expire for their age
  std::vector<Policy> features = {};  // policies 1, 2, ...; 0 is the table's own
  Eviction eviction = {};
  Tail tail = {};
  std::optional<std::size_t> tombstones = Tombstones::kLeast;  // kept whatever the rows; none: no deltas are asked for
  Pruning pruning = {};
};

enum class Reason { idle, age, evicted, pruned, delta, image };  // why a row went

struct Statistics {  // what happened since the table was made; a part of its state
  std::uint64_t observed = 0, admitted = 0, rejected = 0, late = 0, expired_idle = 0, expired_age = 0, swept = 0,
                evicted = 0, pruned = 0, dropped_gradients = 0, nonfinite = 0, counter_decrements = 0;
};

struct Sizes {
  std::uint64_t rows, free_rows, tail_rows, row_limit, counters, tombstones;
  std::size_t bytes_values, bytes_state, bytes_stamps, bytes_index, bytes_counters, bytes_tombstones, bytes_scratch;
};

struct DeltaArrays {
  std::vector<std::int64_t> ids;  // ascending
  std::vector<float> values;
  std::vector<std::int64_t> removed;  // ascending
};

struct BucketImage {  // everything of one bucket, each part by ascending id
  std::vector<std::int64_t> ids, last_seen_ms, counter_ids, counter_last_ms, tombstone_ids;
  std::vector<std::uint32_t> marks, counts, tombstone_marks;
  std::vector<float> values, state;
  // Empty where the table has no such thing: then a row was made when it was last seen, was seen once, and it is of
  // policy 0, as counters are.
  std::vector<std::int64_t> admitted_ms;
  std::vector<std::uint32_t> uses, policies, counter_policies;
  // Shared rows number `bucket`, bucket + kBuckets, ..., all or none of them.
  std::vector<std::uint32_t> tail_marks;
  std::vector<float> tail_values, tail_state;
};

struct TailRows {
  std::vector<std::uint32_t> marks;
  std::vector<float> values, state;
};

struct Clockwork {  // the rest of the state
  std::uint32_t sequence, floor;
  std::int64_t clock_ms;
  std::uint32_t sweep_cursor;
  std::uint64_t steps;  // apply_gradients calls: what schedules go by
  std::uint32_t eviction_cursor = 0;
};

struct Swept {
  std::uint64_t removed, looked_at;  // rows; rows and counters
};

class Table {
 public:
  using IdAndRow = std::pair<std::int64_t, Row>;

  explicit Table(const TableOptions& options);

  // Where memory or disk has no room for a row, it throws: ids before that one are observed, and the table is whole.
  void observe(const std::int64_t* ids, std::size_t n, Times times, Runs runs = {});
  void lookup(const Parts& parts, std::size_t call_ids = 0) const;
  // out[i]: whether ids[i] has a row of its own, which has not expired.
  void contains(const std::int64_t* ids, std::size_t n, bool* out) const;
  // Returns the position of a gradient that holds NaN or a size the optimizer does not bear if the policy is to raise
  // (then nothing was changed), else -1.
  std::int64_t apply_gradients(const std::int64_t* ids, const float* grads, std::size_t n, Times times);

  // A training step in two calls: forward() is observe() and lookup(), backward() is apply_gradients() of the same ids,
  // bit for bit, whatever was called between. A step is of this table only, and of one thread at a time. Times are by
  // sample. What backward() returns is a position over all parts.
  //
  // `call_ids` is how many ids the call has in all its tables, if this is not the only one.
  void forward(const Parts& parts, Times times, Step& step, std::size_t call_ids = 0);
  std::int64_t backward(Step& step, const PartGradients& grads, Times times);

  // backward() in its two halves, under writing(): for several tables that change together, or not at all.
  Writing writing() const { return Writing(writer_); }
  std::int64_t collect(Step& step, const PartGradients& grads);
  void apply(const Step& step, Times times, const std::vector<double>* norms = nullptr);

  // backward() of a part of a table, in three calls that no other call of this table comes between, while the gradients
  // stay where they are: collect(); of each rule that clips by the norm of all rows, the squares of this part's by
  // position; and the step, by those norms over all parts.
  void begin(const std::int64_t* ids, std::size_t n, Step& step);  // where no forward() has begun it
  // Where each part has the tail: which positions share rows; and those of all parts, as `Step` says, before collect().
  std::vector<std::int64_t> sharing(Step& step);
  void share_instead(Step& step, const std::int64_t* numbers, std::size_t n, bool counts);
  std::int64_t collect_part(Step& step, const PartGradients& grads);
  std::vector<std::vector<double>> squares(const Step& step);
  void apply_part(const Step& step, const std::vector<double>& norms);

  void advance(std::int64_t clock_ms);
  // Goes on through so many buckets' worth of hashes, but ends behind the max_rows-th row or counter that
  // was looked at, and those whose hashes have the same upper half.
  Swept sweep(std::size_t buckets, std::uint64_t max_rows = UINT64_MAX);
  std::uint64_t sweepable() const;  // rows and counters that a sweep of all buckets looks at

  std::uint32_t cut();
  // Rows written and ids removed after `since`, which is 0 (then it is an image: every row) or at least the floor. Rows
  // that expired and were not swept are in it: so what a replica holds depends on the sequence alone, and not on which
  // deltas it came by. Of the given buckets only; what their deltas hold together is the delta of all.
  DeltaArrays delta(std::uint32_t since, const BucketSet& buckets = BucketSet().set()) const;
  DeltaArrays live_rows() const;  // those that are not expired
  void apply_image(std::uint32_t sequence, const std::int64_t* ids, const float* values, std::size_t n);
  void apply_delta(std::uint32_t sequence, const std::int64_t* ids, const float* values, std::size_t n,
                   const std::int64_t* removed, std::size_t n_removed);

  // Rows with these values, written now, as if they were made anew: all else of them starts afresh.
  void write_rows(const std::int64_t* ids, const float* values, std::size_t n);

  // Shared rows by number, in place of ids: those written after `since`, 0: all. Number n is in bucket n % 1,024.
  DeltaArrays tail_delta(std::uint32_t since, const BucketSet& buckets = BucketSet().set()) const;
  void write_tail(std::uint32_t sequence, const std::int64_t* numbers, const float* values, std::size_t n);
  // Shared rows with all that they have, by number: as another part of the table has them.
  TailRows tail_rows(const std::int64_t* numbers, std::size_t n) const;
  void set_tail_rows(const std::int64_t* numbers, const TailRows& rows);

  void reserve(std::size_t rows);  // so many will come: an empty table makes its index for them
  BucketImage export_bucket(std::size_t bucket) const;
  void import_bucket(std::size_t bucket, const BucketImage& image);  // into a bucket that is empty
  Clockwork clockwork() const;
  void set_clockwork(const Clockwork& clockwork);

  Statistics statistics() const;
  void set_statistics(const Statistics& statistics);
  Sizes sizes() const;
  // Entries that insertions into the index, the counters and the tombstones went past or moved so far: their work.
  std::uint64_t passed() const;
  std::size_t state_floats() const { return rows_.state_floats(); }
  std::size_t dim() const { return options_.dim; }
  std::size_t policies() const { return policies_.size(); }
  bool scored() const { return options_.eviction.by == Eviction::By::score; }       // by a function of the caller's
  std::size_t row_bytes() const { return rows_.stride() + Eviction::kIndexBytes; }  // what a limit in bytes counts

 private:
  bool expired(Row row) const { return rows_.last_seen(row) < newest_cutoff_ && has_expired(row); }
  bool has_expired(Row row) const;
  // What an occurrence of an id that has a live row does. Of no other row, and of nothing else, is anything touched.
  void seen(const RowView& rows, Row row, std::int64_t t) {
    if (rows.has_uses()) count_use(row, t);
    rows.set_last_seen(row, std::max(rows.last_seen(row), t));
  }
  void count_use(Row row, std::int64_t t);
  // What a gradient's time does to its row: it was in use until then, but is no further occurrence.
  void refresh(Row row, std::int64_t t) {
    if (t <= rows_.last_seen(row)) return;
    rows_.set_uses(row, uses_at(row, t));
    rows_.set_last_seen(row, t);
  }
  std::uint32_t uses_at(Row row, std::int64_t t) const {
    return decayed(rows_.uses(row), rows_.last_seen(row), t, options_.eviction.half_life_ms);
  }
  void set_clock(std::int64_t clock_ms);
  void set_cutoffs();
  // What an occurrence of any id does; the row that it has then.
  Row observe_one(std::uint64_t hash, std::int64_t t, std::uint32_t policy);
  bool admits(std::uint64_t hash, std::int64_t t, const Policy& policy);
  Row add_row(std::uint64_t hash);
  void start_values(Row row, std::uint64_t hash);
  void start_tail();
  std::uint64_t chance(std::uint64_t hash, std::uint64_t step) const;  // the stream that rounds a row's values
  void start_state(Row row, std::uint64_t hash, std::int64_t last_seen_ms, std::uint32_t policy);
  Reason expiry_of(Row row) const;  // of one that has expired
  void remove(std::uint64_t hash, Row row, Reason reason);

  // Takes rows that are not of the step until the table is within its limit, or has no others.
  void evict(const Step& current);
  std::vector<Candidate> next_sample(const Step& current, std::uint64_t& hashes_passed);
  void score(std::vector<Candidate>& sample) const;
  void score_by_function(std::vector<Candidate>& sample) const;
  void touch(Row row, std::uint64_t hash);
  std::uint64_t first_looks(HashRange& range, std::uint64_t most) const;
  std::uint64_t sweep_rows(HashRange range);
  bool stayed_small(Row row, std::vector<float>& scratch) const;
  template <class Visit>
  void each_in(HashRange range, Visit visit) const;

  struct Deferred {  // the i-th occurrence of a group, at its place in the call
    std::size_t position;
    Group* group;
    std::uint32_t i;
    Row row;

    std::uint64_t hash() const { return group->hash(i); }
  };
  void observe_and_read(const Parts& parts, Times times, Step& step, std::size_t call_ids);
  template <class Dim>
  void observe_known(const Parts& parts, Times times, Step& step, Group& group, Dim dim);
  void see(const Found& found, Times times, const Step& step, const Step::Feature& feature, Group& group);
  template <class TimeOf>
  void see_at(const Found& found, Group& group, TimeOf time_of);
  template <class Dim, class Place>
  void copy(const Found& found, std::size_t end, Dim dim, Place place) const;
  std::size_t observe_others(const Parts& parts, Times times, Step& step);
  std::size_t read_admitted(const Parts& parts, std::vector<Deferred>& all, Step& step);
  template <class Dim>
  void pool(const Piece& piece, const Row* rows, Dim dim) const;
  template <class Dim>
  void read(const Piece& piece, Dim dim) const;
  template <class With>
  void read(const Part& part, std::size_t begin, std::size_t end, With with) const;

  std::int64_t collect_and_apply(Step& step, const PartGradients& grads, Times times);
  void resolve(Step& step, const Gradients& gradients);
  std::int64_t collect_one_by_one(const Step& step, const Gradients& gradients);
  std::int64_t settle(const Step& step);
  template <class Rule, class Dim>
  void step_rows_of(const Rule& rule, Dim dim, const Group& group, GradientSums& sums, Times times);
  template <class Rule, class Dim>
  void step_rows(Rule rule, Dim dim, const Group& group, GradientSums& sums, Times times);

  std::uint32_t close_sequence();
  std::vector<IdAndRow> changed_after(std::uint32_t since, const BucketSet& buckets) const;
  std::vector<IdAndRow> listed(bool last_too, const BucketSet& buckets) const;
  template <class Visit>
  void each_fetched(const std::vector<IdAndRow>& listed, Visit visit) const;
  DeltaArrays copy_rows(const std::vector<IdAndRow>& changed, bool live_only) const;
  void append_values(Row row, std::vector<float>& to) const;
  void export_rows(std::size_t bucket, BucketImage& image) const;
  void export_counters(std::size_t bucket, BucketImage& image) const;
  void export_tail(std::size_t bucket, BucketImage& image) const;
  void import_tail(std::size_t bucket, const BucketImage& image);
  void append_tail(std::uint32_t number, TailRows& to) const;
  void put_tail(std::uint32_t number, const TailRows& rows, std::size_t place);
  void upsert(const std::int64_t* ids, const float* values, std::size_t n);
  void fill(const std::int64_t* ids, const float* values, std::size_t n);

  const TableOptions options_;
  const float largest_;  // size of a gradient
  const std::vector<Policy> policies_;
  const bool rows_expire_;
  const bool sweeps_rows_;      // whether a sweep looks at rows: some rule takes them by then
  mutable WriterMutex writer_;  // held by every call but lookup()
  mutable Turnstile turnstile_;

  // What look-ups read: changed in a writer's turn only.
  Rows rows_;
  std::int64_t clock_ms_ = INT64_MIN;
  std::vector<Cutoffs> cutoffs_;            // of each policy
  std::int64_t newest_cutoff_ = INT64_MIN;  // rows that were seen since have not expired; after all time, if ages count
  std::int64_t cutoff_ = INT64_MIN;         // the clock, if rows expire by it: as long as it stands, none does

  std::deque<Counters> counters_;  // of each policy; empty for those that count with the table's
  Tombstones tombstones_;
  Step own_step_;                   // of the calls that come without one
  std::vector<GradientSums> sums_;  // of each group
  GlobalNorm global_norm_;
  std::uint64_t nonfinite_ = 0;         // what collect() found
  Touched touched_now_, touched_last_;  // in the open sequence, and in the one closed last
  std::uint32_t sequence_ = 1;
  std::uint32_t sweep_cursor_ = 0;     // the upper half of the hash that the next sweep starts at
  const std::uint64_t row_limit_;      // 0: none
  std::uint32_t eviction_cursor_ = 0;  // the upper half of the hash that the next sample starts at
  std::uint64_t steps_ = 0;
  std::vector<float> first_values_;  // scratch of observe()
  Statistics statistics_;
};

}  // namespace monolith
