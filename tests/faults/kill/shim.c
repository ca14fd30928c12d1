/* LD_PRELOAD: number everything a program does to the files below $FAULT_ROOT, and kill it there.
 *
 * Each open for writing, write, fsync, rename and unlink is an event; a write and a rename are two,
 * so that the process can die with half of the bytes written, or with the new name in place. At
 * event $FAULT_AT it sends itself $FAULT_SIGNAL (SIGKILL unless given). With $FAULT_LOG each event
 * is told there, one line "NUMBER KIND PATH". The product knows nothing of this.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define MOST 4096
#define REAL(type, name, ...) ((type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

static char *watched[MOST]; /* path of each descriptor that is open for writing, or NULL */
static int events;

static int inside(const char *path) {
    const char *root = getenv("FAULT_ROOT");
    return root && *root && path && strncmp(path, root, strlen(root)) == 0;
}

/* Whether the process is to die at this event. */
static int due(const char *kind, const char *path) {
    const char *log = getenv("FAULT_LOG"), *at = getenv("FAULT_AT");
    int number = __sync_add_and_fetch(&events, 1);
    if (log && *log) {
        char line[1200];
        int file = REAL(int, open, const char *, int, ...)(log, O_WRONLY | O_CREAT | O_APPEND, 0666);
        int size = snprintf(line, sizeof line, "%d %s %s\n", number, kind, path);
        if (file >= 0) {
            if (REAL(ssize_t, write, int, const void *, size_t)(file, line, size) < 0) abort();
            REAL(int, close, int)(file);
        }
    }
    return at && *at && atoi(at) == number;
}

static void fault(void) {
    const char *number = getenv("FAULT_SIGNAL");
    kill(getpid(), number && *number ? atoi(number) : SIGKILL);
}

static void event(const char *kind, const char *path) {
    if (inside(path) && due(kind, path)) fault();
}

static int opened(int file, const char *path, int flags) {
    if (file >= 0 && file < MOST && inside(path) && (flags & (O_WRONLY | O_RDWR))) {
        watched[file] = strdup(path);
        if (due("open", path)) fault();
    }
    return file;
}

#define MODE(last) \
    mode_t mode = 0; \
    if (flags & O_CREAT) { \
        va_list more; \
        va_start(more, last); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return opened(REAL(int, open, const char *, int, ...)(path, flags, mode), path, flags);
}

int open64(const char *path, int flags, ...) {
    MODE(flags)
    return opened(REAL(int, open64, const char *, int, ...)(path, flags, mode), path, flags);
}

int openat(int folder, const char *path, int flags, ...) {
    MODE(flags)
    return opened(REAL(int, openat, int, const char *, int, ...)(folder, path, flags, mode), path, flags);
}

int close(int file) {
    if (file >= 0 && file < MOST) watched[file] = NULL;
    return REAL(int, close, int)(file);
}

ssize_t write(int file, const void *bytes, size_t count) {
    ssize_t (*real)(int, const void *, size_t) = REAL(ssize_t, write, int, const void *, size_t);
    if (file < 0 || file >= MOST || !watched[file]) return real(file, bytes, count);
    if (due("write", watched[file])) {
        if (real(file, bytes, count / 2) < 0) abort();
        fault();
        return count / 2; /* the signal was caught: a short write, which callers must expect */
    }
    ssize_t done = real(file, bytes, count);
    if (due("written", watched[file])) fault();
    return done;
}

int fsync(int file) {
    if (file >= 0 && file < MOST && watched[file] && due("fsync", watched[file])) fault();
    return REAL(int, fsync, int)(file);
}

int rename(const char *from, const char *to) {
    event("rename", to);
    int done = REAL(int, rename, const char *, const char *)(from, to);
    event("renamed", to);
    return done;
}

int unlink(const char *path) {
    event("unlink", path);
    return REAL(int, unlink, const char *)(path);
}
