/* Have a call of the C library fail, for a process that knows nothing of it (LD_PRELOAD).
 *
 * Every function below stands before the C library's of that name. It counts a call that concerns a file in a certain
 * folder, by its path or by a descriptor that was opened there, and hands it on; at the n-th it does something else:
 * it fails with an error number, moves fewer bytes than it was asked to, or ends the process as SIGKILL does. What is
 * counted is limited to groups of functions, so that an error is only ever one that such a call may have: no lock is
 * ever "out of space".
 *
 * Nothing is counted before `failing_calls_begin` was called, which reads the environment: a process that forks for
 * each run calls it in the child. A process that is started anew begins by itself where FAILING_CALLS_FOLDER is set.
 *
 *   FAILING_CALLS_FOLDER   the folder, absolute and without links
 *   FAILING_CALLS_REPORT   a file, elsewhere: it gets a line `function group path` for the call that was to fail, and
 *                          another for each that fails after it; with an n of 0 nothing fails, and each call has one
 *   FAILING_CALLS_NTH      n, from 1
 *   FAILING_CALLS_ERROR    an error number; KILL, or SHORT, for what else may happen
 *   FAILING_CALLS_GROUPS   the sum of the groups that count
 *   FAILING_CALLS_LASTING  1: every call from the n-th on
 *
 * A call that fails has done nothing, but for `close`, which gives its descriptor back whatever it says (Linux).
 *
 * The C library's own calls do not come by here: what it does for `fopen` or `realpath` is not counted. Python and
 * SQLite open files by `open` and `open64`.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

/* The groups; failing_calls.py has them too. */
enum {
    LOOK = 1,    /* stat, access, folders' lists */
    OPEN = 2,    /* of what is there */
    CREATE = 4,  /* files and folders */
    READ = 8,
    MAP = 16,
    WRITE = 32,
    SIZE = 64,   /* ftruncate, fallocate */
    NAME = 128,  /* rename, link */
    REMOVE = 256,
    SYNC = 512,
    DATE = 1024, /* and modes */
    LOCK = 2048,
    CLOSE = 4096,
};

enum { KILL = -1, SHORT = -2 };
enum { DESCRIPTORS = 4096 };

static const char *folder; /* NULL: not begun */
static size_t folder_length;
static int is_here; /* whether the current folder, and so a relative path, is in the folder */
static int report = -1;
static long nth, error, groups, is_lasting;
static atomic_long calls;

/* Of each descriptor of something in the folder, its path. */
static char *paths[DESCRIPTORS];

static int is_inside(const char *path) {
    if (path == NULL || folder == NULL)
        return 0;
    if (path[0] != '/')
        return is_here;
    return strncmp(path, folder, folder_length) == 0 && (path[folder_length] == '/' || path[folder_length] == 0);
}

static const char *path_of(int fd) { return fd >= 0 && fd < DESCRIPTORS ? paths[fd] : NULL; }

static void remember(int fd, const char *path) {
    if (folder == NULL || fd < 0 || fd >= DESCRIPTORS)
        return;
    free(paths[fd]);
    paths[fd] = path ? strdup(path) : NULL;
}

/* Return the path that a call with a folder's descriptor concerns; NULL if that is none of the folder's. */
static const char *path_at(int fd, const char *path) {
    if (path != NULL && (path[0] == '/' || fd == AT_FDCWD))
        return is_inside(path) ? path : NULL;
    return path_of(fd) ? (path && path[0] ? path : path_of(fd)) : NULL;
}

static void write_down(const char *function, int group, const char *path) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real)
        real = dlsym(RTLD_NEXT, "write");
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%s %d %s\n", function, group, path);
    if (length > (int)sizeof line - 1)
        length = sizeof line - 1;
    if (real(report, line, length) < 0)
        abort(); /* a test must not go on without */
}

/* Count a call, of a group, that concerns a path, or nothing (NULL). Return 0, if it is to be handed on; else SHORT, or
 * an error number, which errno is then, too. `can_be_short`: whether it is one that may move fewer bytes. */
