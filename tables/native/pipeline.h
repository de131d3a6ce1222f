// A call's ids in chunks, each stage fetching memory for the next: hash ids, find candidates, and the caller's work,
// each one chunk behind the stage before it. Not thread safe: the table takes turns.
#pragma once

#include <algorithm>

#include "rows.h"

namespace monolith {

class Pipeline {
 public:
  Pipeline(const Rows& rows, Need need, const std::int64_t* ids, std::size_t n)
      : rows_(rows), need_(need), ids_(ids), n_(n) {}

  bool more() const { return done_ < n_; }

  // The next chunk; row_of() says which rows its ids have.
  const Chunk& next() {
    if (done_ == 0) start();
    Chunk& chunk = chunks_[turn_];
    prepare(chunks_[(turn_ + 2) % 3], chunk.begin + 2 * Chunk::kSize);
    rows_.resolve(chunks_[(turn_ + 1) % 3], need_);
    done_ += chunk.count;
    turn_ = (turn_ + 1) % 3;
    return chunk;
  }
  // The row of the chunk's i-th id as things are now; kNoRow: there is none.
  Row row_of(const Chunk& chunk, std::size_t i) const {
    if (chunk.changes != rows_.changes()) return rows_.find(chunk.hash[i]);
    return rows_.confirmed(chunk.row[i], chunk.hash[i]);
  }

 private:
  void start() {
    prepare(chunks_[0], 0);
    prepare(chunks_[1], Chunk::kSize);
    rows_.resolve(chunks_[0], need_);
  }

  void prepare(Chunk& chunk, std::size_t begin) {
    chunk.begin = std::min(begin, n_);
    chunk.count = std::min(n_ - chunk.begin, Chunk::kSize);
    for (std::size_t i = 0; i < chunk.count; ++i) {
      chunk.hash[i] = hash_of(ids_[chunk.begin + i]);
      rows_.fetch_home(chunk.hash[i]);
    }
  }

  const Rows& rows_;
  const Need need_;
  const std::int64_t* ids_;
  const std::size_t n_;
  std::size_t done_ = 0;
  std::size_t turn_ = 0;
  Chunk chunks_[3];  // given out, resolved, hashed
};

}  // namespace monolith
