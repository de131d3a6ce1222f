// From ids to vectors: in training they are observed on the way, and what was found out is kept for backward.
//
// An id that has a row is done with at its place in the list: a row that is there stays as it is to the call's end, so
// it is read at once, by the thread of its group, and without a turn, for nothing that readers read is changed but the
// time, which is atomic. What may change the table (ids without a row, rows that expired) waits until all those are
// done, and is then taken in the order of the call, one by one.
#include <algorithm>

#include "memory/simd.h"
#include "optimizers/optimizer.h"
#include "rows/pipeline.h"
#include "table/table.h"
#include "threads/crew.h"

namespace monolith {
namespace {

constexpr std::size_t kATurn = 256;        // ids looked up in one turn: some 5 us
constexpr std::size_t kChangesATurn = 32;  // ids admitted in one turn
constexpr std::size_t kAhead = 24;         // rows fetched before they are added up
constexpr std::size_t kPlacesAhead = 32;   // of vectors, fetched before rows are copied there

// The latest of the times of samples that have ids; INT64_MIN if there are none.
std::int64_t latest(const Parts& parts, Times times) {
  std::int64_t latest = INT64_MIN;
  for (const Part& part : parts) {
    if (part.count == 0) continue;
    if (!times.each()) return times.at(0);
    for (std::size_t sample = 0; sample < part.samples; ++sample)
      if (part.lengths == nullptr || part.lengths[sample] != 0) latest = std::max(latest, times.at(sample));
  }
  return latest;
}

// Makes the vectors of a part's samples out of rows that come in the order of its ids. A vector starts as zeros, to
// which rows are added one after the other; where each sample has one id, it is the row.
template <class Dim>
class Pooler {
 public:
  Pooler(const Part& part, Dim dim, std::size_t first, std::size_t last, std::size_t id)
      : part_(part), dim_(dim), sample_(first), last_(last), id_(id) {
    open();
  }

  void add(const float* row) {
    const float weight = part_.weights == nullptr ? 1.0f : part_.weights[id_];
    ++id_;
    float* const out = vector();
    if (part_.lengths == nullptr) {
      for (std::size_t k = 0; k < dim_; ++k) out[k] = row[k] * weight;
    } else {
      for (std::size_t k = 0; k < dim_; ++k) out[k] += row[k] * weight;
    }
    if (--left_ != 0) return;
    close();
    ++sample_;
    open();
  }

 private:
  float* vector() const { return part_.out + sample_ * part_.stride; }
  std::size_t ids() const { return part_.lengths == nullptr ? 1 : static_cast<std::size_t>(part_.lengths[sample_]); }

  void open() {
    for (; sample_ < last_; ++sample_) {
      left_ = ids();
      if (part_.lengths != nullptr) std::fill_n(vector(), static_cast<std::size_t>(dim_), 0.0f);
      if (left_ != 0) return;
    }
  }
  void close() const {
    if (!part_.mean || part_.lengths == nullptr) return;
    float* const out = vector();
    const auto divisor = static_cast<float>(ids());
    for (std::size_t k = 0; k < dim_; ++k) out[k] /= divisor;
  }

