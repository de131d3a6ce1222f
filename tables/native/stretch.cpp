#include "stretch.h"

namespace monolith {
namespace {

bool before(const HashAndRow& a, const HashAndRow& b) { return a.hash < b.hash; }

// Hashes are spread over their buckets, so each goes to about its place, and few have to change theirs after that.
void sort_spread(const std::vector<HashAndRow>& rows, std::size_t first, std::size_t end,
                 std::vector<HashAndRow>& sorted) {
  const std::uint64_t lowest = std::uint64_t{first} << 54;
  unsigned shift = 10;
  while (shift < 63 && (std::uint64_t{end - first} << 44) >> (shift - 10) > rows.size())
    ++shift;  // two places at least
  const auto place = [=](const HashAndRow& each) { return static_cast<std::size_t>((each.hash - lowest) >> shift); };
  std::vector<std::uint32_t> ends(rows.size() + 2);
  for (const HashAndRow& each : rows) ++ends[place(each) + 1];
  for (std::size_t i = 1; i < ends.size(); ++i) ends[i] += ends[i - 1];
  sorted.resize(rows.size());
  for (const HashAndRow& each : rows) sorted[ends[place(each)]++] = each;
  auto run = sorted.begin();
  for (std::size_t i = 0; run != sorted.end(); ++i) {
    const auto next = sorted.begin() + ends[i];
    if (next - run > 1) std::sort(run, next, before);
    run = next;
  }
}

}  // namespace

void Stretch::take(std::size_t first, std::size_t end, const std::vector<HashAndRow>& rows) {
  sort_spread(rows, first, end, rows_);
  changed_.clear();
  first_ = first;
  end_ = end;
}

void Stretch::merge(const std::vector<HashAndRow>& now) {
  std::vector<HashAndRow> merged;
  merged.reserve(rows_.size() + now.size());
  auto gone = changed_.begin();
  auto come = now.begin();
  for (const HashAndRow& each : rows_) {
    for (; come != now.end() && come->hash <= each.hash; ++come) merged.push_back(*come);
    while (gone != changed_.end() && *gone < each.hash) ++gone;
    if (gone == changed_.end() || *gone != each.hash) merged.push_back(each);
  }
  merged.insert(merged.end(), come, now.end());
  rows_.swap(merged);
  changed_.clear();
}

}  // namespace monolith
