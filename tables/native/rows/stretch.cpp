#include "rows/stretch.h"

namespace monolith {
namespace {

bool by_hash(const HashAndRow& a, const HashAndRow& b) { return a.hash < b.hash; }
bool struck_out(const HashAndRow& each) { return each.row == kNoRow; }

// Strikes out the hash's row among sorted ones. Whether it was there.
bool strike_in(HashAndRow* begin, HashAndRow* end, std::uint64_t hash) {
  HashAndRow* at = std::lower_bound(begin, end, hash, [](const HashAndRow& a, std::uint64_t b) { return a.hash < b; });
  while (at != end && at->hash == hash && struck_out(*at)) ++at;  // it came and went before
  if (at == end || at->hash != hash) return false;
  at->row = kNoRow;
  return true;
}

// Hashes are spread over their buckets, so each goes to about its place, and few have to change theirs after that.
void sort_spread(const std::vector<HashAndRow>& rows, std::size_t first, std::size_t end,
                 std::vector<HashAndRow>& sorted) {
  const std::uint64_t lowest = std::uint64_t{first} << 54;
  unsigned shift = 10;
  while (shift < 63 && (std::uint64_t{end - first} << 44) >> (shift - 10) > 2 * rows.size())
    ++shift;  // two places at least
  const auto place = [=](const HashAndRow& each) { return static_cast<std::size_t>((each.hash - lowest) >> shift); };
  static thread_local std::vector<std::uint32_t> ends;  // memory that is handed back at once is cleared each time
  ends.assign(2 * rows.size() + 2, 0);
  for (const HashAndRow& each : rows) ++ends[place(each) + 1];
  for (std::size_t i = 1; i < ends.size(); ++i) ends[i] += ends[i - 1];
  sorted.resize(rows.size());
  for (const HashAndRow& each : rows) sorted[ends[place(each)]++] = each;
  std::size_t moves = 8 * sorted.size();
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    const HashAndRow each = sorted[i];
    std::size_t at = i;
    for (; at != 0 && each.hash < sorted[at - 1].hash; --at) sorted[at] = sorted[at - 1];
    sorted[at] = each;
    moves -= std::min(moves, i - at);
    if (moves == 0) return std::sort(sorted.begin(), sorted.end(), by_hash);  // they were chosen to lie close
  }
}

}  // namespace

void Stretch::take(std::size_t first, std::size_t end, const std::vector<HashAndRow>& rows) {
  forget();
  sort_spread(rows, first, end, rows_);
  first_ = first;
  end_ = end;
}

void Stretch::strike(std::uint64_t hash) {
  if (strike_in(rows_.data(), rows_.data() + rows_.size(), hash))
    ++struck_;
  else if (!strike_in(come_.data(), come_.data() + sorted_, hash))
    doubtful_ = true;
}

void Stretch::sort_in() {
  if (doubtful_) come_.erase(std::remove_if(unsorted(), come_.end(), struck_out), come_.end());
  std::sort(unsorted(), come_.end(), by_hash);
  const auto same = [](const HashAndRow& a, const HashAndRow& b) { return a.hash == b.hash; };
  if (doubtful_) come_.erase(std::unique(unsorted(), come_.end(), same), come_.end());
  std::inplace_merge(come_.begin(), unsorted(), come_.end(), by_hash);
  sorted_ = come_.size();
  doubtful_ = false;
}

void Stretch::fold() {
  rows_.erase(std::remove_if(rows_.begin(), rows_.end(), struck_out), rows_.end());
  come_.erase(std::remove_if(come_.begin(), come_.end(), struck_out), come_.end());
  const auto count = static_cast<std::ptrdiff_t>(rows_.size());
  rows_.insert(rows_.end(), come_.begin(), come_.end());
  std::inplace_merge(rows_.begin(), rows_.begin() + count, rows_.end(), by_hash);
  come_.clear();
  sorted_ = struck_ = 0;
  if (end_ - first_ == kBuckets && rows_.size() > 2 * kWhole) forget();  // the table has grown: parts of it will do
}

void Stretch::forget() {
  first_ = end_ = 0;
  rows_.clear();
  come_.clear();
  sorted_ = struck_ = 0;
  doubtful_ = false;
}

}  // namespace monolith
