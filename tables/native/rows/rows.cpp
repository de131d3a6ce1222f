#include "rows/rows.h"

#include <algorithm>

namespace monolith {

namespace {

std::size_t value_bytes_of(Storage storage, std::size_t dim) {  // in whole words of 4 bytes
  return storage == Storage::float32 ? dim * sizeof(float) : (dim + 1) / 2 * sizeof(float);
}

template <class Half>
void decode_halves(const char* from, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; ++i) {
    std::uint16_t half;
    std::memcpy(&half, from + i * sizeof half, sizeof half);
    out[i] = Half::decode(half);
  }
}

// A draw serves two columns: its lower half the even one.
template <class Half>
void encode_halves(const float* values, std::size_t n, std::uint64_t chance, char* to) {
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint64_t word = draw(chance, i / 2 + 1);
    const std::uint16_t half = Half::encode(values[i], static_cast<std::uint32_t>(i % 2 == 0 ? word : word >> 32));
    std::memcpy(to + i * sizeof half, &half, sizeof half);
  }
}

constexpr std::size_t kLeastReserve = std::size_t{1} << 30;

// A limit on address space (ulimit -v) may refuse the whole; a smaller range still makes a working table.
std::size_t reserved(const RowOptions& options) {
  if (options.reserve_bytes != 0) return options.reserve_bytes;
  return std::max(Range::twice_the_memory(), options.folder.empty() ? 0 : Range::disk_of(options.folder));
}
std::size_t least(const RowOptions& options) {
  return options.reserve_bytes == 0 ? kLeastReserve : options.reserve_bytes;
}

}  // namespace

RowView::RowView(const RowOptions& options)
    : storage_(options.storage),
      dim_(options.dim),
      state_floats_(options.state_floats),
      value_bytes_(value_bytes_of(options.storage, options.dim)),
      stamps_(value_bytes_ + options.state_floats * sizeof(float)),
      time_((stamps_ + 7) / 8 * 8),
      admitted_(options.admitted ? time_ + sizeof(std::int64_t) : 0),
      words_(time_ + (options.admitted ? 2 : 1) * sizeof(std::int64_t)),
      uses_(options.uses ? 2 : 0),
      policy_(options.policies ? (options.uses ? 3 : 2) : 0),
      end_words_(words_ + (2 + options.uses + options.policies) * sizeof(std::uint32_t)),
      lower_half_(time_ == stamps_ ? end_words_ : stamps_),  // where it fills a gap, if there is one
      stride_((std::max(lower_half_ + sizeof(std::uint32_t), end_words_) + 7) / 8 * 8),
      in_file_(!options.folder.empty()) {}

// Index and rows grow together, and the smallest row is 32 bytes, to ten of the index.
Rows::Rows(const RowOptions& options)
    : RowView(options),
      shared_(options.shared),
      pool_(stride(), reserved(options), least(options), options.folder),
      index_(reserved(options) / 2, least(options) / 2, options.folder),
      bucket_sizes_(kBuckets) {
  begin_at(pool_.at(0));
  for (std::uint32_t number = 0; number < shared_; ++number) pool_.acquire();  // the first ones
}

void RowView::decode(const char* row, float* out) const {
  if (storage_ == Storage::bfloat16)
    decode_halves<BFloat16>(row, dim_, out);
  else
    decode_halves<Float16>(row, dim_, out);
}

void RowView::write(Row row, const float* values, std::uint64_t chance) const {
  if (storage_ == Storage::bfloat16)
    encode_halves<BFloat16>(values, dim_, chance, at(row));
  else if (storage_ == Storage::float16)
    encode_halves<Float16>(values, dim_, chance, at(row));
  else if (reinterpret_cast<const char*>(values) != at(row))
    std::memcpy(at(row), values, value_bytes_);
}

Row Rows::add(std::uint64_t hash) {
  const std::uint64_t key = order_.index_key(hash);
  ++changes_;
  index_.make_room();  // what may throw comes before the first change
  const Row row = pool_.acquire();
  index_.insert(key, row);
  set_lower_half(row, static_cast<std::uint32_t>(key));
  ++bucket_sizes_[bucket_of(hash)];
  listed_.came(hash, row);
  sampled_.came(hash, row);
  return row;
}

void Rows::remove(std::uint64_t hash, Row row) {
  ++changes_;
  index_.erase(order_.index_key(hash), row);
  pool_.release(row);
  --bucket_sizes_[bucket_of(hash)];
  listed_.went(hash);
  sampled_.went(hash);
}

// So that the stretch has the rows from the hash on as they are now.
void Rows::bring_up(Stretch& stretch, std::uint64_t hash) const {
  if (stretch.covers(bucket_of(hash))) stretch.bring_up([this](std::uint64_t came) { return find(came); });
  if (!stretch.covers(bucket_of(hash))) list(stretch, bucket_of(hash));  // it may have grown too long
}

void Rows::list(Stretch& stretch, std::size_t first) const {
  const bool whole = size() <= Stretch::kWhole;
  if (whole) first = 0;
  std::size_t end = first, count = 0;
  while (end < kBuckets && (whole || count < Stretch::kRows)) count += bucket_sizes_[end++];
  // Kept from list to list: the system clears the pages of memory that is asked for anew.
  static thread_local std::vector<IndexEntry> entries;
  static thread_local std::vector<HashAndRow> rows;
  if (entries.size() < count + 1) entries.resize(count + 1);
  copy_entries(first, end, entries.data());
  rows.clear();
  rows.reserve(count);
  const auto take = [&](std::uint64_t hash, Row row) { rows.push_back({hash, row}); };
  FetchedAhead ahead(*this, take);
  for (std::size_t i = 0; i < count; ++i) ahead(~entries[i].code, entries[i].row);
  ahead.finish();
  stretch.take(first, end, rows);
  if (count > 4 * Stretch::kRows) {  // a bucket that somebody filled
    entries = {};
    rows = {};
  }
}

// Copies the entries of the buckets [first, end) to `next`, where there is room for one more.
void Rows::copy_entries(std::size_t first, std::size_t end, IndexEntry* next) const {
  constexpr std::uint64_t kSlabs = SecretOrder::kSlabs, kSlabsAhead = 16;
  if (end - first == kBuckets) return index_.each([&](std::uint32_t upper, Row row) { *next++ = {~upper, row}; });
  for (std::uint64_t slab = 0; slab < kSlabs; ++slab) {
    fetch(homes().at(~SecretOrder::first_upper((slab + kSlabsAhead) % kSlabs, first)));
    next = index_.copy_between(SecretOrder::first_upper(slab, first), SecretOrder::last_upper(slab, end), next);
  }
}

}  // namespace monolith