static int verdict(const char *function, int group, const char *path, int can_be_short) {
    if (folder == NULL || path == NULL || !(groups & group) || (error == SHORT && !can_be_short))
        return 0;
    long number = atomic_fetch_add(&calls, 1) + 1;
    int before = errno;
    if (nth == 0) {
        write_down(function, group, path);
        errno = before;
        return 0;
    }
    if (number < nth || (number > nth && !is_lasting))
        return 0;
    write_down(function, group, path);
    errno = before;
    if (error == KILL) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
    if (error != SHORT)
        errno = error;
    return error;
}

static long number_of(const char *name) {
    const char *text = getenv(name);
    return text ? strtol(text, NULL, 10) : 0;
}

/* Begin to count, as the environment says. */
__attribute__((visibility("default"))) void failing_calls_begin(void) {
    const char *given = getenv("FAILING_CALLS_FOLDER"), *place = getenv("FAILING_CALLS_REPORT");
    const char *what = getenv("FAILING_CALLS_ERROR");
    char here[PATH_MAX];
    if (given == NULL)
        return;
    report = place ? open(place, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666) : -1;
    if (report < 0)
        abort();
    nth = number_of("FAILING_CALLS_NTH");
    groups = number_of("FAILING_CALLS_GROUPS");
    is_lasting = number_of("FAILING_CALLS_LASTING");
    error = number_of("FAILING_CALLS_ERROR");
    if (what && strcmp(what, "KILL") == 0)
        error = KILL;
    if (what && strcmp(what, "SHORT") == 0)
        error = SHORT;
    folder_length = strlen(given);
    folder = strdup(given);
    is_here = getcwd(here, sizeof here) != NULL && is_inside(here);
}

__attribute__((constructor)) static void begin_by_itself(void) { failing_calls_begin(); }

