/* A disk that forgets what was not flushed. Preloaded into a program, it keeps below POWER_DISK what the files and folders
 * below POWER_ROOT held when the program last flushed each of them: a power cut would leave that, and nothing else is
 * promised (POSIX, fsync: a file's bytes and its name, which is its folder's, are two things).
 *
 * A file's bytes are kept as `<inode>-<birth>`, a folder's names as a list of `<kind> <inode>-<birth> <name>` lines. Each is
 * renamed into its place, so that whoever is killed in between leaves the one before. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int key(int at, const char *name, char *out, size_t size, char *kind) {
  struct statx st;
  if (statx(at, name, AT_SYMLINK_NOFOLLOW | (*name ? 0 : AT_EMPTY_PATH), STATX_INO | STATX_BTIME | STATX_MODE, &st))
    return -1;
  *kind = S_ISDIR(st.stx_mode) ? 'd' : S_ISREG(st.stx_mode) ? 'f' : 'o';
  snprintf(out, size, "%llu-%lld.%u", (unsigned long long)st.stx_ino, (long long)st.stx_btime.tv_sec,
           st.stx_btime.tv_nsec);
  return 0;
}

static void keep_bytes(int from, int to) {
  char buffer[1 << 16];
  off_t at = 0;
  ssize_t got;
  while ((got = pread(from, buffer, sizeof buffer, at)) > 0) {
    if (write(to, buffer, got) != got) abort();
    at += got;
  }
}

static void keep_names(const char *path, int to) {
  DIR *folder = opendir(path);
  struct dirent *entry;
  while (folder && (entry = readdir(folder))) {
    char id[96], kind;
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    if (!key(dirfd(folder), entry->d_name, id, sizeof id, &kind) && kind != 'o')
      dprintf(to, "%c %s %s\n", kind, id, entry->d_name);
  }
  if (folder) closedir(folder);
}

static void keep(int fd) {
  const char *root = getenv("POWER_ROOT"), *disk = getenv("POWER_DISK");
  char link[64], path[PATH_MAX], id[96], kind, draft[PATH_MAX], kept[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (!root || !disk || length < 0) return;
  path[length] = 0;
  if (strncmp(path, root, strlen(root)) || key(fd, "", id, sizeof id, &kind) || kind == 'o') return;
  snprintf(draft, sizeof draft, "%s/.%s.%d", disk, id, gettid());
  snprintf(kept, sizeof kept, "%s/%s", disk, id);
  int from = open(link, O_RDONLY | O_CLOEXEC), to = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (from < 0 || to < 0) abort();
  kind == 'd' ? keep_names(path, to) : keep_bytes(from, to);
  close(from);
  close(to);
  if (rename(draft, kept)) abort();
}

static int flush(const char *name, int fd) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  int done = real(fd);
  if (!done) keep(fd);
  return done;
}

int fsync(int fd) { return flush("fsync", fd); }
int fdatasync(int fd) { return flush("fdatasync", fd); }
