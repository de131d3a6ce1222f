// What a power cut would leave of a folder: a shim for LD_PRELOAD that writes down, in order, everything that its process
// does to files below POWER_ROOT, and every promise that it asks the disk for (fsync, fdatasync, O_DSYNC). A call is
// made first and written down after; a sync is only written down, since the disk that counts is the one that
// `power_cut.py` rebuilds from the trace. Processes share a trace: a record is one append to the file POWER_TRACE. Call
// and record happen under a shared lock (flock) of that file: whoever holds the exclusive one may kill a process and
// will not tear the two apart.
//
// A record, integers little-endian: op:u8 inode:u64 number:u64 length1:u32 length2:u32, then two byte strings.
//
//   C inode path          a file was created          W inode offset data   bytes were written
//   M inode path          a folder was made           D inode offset data   and are durable (O_DSYNC, O_SYNC)
//   L path1 path2         path2 is a second name of a file
//   R path1 path2         renamed                     T inode length        the file has this length now
//   U path                a file or folder went       S inode               fsync or fdatasync of file or folder
//   A path                mapped for shared writing   ? path call           a call that has no model here
//
// Not seen: writes through a mapping (A says which files have one), and writes within libc itself (fwrite).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))real(#name))

static char root[PATH_MAX], trace_file[PATH_MAX];
static size_t root_length;
static __thread int trace = -1;  // a thread's own, since a lock belongs to an open file
static __thread pid_t trace_owner;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void begin(void) {
  const char *folder = getenv("POWER_ROOT"), *file = getenv("POWER_TRACE");
  if (!folder || !file || strlen(file) >= sizeof trace_file || !realpath(folder, root)) return;
  strcpy(trace_file, file);
  root_length = strlen(root);
}

