// A call's ids in chunks, each stage fetching memory for the next: hash ids, resolve rows, and the caller's work, each
// one chunk behind the stage before it.
//
// A training step names the same ids three times: observe, look up, apply gradients. What observe resolved is kept, and
// the calls after it take their rows from there when they come with the same ids. Not thread safe: the table takes
// turns.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "rows.h"

namespace monolith {

// The ids of the last observe and their rows.
class Recent {
 public:
  void begin(const std::int64_t* ids, std::size_t n) {
    ids_.assign(ids, ids + n);
    rows_.resize(n);
    kept_ = 0;
  }
  void add(char* row) { rows_[kept_++] = row; }  // of the next id

  // Fills the chunk's rows (nullptr: not known) if its ids were at the same place of that call.
  bool recall(const std::int64_t* ids, Chunk& chunk) const {
    if (chunk.begin + chunk.count > kept_) return false;
    if (std::memcmp(ids + chunk.begin, &ids_[chunk.begin], chunk.count * sizeof *ids) != 0) return false;
    std::copy_n(&rows_[chunk.begin], chunk.count, chunk.row);
    return true;
  }

  void end(const Rows& rows) { removals_ = rows.removals(); }
  bool holds(const Rows& rows) const { return removals_ == rows.removals(); }
  std::size_t bytes() const { return ids_.capacity() * sizeof(std::int64_t) + rows_.capacity() * sizeof(char*); }

 private:
  std::vector<std::int64_t> ids_;
  std::vector<char*> rows_;
  std::size_t kept_ = 0;
  std::uint64_t removals_ = 0;
};

class Pipeline {
 public:
  Pipeline(const Rows& rows, Need need, const std::int64_t* ids, std::size_t n, const Recent* recent = nullptr)
      : rows_(rows), need_(need), ids_(ids), n_(n), recent_(recent) {}

  bool more() const { return done_ < n_; }

  // The next chunk with its rows, valid until one of them is removed, and complete until one is added. Its hashes are
  // there unless it was recalled.
  Chunk& next() {
    if (done_ == 0) start();
    Chunk& chunk = chunks_[turn_];
    prepare(chunks_[(turn_ + 2) % 3], chunk.begin + 2 * Chunk::kSize);
    resolve(chunks_[(turn_ + 1) % 3]);
    if (chunk.changes != rows_.changes()) resolve(chunk);
    done_ += chunk.count;
    turn_ = (turn_ + 1) % 3;
    return chunk;
  }

 private:
  void start() {
    prepare(chunks_[0], 0);
    prepare(chunks_[1], Chunk::kSize);
    resolve(chunks_[0]);
  }

  void prepare(Chunk& chunk, std::size_t begin) {
    chunk.begin = std::min(begin, n_);
    chunk.count = std::min(n_ - chunk.begin, Chunk::kSize);
    chunk.recalled = recent_ != nullptr && chunk.count != 0 && recent_->holds(rows_) && recent_->recall(ids_, chunk);
    chunk.removals = rows_.removals();
    if (!chunk.recalled) rows_.hash_ids(ids_, chunk);
  }

  // Once in time for the rows to be fetched, and again if some were added or removed since.
  void resolve(Chunk& chunk) {
    chunk.changes = rows_.changes();
    if (chunk.recalled && chunk.removals == rows_.removals()) return take_recalled(chunk);
    if (chunk.recalled) rows_.hash_ids(ids_, chunk);
    chunk.recalled = false;
    rows_.resolve(chunk, need_);
  }

  void take_recalled(Chunk& chunk) {
    for (std::size_t i = 0; i < chunk.count; ++i) {
      if (chunk.row[i] == nullptr) chunk.row[i] = rows_.find(hash_of(ids_[chunk.begin + i]));
      if (chunk.row[i] != nullptr) rows_.fetch_row(chunk.row[i], need_);
    }
  }

  const Rows& rows_;
  const Need need_;
  const std::int64_t* ids_;
  const std::size_t n_;
  const Recent* recent_;
  std::size_t done_ = 0;
  std::size_t turn_ = 0;
  Chunk chunks_[3];  // given out, resolved, hashed
};

}  // namespace monolith
