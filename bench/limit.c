/* The lower bound of reading kernel files: kept descriptors, pread, numbers parsed, and nothing else.
 *
 * usage: limit LIST
 *
 * LIST has a line `CONTAINER KIND HOW PATH` for each file. KIND says how its numbers are found:
 *   n  numbers with blanks between them          k  `key value` lines
 *   l  the last word of each line (blkio)        e  words `key=value` (io.stat, pressure)
 *   d  net/dev
 * HOW is `k` for a descriptor that is kept, `o` for open, read and close at each round.
 *
 * It prints `ready`, then takes lines `ROUNDS PACE_MS` from standard input, makes that many rounds over all files at that
 * pace after one that does not count, and answers each with `CPU_NS NUMBERS BYTES`: totals of the rounds, CPU time of the
 * process in user and kernel mode, the waiting between rounds left out.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

struct file {
    char kind, how;
    int fd;
    char *path;
};

static struct file *files;
static size_t file_count;
static uint64_t values[4096];
static char buffer[65536];

static const char *number(const char *p, const char *end, uint64_t *value) {
    uint64_t n = 0;
    while (p < end && (unsigned char)(*p - '0') < 10) n = n * 10 + (unsigned char)(*p++ - '0');
    *value = n;
    return p;
}

/* Numbers that follow each `mark`. */
static size_t after(char mark, const char *p, const char *end) {
    size_t n = 0;
    while (n < 4096 && p < end && (p = memchr(p, mark, (size_t)(end - p)))) p = number(p + 1, end, &values[n++]);
    return n;
}

static size_t last_words(const char *p, const char *end) {
    size_t n = 0;
    while (n < 4096 && p < end) {
        const char *line_end = memchr(p, '\n', (size_t)(end - p));
        if (!line_end) line_end = end;
        const char *word = memrchr(p, ' ', (size_t)(line_end - p));
        if (word) number(word + 1, line_end, &values[n++]);
        p = line_end + 1;
    }
    return n;
}

static size_t words(const char *p, const char *end) {
    size_t n = 0;
    while (n < 4096 && p < end) {
        if ((unsigned char)(*p - '0') < 10)
            p = number(p, end, &values[n++]);
        else
            p++;
    }
    return n;
}

static size_t interfaces(const char *p, const char *end) {
    size_t n = 0;
    for (int header = 0; header < 2 && p < end; header++) {
        const char *line_end = memchr(p, '\n', (size_t)(end - p));
        p = line_end ? line_end + 1 : end;
    }
    while (n + 16 <= 4096 && p < end && (p = memchr(p, ':', (size_t)(end - p)))) {
        p++;
        for (int field = 0; field < 16; field++) {
            while (p < end && *p == ' ') p++;
            p = number(p, end, &values[n++]);
        }
    }
    return n;
}

static size_t parse(char kind, const char *p, const char *end) {
    switch (kind) {
    case 'n': return words(p, end);
    case 'k': return after(' ', p, end);
    case 'e': return after('=', p, end);
    case 'l': return last_words(p, end);
    default: return interfaces(p, end);
    }
}

static int64_t now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void round_of_all(uint64_t *numbers, uint64_t *bytes) {
    for (size_t i = 0; i < file_count; i++) {
        struct file *f = &files[i];
        int fd = f->how == 'k' ? f->fd : open(f->path, O_RDONLY | O_CLOEXEC);
        ssize_t size = fd < 0 ? -1 : pread(fd, buffer, sizeof buffer, 0);
        if (size < 0) fail(f->path);
        if (f->how != 'k') close(fd);
        *numbers += parse(f->kind, buffer, buffer + size);
        *bytes += (uint64_t)size;
    }
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);

    FILE *list = fopen(argv[1], "r");
    if (!list) fail(argv[1]);
    char path[4096], kind, how;
    unsigned container;
    size_t room = 0;
    while (fscanf(list, "%u %c %c %4095s", &container, &kind, &how, path) == 4) {
        if (file_count == room) files = realloc(files, (room = room ? 2 * room : 1024) * sizeof *files);
        if (!files) fail("realloc");
        int fd = how == 'k' ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (how == 'k' && fd < 0) fail(path);
        files[file_count++] = (struct file){kind, how, fd, strdup(path)};
    }
    fclose(list);
    puts("ready");
    fflush(stdout);

    unsigned rounds, pace_ms;
    while (scanf("%u %u", &rounds, &pace_ms) == 2) {
        uint64_t numbers = 0, bytes = 0;
        int64_t used = 0, due = now(CLOCK_MONOTONIC);
        for (unsigned r = 0; r <= rounds; r++) {
            uint64_t n = 0, b = 0;
            int64_t start = now(CLOCK_PROCESS_CPUTIME_ID);
            round_of_all(&n, &b);
            if (r) {
                used += now(CLOCK_PROCESS_CPUTIME_ID) - start;
                numbers += n;
                bytes += b;
            }
            due += pace_ms * INT64_C(1000000);
            struct timespec at = {due / 1000000000, due % 1000000000};
            if (pace_ms && r < rounds) clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        }
        printf("%lld %llu %llu\n", (long long)used, (unsigned long long)numbers, (unsigned long long)bytes);
        fflush(stdout);
    }
    return 0;
}
