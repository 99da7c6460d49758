/* One process of a benchmark's cgroup: joins the cgroups named, then sleeps, or works a little each 100 ms.
 *
 * usage: cell own|host SCRATCH CGROUP_DIR...
 *
 * `own` gives it a network namespace of its own.
 *
 * SIGUSR1 makes it busy, SIGUSR2 idle again. Busy: each 100 ms about 20 us of CPU and 64 KiB mapped, touched and given back,
 * and each 5 s 4 KiB written to a file in the folder SCRATCH and synced, so that the CPU, memory and block counters move,
 * at about 0.05 % of a core. It ends with its parent.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { TICK_NS = 100000000, WORK_NS = 20000, MAP_BYTES = 65536, WRITE_BYTES = 4096, TICKS_A_WRITE = 50 };

static volatile sig_atomic_t is_busy, is_new;

static void on_signal(int number) { is_busy = is_new = number == SIGUSR1; }

static int join(const char *directory) {
    char path[4096];
    snprintf(path, sizeof path, "%s/cgroup.procs", directory);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int is_joined = fd >= 0 && write(fd, "0\n", 2) == 2;
    if (!is_joined) perror(path);
    if (fd >= 0) close(fd);
    return is_joined;
}

static long long cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void write_block(int file) {
    static char block[WRITE_BYTES];
    if (file >= 0 && pwrite(file, block, sizeof block, 0) == (ssize_t)sizeof block) fdatasync(file);
}

static void work(unsigned long tick, int file) {
    long long until = cpu_ns() + WORK_NS;
    char *map = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map != MAP_FAILED) {
        memset(map, (int)tick, MAP_BYTES);
        munmap(map, MAP_BYTES);
    }
    while (cpu_ns() < until) {}
    if (tick % TICKS_A_WRITE == 0) write_block(file);
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 3; i < argc; i++)
        if (!join(argv[i])) return 3;
    if (!strcmp(argv[1], "own") && unshare(CLONE_NEWNET)) perror("unshare");
    char path[4096];
    snprintf(path, sizeof path, "%s/cell.%d", argv[2], (int)getpid());
    int file = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (file >= 0) unlink(path);
    write_block(file); /* as every real container has read or written something: its block counters have entries */

    /* Both signals stay blocked but while it sleeps, so that none is missed between the test and the sleep. */
    sigset_t blocked, open_set;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigaddset(&blocked, SIGUSR2);
    sigprocmask(SIG_BLOCK, &blocked, &open_set);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    sigdelset(&open_set, SIGUSR1);
    sigdelset(&open_set, SIGUSR2);
    puts("ready");
    fflush(stdout);
    for (unsigned long tick = (unsigned long)getpid();; tick++) {
        /* The first pause differs by process, so that many that are told together do not work together. */
        struct timespec pause = {0, is_new ? (getpid() * 7919L % 100) * 1000000L : TICK_NS};
        is_new = 0;
        if (ppoll(NULL, 0, is_busy ? &pause : NULL, &open_set) == 0) work(tick, file);
    }
}
