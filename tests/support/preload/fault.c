/* A disk with a fault. Preloaded into a program, it has calls that concern files below FAULT_ROOT fail as the file FAULT_NOW
 * says: `<kind> <errno>`, or `<kind> hang`, where a call waits until the file says something else. An empty file: no fault.
 * Where one failed there is a file FAULT_NOW.bit.
 *
 * Kinds: create (a file or folder), write, size, flush, name (rename and delete), read, media (what is read at once is more than
 * a header, or is copied by the system). */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_below(const char *path) {
  const char *root = getenv("FAULT_ROOT");
  size_t length = root ? strlen(root) : 0;
  return length && path && !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

static int concerns(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_below(path);
}

/* What FAULT_NOW says of `kind`: 0 for nothing, -1 to hang, else the error. */
static int says(const char *kind) {
  char text[64] = "", of[16] = "", what[16] = "";
  const char *now = getenv("FAULT_NOW");
  int fd = now ? REAL(open64)(now, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return 0;
  ssize_t got = REAL(read)(fd, text, sizeof text - 1);
  close(fd);
  if (got <= 0 || sscanf(text, "%15s %15s", of, what) != 2 || strcmp(of, kind)) return 0;
  return strcmp(what, "hang") ? atoi(what) : -1;
}

/* Leaves a file that says that a call failed. */
static void bites(void) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s.bit", getenv("FAULT_NOW"));
  int fd = REAL(open64)(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd >= 0) close(fd);
}

static int fails(const char *kind) {
  int fault;
  while ((fault = says(kind)) < 0) {
    bites();
    usleep(20000);
  }
  if (fault) bites();
  if (fault) errno = fault;
  return fault;
}

#define ON_FILE(kind, fd) do { if (concerns(fd) && fails(kind)) return -1; } while (0)
#define ON_PATH(kind, path) do { if (is_below(path) && fails(kind)) return -1; } while (0)

ssize_t read(int fd, void *to, size_t size) {
  ON_FILE("read", fd);
  if (size > 4096) ON_FILE("media", fd);
  return REAL(read)(fd, to, size);
}
ssize_t pread64(int fd, void *to, size_t size, off64_t at) {
  ON_FILE("read", fd);
  if (size > 4096) ON_FILE("media", fd);
  return REAL(pread64)(fd, to, size, at);
}
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t size, unsigned flags) {
  ON_FILE("read", from);
  ON_FILE("media", from);
  return REAL(copy_file_range)(from, at, to, there, size, flags);
}
ssize_t write(int fd, const void *from, size_t size) { ON_FILE("write", fd); return REAL(write)(fd, from, size); }
ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) { ON_FILE("write", fd); return REAL(pwrite64)(fd, from, size, at); }
ssize_t writev(int fd, const struct iovec *from, int count) { ON_FILE("write", fd); return REAL(writev)(fd, from, count); }
int ftruncate64(int fd, off64_t size) { ON_FILE("size", fd); return REAL(ftruncate64)(fd, size); }
int fallocate64(int fd, int mode, off64_t at, off64_t size) { ON_FILE("size", fd); return REAL(fallocate64)(fd, mode, at, size); }
int fallocate(int fd, int mode, off_t at, off_t size) { ON_FILE("size", fd); return REAL(fallocate)(fd, mode, at, size); }
/* It answers the error, and leaves errno as it is. */
int posix_fallocate(int fd, off_t at, off_t size) { int fault = concerns(fd) ? fails("size") : 0; return fault ? fault : REAL(posix_fallocate)(fd, at, size); }
int fsync(int fd) { ON_FILE("flush", fd); return REAL(fsync)(fd); }
int fdatasync(int fd) { ON_FILE("flush", fd); return REAL(fdatasync)(fd); }
int rename(const char *from, const char *to) { ON_PATH("name", from); return REAL(rename)(from, to); }
int unlink(const char *path) { ON_PATH("name", path); return REAL(unlink)(path); }
int mkdir(const char *path, mode_t mode) { ON_PATH("create", path); return REAL(mkdir)(path, mode); }
DIR *opendir(const char *path) { if (is_below(path) && fails("read")) return NULL; return REAL(opendir)(path); }
int open64(const char *path, int flags, ...) {
  va_list all;
  va_start(all, flags);
  mode_t mode = flags & O_CREAT ? va_arg(all, mode_t) : 0;
  va_end(all);
  if (flags & O_CREAT) ON_PATH("create", path);
  else ON_PATH("read", path);
  return REAL(open64)(path, flags, mode);
}