static int below_root(const char *path) {
  return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

// Nobody kills this process from here on until `end_work`.
static void begin_work(void) {
  int before = errno;
  if (trace < 0 || trace_owner != getpid()) {
    trace = (int)syscall(SYS_openat, AT_FDCWD, trace_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    trace_owner = getpid();
  }
  if (trace < 0) abort();
  while (flock(trace, LOCK_SH) != 0 && errno == EINTR) continue;
  errno = before;
}

static void end_work(void) {
  int before = errno;
  flock(trace, LOCK_UN);
  errno = before;
}

static void tell(char op, uint64_t inode, uint64_t number, const char *first, const struct iovec *parts, int count) {
  uint32_t length1 = first ? (uint32_t)strlen(first) : 0, length2 = 0;
  struct iovec all[2 + 1024];
  for (int i = 0; i < count; i++) length2 += (uint32_t)parts[i].iov_len;
  unsigned char head[25];
  head[0] = (unsigned char)op;
  memcpy(head + 1, &inode, 8);
  memcpy(head + 9, &number, 8);
  memcpy(head + 17, &length1, 4);
  memcpy(head + 21, &length2, 4);
  all[0] = (struct iovec){head, sizeof head};
  all[1] = (struct iovec){(void *)first, length1};
  memcpy(all + 2, parts, sizeof *parts * (size_t)count);
  int before = errno;
  ssize_t wanted = (ssize_t)(sizeof head + length1 + length2);
  // A record that does not fit in a piece would make the trace a lie: better no process than that.
  if (syscall(SYS_writev, trace, all, 2 + count < 1024 ? 2 + count : 1024) != wanted) abort();
  errno = before;
}

static void tell_text(char op, uint64_t inode, uint64_t number, const char *first, const char *second) {
  struct iovec part = {(void *)second, second ? strlen(second) : 0};
  tell(op, inode, number, first, &part, 1);
}

// The file's path and inode if it is a file or folder below the root that has a name, else 0.
static int known(int fd, char *path, struct stat *found) {
  char link[64];
  if (root_length == 0) return 0;
  int before = errno;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  int good = length > 0 && (path[length] = 0, below_root(path)) && fstat(fd, found) == 0;
  errno = before;
  return good && (S_ISREG(found->st_mode) || S_ISDIR(found->st_mode)) && found->st_nlink > 0;
}

// `path` as seen from `folder`, absolute and without links in its folders; 0 where that is not below the root.
static int resolve(int folder, const char *path, char *out) {
  char from[PATH_MAX] = "", parent[PATH_MAX], whole[2 * PATH_MAX + 2], link[64];
  if (root_length == 0 || !path) return 0;
  int before = errno;
  if (path[0] != '/') {
    if (folder == AT_FDCWD) {
      if (!getcwd(from, sizeof from)) return 0;
    } else {
      snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
      ssize_t length = readlink(link, from, sizeof from - 1);
      if (length <= 0) return 0;
      from[length] = 0;
    }
  }
  snprintf(whole, sizeof whole, "%s/%s", from, path);
  size_t end = strlen(whole);
  while (end > 1 && whole[end - 1] == '/') whole[--end] = 0;
  char *slash = strrchr(whole, '/');
  const char *name = slash + 1;
  *slash = 0;
  int good = realpath(*whole ? whole : "/", parent) != NULL;
  if (good) good = snprintf(out, PATH_MAX, "%s/%s", parent, name) < PATH_MAX && below_root(out);
  errno = before;
  return good;
}

static void unmodelled(const char *call, int fd) {
  char path[PATH_MAX];
  struct stat found;
  if (!known(fd, path, &found)) return;
  begin_work();
  tell_text('?', 0, 0, path, call);
  end_work();
}

// --- files that come, and their lengths ---

static int opened(int folder, const char *name, int flags, mode_t mode) {
  char path[PATH_MAX];
  struct stat found;
  int ours = (flags & (O_CREAT | O_TRUNC)) && (flags & O_TMPFILE) != O_TMPFILE && resolve(folder, name, path);
  if (!ours) return (int)syscall(SYS_openat, folder, name, flags | O_LARGEFILE, mode);
  begin_work();
  int was_there = lstat(path, &found) == 0;
  int fd = (int)syscall(SYS_openat, folder, name, flags | O_LARGEFILE, mode);
  if (fd >= 0 && fstat(fd, &found) == 0) {
    if (!was_there) tell_text('C', found.st_ino, 0, path, NULL);
    else if (flags & O_TRUNC) tell_text('T', found.st_ino, 0, path, NULL);
  }
  end_work();
  return fd;
}

#define MODE                                            \
  mode_t mode = 0;                                      \
  if (flags & (O_CREAT | O_TMPFILE)) {                  \
    va_list rest;                                       \
    va_start(rest, flags);                              \
    mode = va_arg(rest, mode_t);                        \
    va_end(rest);                                       \
  }

int open(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE return opened(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE return opened(folder, path, flags, mode); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

static int resized(int fd, off_t length) {
  char path[PATH_MAX];
  struct stat found;
  if (!known(fd, path, &found)) return (int)syscall(SYS_ftruncate, fd, length);
  begin_work();
  int done = (int)syscall(SYS_ftruncate, fd, length);
  if (done == 0) tell_text('T', found.st_ino, (uint64_t)length, path, NULL);
  end_work();
  return done;
}

int ftruncate(int fd, off_t length) { return resized(fd, length); }
int ftruncate64(int fd, off_t length) { return resized(fd, length); }

static int resized_by_name(const char *name, off_t length) {
  char path[PATH_MAX];
  struct stat found;
  if (!resolve(AT_FDCWD, name, path)) return (int)syscall(SYS_truncate, name, length);
  begin_work();
  int done = (int)syscall(SYS_truncate, name, length);
  if (done == 0 && stat(path, &found) == 0) tell_text('T', found.st_ino, (uint64_t)length, path, NULL);
  end_work();
  return done;
}

int truncate(const char *name, off_t length) { return resized_by_name(name, length); }
int truncate64(const char *name, off_t length) { return resized_by_name(name, length); }

// --- bytes ---

static ssize_t put_anywhere(int fd, const struct iovec *parts, int count, off_t offset) {
  if (offset < 0) return syscall(SYS_writev, fd, parts, count);
  return syscall(SYS_pwritev, fd, parts, count, offset, 0);
}

__attribute__((noinline)) static ssize_t put_in_file(int fd, const struct iovec *parts, int count, off_t offset) {
  char path[PATH_MAX];
  struct stat found;
  struct iovec cut[1022];
  int ours = known(fd, path, &found);
  if (ours && count > 1022) abort();
  if (ours) begin_work();
  ssize_t done = put_anywhere(fd, parts, count, offset);
  if (ours && done > 0) {
    if (offset < 0) offset = lseek(fd, 0, SEEK_CUR) - done;
    size_t left = (size_t)done;
    int used = 0;
    for (; used < count && left > 0; used++) {
      cut[used] = parts[used];
      if (cut[used].iov_len > left) cut[used].iov_len = left;
      left -= cut[used].iov_len;
    }
    tell(fcntl(fd, F_GETFL) & (O_DSYNC | O_SYNC) ? 'D' : 'W', found.st_ino, (uint64_t)offset, path, cut, used);
  }
  if (ours) end_work();
  return done;
}

// Write `parts` at `offset`, or at the file's position if that is negative. A signal handler on a small stack of its own
// may write to a pipe or a socket: that takes next to no stack here.
static ssize_t put(int fd, const struct iovec *parts, int count, off_t offset) {
  int before = errno;
  struct stat found;
  int is_file = fstat(fd, &found) == 0 && S_ISREG(found.st_mode);
  errno = before;
  return (is_file ? put_in_file : put_anywhere)(fd, parts, count, offset);
}

static ssize_t put_one(int fd, const void *data, size_t size, off_t offset) {
  struct iovec part = {(void *)data, size};
  return put(fd, &part, 1, offset);
}

ssize_t write(int fd, const void *data, size_t size) { return put_one(fd, data, size, -1); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return put_one(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return put_one(fd, data, size, offset); }
ssize_t writev(int fd, const struct iovec *parts, int count) { return put(fd, parts, count, -1); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return put(fd, parts, count, offset); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) { return put(fd, parts, count, offset); }

// --- promises ---

static int synced(int fd) {
  char path[PATH_MAX];
  struct stat found;
  if (!known(fd, path, &found)) return (int)syscall(SYS_fsync, fd);
  begin_work();
  tell_text('S', found.st_ino, 0, path, NULL);
  end_work();
  return 0;
}

int fsync(int fd) { return synced(fd); }
int fdatasync(int fd) { return synced(fd); }

// --- names ---

static int named(int folder, const char *name, mode_t mode) {
  char path[PATH_MAX];
  struct stat found;
  if (!resolve(folder, name, path)) return (int)syscall(SYS_mkdirat, folder, name, mode);
  begin_work();
  int done = (int)syscall(SYS_mkdirat, folder, name, mode);
  if (done == 0 && lstat(path, &found) == 0) tell_text('M', found.st_ino, 0, path, NULL);
  end_work();
  return done;
}

int mkdir(const char *name, mode_t mode) { return named(AT_FDCWD, name, mode); }
int mkdirat(int folder, const char *name, mode_t mode) { return named(folder, name, mode); }

static int renamed(int folder1, const char *name1, int folder2, const char *name2, unsigned flags) {
  char path1[PATH_MAX], path2[PATH_MAX];
  int ours1 = resolve(folder1, name1, path1), ours2 = resolve(folder2, name2, path2);
  if (!ours1 && !ours2) return (int)syscall(SYS_renameat2, folder1, name1, folder2, name2, flags);
  begin_work();
  int done = (int)syscall(SYS_renameat2, folder1, name1, folder2, name2, flags);
  if (done == 0 && ours1 && ours2 && !flags) tell_text('R', 0, 0, path1, path2);
  else if (done == 0) tell_text('?', 0, 0, ours1 ? path1 : path2, "rename into or out of the folder");
  end_work();
  return done;
}

int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int f1, const char *from, int f2, const char *to) { return renamed(f1, from, f2, to, 0); }
int renameat2(int f1, const char *from, int f2, const char *to, unsigned flags) { return renamed(f1, from, f2, to, flags); }

static int removed(int folder, const char *name, int flags) {
  char path[PATH_MAX];
  if (!resolve(folder, name, path)) return (int)syscall(SYS_unlinkat, folder, name, flags);
  begin_work();
  int done = (int)syscall(SYS_unlinkat, folder, name, flags);
  if (done == 0) tell_text('U', 0, 0, path, NULL);
  end_work();
  return done;
}

int unlink(const char *name) { return removed(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return removed(AT_FDCWD, name, AT_REMOVEDIR); }
int unlinkat(int folder, const char *name, int flags) { return removed(folder, name, flags); }
int remove(const char *name) {
  int done = unlink(name);
  return done != 0 && (errno == EISDIR || errno == EPERM) ? rmdir(name) : done;
}

// --- what has no model ---

static void *mapped(void *at, size_t size, int use, int flags, int fd, off_t offset) {
  char path[PATH_MAX];
  struct stat found;
  int ours = fd >= 0 && (use & PROT_WRITE) && (flags & MAP_SHARED) && known(fd, path, &found);
  if (ours) begin_work();
  void *done = (void *)syscall(SYS_mmap, at, size, use, flags, fd, offset);
  if (ours && done != MAP_FAILED) tell_text('A', found.st_ino, 0, path, NULL);
  if (ours) end_work();
  return done;
}

void *mmap(void *at, size_t size, int use, int flags, int fd, off_t offset) {
  return mapped(at, size, use, flags, fd, offset);
}
void *mmap64(void *at, size_t size, int use, int flags, int fd, off_t offset) {
  return mapped(at, size, use, flags, fd, offset);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
  unmodelled("fallocate", fd);
  return REAL(fallocate)(fd, mode, offset, length);
}
int posix_fallocate(int fd, off_t offset, off_t length) {
  unmodelled("posix_fallocate", fd);
  return REAL(posix_fallocate)(fd, offset, length);
}
ssize_t sendfile(int out, int in, off_t *offset, size_t count) {
  unmodelled("sendfile", out);
  return REAL(sendfile)(out, in, offset, count);
}
ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t size, unsigned flags) {
  unmodelled("copy_file_range", out);
  return REAL(copy_file_range)(in, from, out, to, size, flags);
}
static void unmodelled_name(const char *call, int folder, const char *name) {
  char path[PATH_MAX];
  if (!resolve(folder, name, path)) return;
  begin_work();
  tell_text('?', 0, 0, path, call);
  end_work();
}

int linkat(int folder1, const char *name1, int folder2, const char *name2, int flags) {
  char path1[PATH_MAX], path2[PATH_MAX];
  int ours1 = resolve(folder1, name1, path1), ours2 = resolve(folder2, name2, path2);
  if (!ours1 && !ours2) return (int)syscall(SYS_linkat, folder1, name1, folder2, name2, flags);
  begin_work();
  int done = (int)syscall(SYS_linkat, folder1, name1, folder2, name2, flags);
  if (done == 0 && ours1 && ours2) tell_text('L', 0, 0, path1, path2);
  else if (done == 0) tell_text('?', 0, 0, ours1 ? path1 : path2, "linked into or out of the folder");
  end_work();
  return done;
}
int link(const char *name1, const char *name2) { return linkat(AT_FDCWD, name1, AT_FDCWD, name2, 0); }
int symlink(const char *target, const char *name) {
  unmodelled_name("symlink", AT_FDCWD, name);
  return REAL(symlink)(target, name);
}