/* A function that only hands on or fails. `concerned`: the path that its arguments are about, or NULL. */
#define PLAIN(type, failure, name, group, concerned, parameters, arguments)                                            \
    type name parameters {                                                                                             \
        static type(*real) parameters;                                                                                 \
        if (!real)                                                                                                     \
            real = (type(*) parameters)dlsym(RTLD_NEXT, #name);                                                        \
        if (verdict(#name, group, concerned, 0))                                                                       \
            return failure;                                                                                            \
        return real arguments;                                                                                         \
    }

#define AT(path) (is_inside(path) ? (path) : NULL)

/* Looking */
PLAIN(int, -1, stat, LOOK, AT(path), (const char *path, struct stat *found), (path, found))
PLAIN(int, -1, stat64, LOOK, AT(path), (const char *path, struct stat64 *found), (path, found))
PLAIN(int, -1, lstat, LOOK, AT(path), (const char *path, struct stat *found), (path, found))
PLAIN(int, -1, lstat64, LOOK, AT(path), (const char *path, struct stat64 *found), (path, found))
PLAIN(int, -1, fstat, LOOK, path_of(fd), (int fd, struct stat *found), (fd, found))
PLAIN(int, -1, fstat64, LOOK, path_of(fd), (int fd, struct stat64 *found), (fd, found))
PLAIN(int, -1, fstatat, LOOK, path_at(fd, path), (int fd, const char *path, struct stat *found, int flags),
      (fd, path, found, flags))
PLAIN(int, -1, fstatat64, LOOK, path_at(fd, path), (int fd, const char *path, struct stat64 *found, int flags),
      (fd, path, found, flags))
PLAIN(int, -1, statx, LOOK, path_at(fd, path),
      (int fd, const char *path, int flags, unsigned mask, struct statx *found), (fd, path, flags, mask, found))
PLAIN(int, -1, access, LOOK, AT(path), (const char *path, int mode), (path, mode))
PLAIN(int, -1, faccessat, LOOK, path_at(fd, path), (int fd, const char *path, int mode, int flags),
      (fd, path, mode, flags))
PLAIN(ssize_t, -1, readlink, LOOK, AT(path), (const char *path, char *into, size_t size), (path, into, size))
PLAIN(int, -1, statvfs, LOOK, AT(path), (const char *path, struct statvfs *found), (path, found))
PLAIN(int, -1, statvfs64, LOOK, AT(path), (const char *path, struct statvfs64 *found), (path, found))

DIR *opendir(const char *path) {
    static DIR *(*real)(const char *);
    if (!real)
        real = (DIR * (*)(const char *)) dlsym(RTLD_NEXT, "opendir");
    if (verdict("opendir", LOOK, AT(path), 0))
        return NULL;
    DIR *found = real(path);
    if (found && AT(path))
        remember(dirfd(found), path);
    return found;
}

PLAIN(DIR *, NULL, fdopendir, LOOK, path_of(fd), (int fd), (fd))
PLAIN(struct dirent *, NULL, readdir, LOOK, path_of(dirfd(list)), (DIR *list), (list))
PLAIN(struct dirent64 *, NULL, readdir64, LOOK, path_of(dirfd(list)), (DIR *list), (list))

int closedir(DIR *list) {
    static int (*real)(DIR *);
    if (!real)
        real = (int (*)(DIR *))dlsym(RTLD_NEXT, "closedir");
    remember(dirfd(list), NULL);
    return real(list);
}

/* Opening and closing */

#define OPENING(name, concerned, parameters, arguments)                                                                \
    int name parameters {                                                                                              \
        static int(*real) parameters;                                                                                  \
        if (!real)                                                                                                     \
            real = (int(*) parameters)dlsym(RTLD_NEXT, #name);                                                         \
        mode_t mode = 0;                                                                                               \
        if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) {                                                   \
            va_list rest;                                                                                              \
            va_start(rest, flags);                                                                                     \
            mode = va_arg(rest, mode_t);                                                                               \
            va_end(rest);                                                                                              \
        }                                                                                                              \
        if (verdict(#name, flags & O_CREAT ? CREATE : OPEN, concerned, 0))                                             \
            return -1;                                                                                                 \
        int fd = real arguments;                                                                                       \
        if (fd >= 0 && concerned)                                                                                      \
            remember(fd, concerned);                                                                                   \
        return fd;                                                                                                     \
    }

OPENING(open, AT(path), (const char *path, int flags, ...), (path, flags, mode))
OPENING(open64, AT(path), (const char *path, int flags, ...), (path, flags, mode))
OPENING(openat, path_at(folder_fd, path), (int folder_fd, const char *path, int flags, ...),
        (folder_fd, path, flags, mode))
OPENING(openat64, path_at(folder_fd, path), (int folder_fd, const char *path, int flags, ...),
        (folder_fd, path, flags, mode))

int close(int fd) {
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "close");
    int failed = verdict("close", CLOSE, path_of(fd), 0);
    remember(fd, NULL);
    int result = real(fd);
    if (failed) {
        errno = failed;
        return -1;
    }
    return result;
}

/* Locks, and further descriptors */

/* Whether `fcntl` is to take a lock; what gives one back does not fail. */
static int takes_lock(int command, const void *argument) {
    if (command == F_SETLK || command == F_SETLKW)
        return ((const struct flock *)argument)->l_type != F_UNLCK;
    return command == F_SETLEASE && argument != (void *)F_UNLCK;
}

#define CONTROL(name)                                                                                                  \
    int name(int fd, int command, ...) {                                                                               \
        static int (*real)(int, int, ...);                                                                             \
        if (!real)                                                                                                     \
            real = (int (*)(int, int, ...))dlsym(RTLD_NEXT, #name);                                                    \
        va_list rest;                                                                                                  \
        va_start(rest, command);                                                                                       \
        void *argument = va_arg(rest, void *);                                                                         \
        va_end(rest);                                                                                                  \
        if (takes_lock(command, argument) && verdict(#name, LOCK, path_of(fd), 0))                                     \
            return -1;                                                                                                 \
        int result = real(fd, command, argument);                                                                      \
        if (result >= 0 && (command == F_DUPFD || command == F_DUPFD_CLOEXEC))                                         \
            remember(result, path_of(fd));                                                                             \
        return result;                                                                                                 \
    }

CONTROL(fcntl)
CONTROL(fcntl64)
PLAIN(int, -1, flock, LOCK, operation & LOCK_UN ? NULL : path_of(fd), (int fd, int operation), (fd, operation))

/* Bytes */

#define MOVING(name, group, concerned, parameters, arguments, shorter)                                                 \
    ssize_t name parameters {                                                                                          \
        static ssize_t(*real) parameters;                                                                              \
        if (!real)                                                                                                     \
            real = (ssize_t(*) parameters)dlsym(RTLD_NEXT, #name);                                                     \
        int found = verdict(#name, group, concerned, count > 1);                                                       \
        if (found == SHORT)                                                                                            \
            return real shorter;                                                                                       \
        return found ? -1 : real arguments;                                                                            \
    }

MOVING(read, READ, path_of(fd), (int fd, void *into, size_t count), (fd, into, count), (fd, into, count / 2))
MOVING(pread, READ, path_of(fd), (int fd, void *into, size_t count, off_t at), (fd, into, count, at),
       (fd, into, count / 2, at))
MOVING(pread64, READ, path_of(fd), (int fd, void *into, size_t count, off64_t at), (fd, into, count, at),
       (fd, into, count / 2, at))
MOVING(write, WRITE, path_of(fd), (int fd, const void *from, size_t count), (fd, from, count), (fd, from, count / 2))
MOVING(pwrite, WRITE, path_of(fd), (int fd, const void *from, size_t count, off_t at), (fd, from, count, at),
       (fd, from, count / 2, at))
MOVING(pwrite64, WRITE, path_of(fd), (int fd, const void *from, size_t count, off64_t at), (fd, from, count, at),
       (fd, from, count / 2, at))
MOVING(copy_file_range, WRITE, path_of(to) ? path_of(to) : path_of(from),
       (int from, off64_t *from_at, int to, off64_t *to_at, size_t count, unsigned flags),
       (from, from_at, to, to_at, count, flags), (from, from_at, to, to_at, count / 2, flags))
MOVING(sendfile, WRITE, path_of(to) ? path_of(to) : path_of(from), (int to, int from, off_t *at, size_t count),
       (to, from, at, count), (to, from, at, count / 2))
MOVING(sendfile64, WRITE, path_of(to) ? path_of(to) : path_of(from), (int to, int from, off64_t *at, size_t count),
       (to, from, at, count), (to, from, at, count / 2))

/* Of several pieces only half of the first one is moved. */
#define VECTOR(name, parameters, arguments, shorter)                                                                   \
    ssize_t name parameters {                                                                                          \
        static ssize_t(*real) parameters;                                                                              \
        if (!real)                                                                                                     \
            real = (ssize_t(*) parameters)dlsym(RTLD_NEXT, #name);                                                     \
        int found = verdict(#name, READ, path_of(fd), count > 0 && pieces[0].iov_len > 1);                             \
        if (found == SHORT) {                                                                                          \
            struct iovec half = {pieces[0].iov_base, pieces[0].iov_len / 2};                                           \
            return real shorter;                                                                                       \
        }                                                                                                              \
        return found ? -1 : real arguments;                                                                            \
    }

VECTOR(preadv, (int fd, const struct iovec *pieces, int count, off_t at), (fd, pieces, count, at), (fd, &half, 1, at))
VECTOR(preadv64, (int fd, const struct iovec *pieces, int count, off64_t at), (fd, pieces, count, at),
       (fd, &half, 1, at))
VECTOR(preadv2, (int fd, const struct iovec *pieces, int count, off_t at, int flags), (fd, pieces, count, at, flags),
       (fd, &half, 1, at, flags))
VECTOR(preadv64v2, (int fd, const struct iovec *pieces, int count, off64_t at, int flags),
       (fd, pieces, count, at, flags), (fd, &half, 1, at, flags))

/* Clones share bytes by a request of their own. */
int ioctl(int fd, unsigned long request, ...) {
    static int (*real)(int, unsigned long, ...);
    if (!real)
        real = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if ((request == FICLONE || request == FICLONERANGE) && verdict("ioctl", WRITE, path_of(fd), 0))
        return -1;
    return real(fd, request, argument);
}

PLAIN(void *, MAP_FAILED, mmap, MAP, path_of(fd), (void *at, size_t size, int access, int flags, int fd, off_t offset),
      (at, size, access, flags, fd, offset))
PLAIN(void *, MAP_FAILED, mmap64, MAP, path_of(fd),
      (void *at, size_t size, int access, int flags, int fd, off64_t offset), (at, size, access, flags, fd, offset))

/* Sizes. `posix_fallocate` returns its error. */
PLAIN(int, -1, ftruncate, SIZE, path_of(fd), (int fd, off_t size), (fd, size))
PLAIN(int, -1, ftruncate64, SIZE, path_of(fd), (int fd, off64_t size), (fd, size))
PLAIN(int, -1, truncate, SIZE, AT(path), (const char *path, off_t size), (path, size))
PLAIN(int, -1, truncate64, SIZE, AT(path), (const char *path, off64_t size), (path, size))
PLAIN(int, -1, fallocate, SIZE, path_of(fd), (int fd, int mode, off_t at, off_t size), (fd, mode, at, size))
PLAIN(int, -1, fallocate64, SIZE, path_of(fd), (int fd, int mode, off64_t at, off64_t size), (fd, mode, at, size))
PLAIN(int, errno, posix_fallocate, SIZE, path_of(fd), (int fd, off_t at, off_t size), (fd, at, size))
PLAIN(int, errno, posix_fallocate64, SIZE, path_of(fd), (int fd, off64_t at, off64_t size), (fd, at, size))

/* Names */
PLAIN(int, -1, mkdir, CREATE, AT(path), (const char *path, mode_t mode), (path, mode))
PLAIN(int, -1, mkdirat, CREATE, path_at(fd, path), (int fd, const char *path, mode_t mode), (fd, path, mode))
PLAIN(int, -1, symlink, CREATE, AT(path), (const char *text, const char *path), (text, path))
PLAIN(int, -1, rename, NAME, AT(path) ? AT(path) : AT(to), (const char *path, const char *to), (path, to))
PLAIN(int, -1, renameat, NAME, path_at(fd, path), (int fd, const char *path, int to_fd, const char *to),
      (fd, path, to_fd, to))
PLAIN(int, -1, renameat2, NAME, path_at(fd, path),
      (int fd, const char *path, int to_fd, const char *to, unsigned flags), (fd, path, to_fd, to, flags))
PLAIN(int, -1, link, NAME, AT(path) ? AT(path) : AT(to), (const char *path, const char *to), (path, to))
PLAIN(int, -1, linkat, NAME, path_at(fd, path), (int fd, const char *path, int to_fd, const char *to, int flags),
      (fd, path, to_fd, to, flags))
PLAIN(int, -1, unlink, REMOVE, AT(path), (const char *path), (path))
PLAIN(int, -1, unlinkat, REMOVE, path_at(fd, path), (int fd, const char *path, int flags), (fd, path, flags))
PLAIN(int, -1, rmdir, REMOVE, AT(path), (const char *path), (path))

/* The disk, dates and modes */
PLAIN(int, -1, fsync, SYNC, path_of(fd), (int fd), (fd))
PLAIN(int, -1, fdatasync, SYNC, path_of(fd), (int fd), (fd))
PLAIN(int, -1, sync_file_range, SYNC, path_of(fd), (int fd, off64_t at, off64_t size, unsigned flags),
      (fd, at, size, flags))
PLAIN(int, -1, utimensat, DATE, path_at(fd, path),
      (int fd, const char *path, const struct timespec times[2], int flags), (fd, path, times, flags))
PLAIN(int, -1, futimens, DATE, path_of(fd), (int fd, const struct timespec times[2]), (fd, times))
PLAIN(int, -1, chmod, DATE, AT(path), (const char *path, mode_t mode), (path, mode))
PLAIN(int, -1, fchmod, DATE, path_of(fd), (int fd, mode_t mode), (fd, mode))
