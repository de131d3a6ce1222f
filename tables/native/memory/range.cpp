#include "memory/range.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <system_error>

#include "memory/pages_ahead.h"

namespace monolith {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kFileStep = std::size_t{16} << 20;        // of disk taken at once
constexpr std::size_t kWorthExpecting = std::size_t{16} << 20;  // bytes in use; two more megabytes are little then
constexpr std::size_t kLeastMemory = std::size_t{1} << 30;

std::size_t rounded_up(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

int unnamed_file(const std::string& folder) {
  std::string path = folder + "/monolith-table-XXXXXX";
  const int file = mkostemp(path.data(), O_CLOEXEC);
  if (file < 0) throw std::system_error(errno, std::generic_category(), folder + ": a table's file cannot be made");
  unlink(path.c_str());
  return file;
}

void* mapped(std::size_t bytes, int file) {
  if (file < 0) return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
}

}  // namespace

std::size_t Range::twice_the_memory() {
  const auto pages = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES));
  const auto memory = pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return std::max(2 * memory, kLeastMemory);
}

std::size_t Range::disk_of(const std::string& folder) {
  struct statvfs disk;
  return statvfs(folder.c_str(), &disk) == 0 ? disk.f_blocks * disk.f_frsize : 0;
}

Range::Range(std::size_t bytes, std::size_t least, const std::string& folder) : folder_(folder) {
  if (!folder.empty()) file_ = unnamed_file(folder);
  for (size_ = rounded_up(bytes, kHugePage); size_ >= std::min(least, bytes); size_ /= 2) {
    void* range = mapped(size_ + kHugePage, file_);
    if (range == MAP_FAILED) continue;
    mapped_ = static_cast<char*>(range);
    if (file_ >= 0) madvise(range, size_, MADV_RANDOM);  // else each page read brings up to megabytes beside it
    start_ =
        file_ < 0 ? reinterpret_cast<char*>(rounded_up(reinterpret_cast<std::uintptr_t>(range), kHugePage)) : mapped_;
    return;
  }
  if (file_ >= 0) close(file_);
  throw std::bad_alloc();
}

Range::~Range() {
  if (expected_ != 0) stop_faulting(this);
  munmap(mapped_, size_ + kHugePage);
  if (file_ >= 0) close(file_);
}

void Range::expect(std::size_t begin, std::size_t end) {
  if (begin < kWorthExpecting) return;
  begin = std::max(expected_, rounded_up(begin, kHugePage));
  end = std::min(rounded_up(end, kHugePage), size_);
  if (file_ >= 0 || begin >= end) return;
  fault_ahead(this, start_ + begin, start_ + end);
  expected_ = end;
}

void Range::extend(std::size_t bytes) {
  if (bytes > size_) throw std::bad_alloc();
  if (file_ < 0) {
#ifdef MADV_HUGEPAGE
    if (bytes > kHugePage && ensured_ <= kHugePage)
      madvise(start_ + kHugePage, size_ - kHugePage, MADV_HUGEPAGE);  // a hint
#endif
    ensured_ = std::min(rounded_up(bytes, kHugePage), size_);
    return;
  }
  const std::size_t wanted = std::min(rounded_up(bytes, kFileStep), size_);
  // Taken now: a full disk is an error here, not a signal at the first write to a page that has no place.
  const int error = posix_fallocate(file_, static_cast<off_t>(ensured_), static_cast<off_t>(wanted - ensured_));
  if (error != 0) throw std::system_error(error, std::generic_category(), folder_ + ": a table's file cannot grow");
  ensured_ = wanted;
}

}  // namespace monolith