  const Part& part_;
  const Dim dim_;
  std::size_t sample_, last_, id_, left_ = 0;
};

// The part in `count` pieces of about as many samples.
void cut(const Part& part, unsigned count, std::vector<Piece>& pieces) {
  std::size_t sample = 0, id = 0;
  for (unsigned k = 1; k <= count; ++k) {
    Piece piece{&part, sample, part.samples * k / count, id, 0};
    for (; sample < piece.last; ++sample)
      id += part.lengths == nullptr ? 1 : static_cast<std::size_t>(part.lengths[sample]);
    piece.end = id;
    pieces.push_back(piece);
  }
}

// Calls work(piece) for all pieces of the parts that are `wanted`, on as many threads as their ids are worth: a large
// part is cut, small ones that follow on one another go together.
template <class Wanted, class ForPiece>
void each_piece(const Parts& parts, std::size_t call_ids, Wanted wanted, ForPiece work) {
  const std::size_t ids = ids_of(parts);
  const unsigned runs = groups_for(ids, call_ids);
  std::vector<Piece> pieces;
  for (const Part& part : parts) {
    const std::size_t worth = part.count == 0 ? 0 : (part.count * runs + ids - 1) / ids;
    if (wanted(part)) cut(part, std::max(static_cast<unsigned>(worth), 1u), pieces);
  }
  std::vector<std::size_t> ends;  // of each run of pieces
  for (std::size_t k = 0, taken = 0; k < pieces.size(); ++k) {
    taken += pieces[k].end - pieces[k].id;
    if (k + 1 != pieces.size() && taken * runs < ids) continue;
    ends.push_back(k + 1);
    taken = 0;
  }
  in_parallel(static_cast<unsigned>(ends.size()), [&](unsigned run) {
    for (std::size_t k = run == 0 ? 0 : ends[run - 1]; k < ends[run]; ++k) work(pieces[k]);
  });
}

}  // namespace

void Table::observe(const std::int64_t* ids, std::size_t n, Times times, Runs runs) {
  Part part;
  part.ids = ids;
  part.count = part.samples = n;
  part.runs = runs;
  const Writing writing(writer_);
  observe_and_read({part}, times, own_step_, n);
}

void Table::forward(const Parts& parts, Times times, Step& step, std::size_t call_ids) {
  const Writing writing(writer_);
  observe_and_read(parts, times, step, call_ids);
}

void Table::observe_and_read(const Parts& parts, Times times, Step& step, std::size_t call_ids) {
  if (times.given()) set_clock(latest(parts, times));
  step.begin(parts, groups_for(ids_of(parts), call_ids), rows_.shared() != 0);
  in_parallel(static_cast<unsigned>(step.by_hash()), [&](unsigned group) {
    for_dim(options_.dim, [&](auto dim) { observe_known(parts, times, step, step.groups()[group], dim); });
  });
  const std::size_t absent = observe_others(parts, times, step);
  const auto pooled = [](const Part& part) { return part.pooled() && part.out != nullptr; };
  each_piece(parts, call_ids, pooled, [&](const Piece& piece) {
    const Row* const rows = step.rows_at().data() + step.features()[piece.part - parts.data()].begin;
    for_dim(options_.dim, [&](auto dim) { pool(piece, rows, dim); });
  });
  evict(step);
  tombstones_.keep_within(rows_.size());
  step.end(rows_, cutoff_, absent, true);
  statistics_.observed += step.size();
}

template <class Dim>
void Table::observe_known(const Parts& parts, Times times, Step& step, Group& group, Dim dim) {
  Pipeline pipeline(rows_, parts.empty() || parts.front().out == nullptr ? Need::stamps : Need::all, group.size(),
                    Hashes{group.hashes()});
  for (std::size_t number = 0; number < parts.size(); ++number) {
    const Part& part = parts[number];
    const Step::Feature& feature = step.features()[number];
    while (pipeline.done() < group.end(number)) {
      const Found found = pipeline.next(group.end(number) - pipeline.done());
      see(found, times, step, feature, group);
      if (part.pooled())
        for (std::size_t k = 0; k < found.count; ++k) step.rows_at()[group.position(found.first + k)] = found.rows[k];
      else if (part.out != nullptr)
        copy(found, group.end(number), dim,
             [out = part.out, stride = part.stride, begin = feature.begin,
              positions = group.positions()](std::size_t i) { return out + (positions[i] - begin) * stride; });
    }
  }
}

// Observes those that have a live row; the others wait, and have none so far. In two loops, each of which has room for
// its variables in registers.
void Table::see(const Found& found, Times times, const Step& step, const Step::Feature& feature, Group& group) {
  const std::int64_t one_time = times.given() ? times.at(0) : clock_ms_;
  if (times.each())
    see_at(found, group, [&](std::size_t i) { return times.at(step.sample_at(group.position(i), feature)); });
  else
    see_at(found, group, [one_time](std::size_t) { return one_time; });
  Group::Adder adder(group, rows_);
  for (std::size_t k = 0, i = found.first; k < found.count; ++k, ++i)
    if (found.rows[k] != kNoRow) adder.add(found.rows[k], i);
}

template <class TimeOf>
inline void Table::see_at(const Found& found, Group& group, TimeOf time_of) {
  const std::int64_t cutoff = newest_cutoff_;
  const RowView rows = rows_;
  Row* const row = found.rows;
  for (std::size_t k = 0, i = found.first; k < found.count; ++k, ++i) {
    if (row[k] == kNoRow || (rows.last_seen(row[k]) < cutoff && has_expired(row[k]))) {
      group.defer(i);
      row[k] = kNoRow;
    } else {
      seen(rows, row[k], time_of(i));
    }
  }
}

// The row of the i-th id to place(i). Places are fetched as well, those up to the id `end`: more of them are then under
// way than the core asks for by itself. Narrow rows have a loop apart: decoding is a call, for which the view would
// have to be in memory.
template <class Dim, class Place>
void Table::copy(const Found& found, std::size_t end, Dim dim, Place place) const {
  if (rows_.narrow()) {
    for (std::size_t k = 0, i = found.first; k < found.count; ++k, ++i) {
      fetch_floats(place(std::min(i + kPlacesAhead, end - 1)), dim);
      rows_.read(found.rows[k], dim, place(i));
    }
    return;
  }
  with_simd([found, end, dim, place, rows = RowView(rows_)] {
    for (std::size_t k = 0; k < found.count; ++k) {
      const std::size_t i = found.first + k;
      fetch_floats(place(std::min(i + kPlacesAhead, end - 1)), dim);
      std::memcpy(place(i), rows.at(found.rows[k]), dim * sizeof(float));
    }
  });
}

// Returns how many occurrences have no row in the end, nor share one.
std::size_t Table::observe_others(const Parts& parts, Times times, Step& step) {
  std::vector<Deferred> all;
  for (Group& group : step.groups())
    for (const std::uint32_t i : group.deferred()) all.push_back({group.position(i), &group, i, kNoRow});
  if (all.empty()) return 0;
  if (step.by_hash() > 1)
    std::sort(all.begin(), all.end(), [](const Deferred& a, const Deferred& b) { return a.position < b.position; });
  const std::uint64_t admitted = statistics_.admitted;
  std::size_t feature = 0;
  for (std::size_t k = 0; k < all.size();) {
    const std::size_t end = std::min(all.size(), k + kChangesATurn);
    WriterTurn turn(turnstile_);
    for (; k < end; ++k) {
      if (k + kAhead < all.size()) rows_.fetch_entry(all[k + kAhead].hash());
      feature = step.feature_at(all[k].position, feature);
      const std::size_t sample = step.sample_at(all[k].position, step.features()[feature]);
      const std::uint32_t policy = parts[feature].policy_at(all[k].position - step.features()[feature].begin);
      all[k].row = observe_one(all[k].hash(), times.given() ? times.at(sample) : clock_ms_, policy);
    }
  }
  if (statistics_.admitted == admitted && rows_.shared() == 0) return all.size();
  return read_admitted(parts, all, step);
}

// An id that a later occurrence brought in has its row at all its occurrences. The others share one, where there are
// any.
std::size_t Table::read_admitted(const Parts& parts, std::vector<Deferred>& all, Step& step) {
  std::size_t feature = 0, absent = 0;
  std::vector<Shared> shared;
  for (Deferred& each : all) {
    const std::uint64_t hash = each.hash();
    if (each.row == kNoRow) each.row = rows_.find(hash);
    if (each.row != kNoRow) {
      Group::Adder(*each.group, rows_).add(each.row, each.i);
    } else if (rows_.shared() != 0) {
      each.row = rows_.shared_row(hash);
      shared.push_back({each.position, shared_number(hash, rows_.shared())});
    } else {
      ++absent;
      continue;
    }
    feature = step.feature_at(each.position, feature);
    const Part& part = parts[feature];
    if (part.pooled())
      step.rows_at()[each.position] = each.row;
    else if (part.out != nullptr)
      rows_.read(each.row, options_.dim, part.out + (each.position - step.features()[feature].begin) * part.stride);
  }
  step.share(rows_, shared);
  return absent;
}

// The vectors of a piece of a part whose ids have the `rows`.
template <class Dim>
void Table::pool(const Piece& piece, const Row* rows, Dim dim) const {
  std::vector<float> scratch(options_.dim);
  Pooler pooler(*piece.part, dim, piece.first, piece.last, piece.id);
  for (std::size_t i = piece.id; i < piece.end; ++i) {
    if (i + kAhead < piece.end) rows_.fetch_row(rows[i + kAhead], Need::values);
    pooler.add(rows_.values(rows[i], scratch.data()));
  }
}

void pool_rows(const Part& part, const float* rows, std::size_t dim) {
  for_dim(dim, [&](auto columns) {
    Pooler pooler(part, columns, 0, part.samples, 0);
    for (std::size_t i = 0; i < part.count; ++i) pooler.add(rows + i * dim);
  });
}

void pool_rows(const Part& part, const float* const* rows, std::size_t dim, const std::int64_t* places) {
  for_dim(dim, [&](auto columns) {
    Pooler pooler(part, columns, 0, part.samples, 0);
    for (std::size_t i = 0; i < part.count; ++i) pooler.add(rows[places[i]]);
  });
}

void Table::lookup(const Parts& parts, std::size_t call_ids) const {
  const auto all = [](const Part&) { return true; };
  each_piece(parts, call_ids, all,
             [&](const Piece& piece) { for_dim(options_.dim, [&](auto dim) { read(piece, dim); }); });
}

void Table::contains(const std::int64_t* ids, std::size_t n, bool* out) const {
  Pipeline pipeline(rows_, Need::values, n, Ids{ids});
  while (pipeline.more()) {
    ReaderTurn turn(turnstile_);
    for (std::size_t left = kATurn; left != 0 && pipeline.more();) {
      const Found found = pipeline.next(left);
      for (std::size_t k = 0; k < found.count; ++k)
        out[found.first + k] = found.rows[k] != kNoRow && !expired(found.rows[k]);
      left -= found.count;
    }
  }
}

template <class Dim>
void Table::read(const Piece& piece, Dim dim) const {
  const Part& part = *piece.part;
  if (!part.pooled())
    return read(part, piece.id, piece.end, [&](const Found& found) {
      copy(found, piece.end - piece.id, dim,
           [out = part.out + piece.id * part.stride, stride = part.stride](std::size_t i) { return out + i * stride; });
    });
  std::vector<float> scratch(options_.dim);
  Pooler pooler(part, dim, piece.first, piece.last, piece.id);
  read(part, piece.id, piece.end, [&](const Found& found) {
    for (std::size_t k = 0; k < found.count; ++k) pooler.add(rows_.values(found.rows[k], scratch.data()));
  });
}

// Calls with(found) for the ids [begin, end) of the part, by blocks, in turns.
template <class With>
void Table::read(const Part& part, std::size_t begin, std::size_t end, With with) const {
  Pipeline pipeline(rows_, Need::values, end - begin, Ids{part.ids + begin, part.salt});
  while (pipeline.more()) {
    ReaderTurn turn(turnstile_);
    for (std::size_t left = kATurn; left != 0 && pipeline.more();) {
      const Found found = pipeline.next(left);
      for (std::size_t k = 0; k < found.count; ++k)
        if (found.rows[k] == kNoRow || expired(found.rows[k])) found.rows[k] = rows_.shared_row(found.hashes[k]);
      with(found);
      left -= found.count;
    }
  }
}

}  // namespace monolith
