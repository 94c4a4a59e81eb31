/* Several callers at once: every unit runs once, with memory of its thread's own; so it is in a forked child. Compiled by test_units.py. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "units.h"

enum { CALLERS = 4, CALLS = 300, MOST = 50, SCRATCH = 100 };

typedef struct {
    int counts[MOST];
} task;

static void work(const void *given, int64_t index, char *scratch) {
    task *one = (task *)given;
    memset(scratch, (int)index, SCRATCH);
    for (volatile int i = 0; i < 2000; i++) continue;
    for (int i = 0; i < SCRATCH; i++)
        if (scratch[i] != (char)index) abort(); /* another thread's memory */
    one->counts[index]++;
}

static void *calls(void *seed) {
    unsigned state = (unsigned)(size_t)seed;
    for (int call = 0; call < CALLS; call++) {
        task one = {{0}};
        int units = rand_r(&state) % (MOST + 1), threads = 1 + rand_r(&state) % 6;
        if (ssm_run_units(&one, units, threads, 1 << 30, SCRATCH, work)) abort();
        for (int i = 0; i < MOST; i++)
            if (one.counts[i] != (i < units)) abort();
        if (call % 50 == 0) usleep(1000); /* helpers fall asleep */
    }
    return NULL;
}

/* A program's own threads, new ones for each call. */
typedef struct {
    void (*work)(void *);
    void *given;
} member;

static void *take_part(void *one) {
    ((member *)one)->work(((member *)one)->given);
    return NULL;
}

static _Atomic int teams;

static void team(void (*work)(void *), void *given, unsigned threads, unsigned flags) {
    member one = {work, given};
    pthread_t members[8];
    if (flags || threads < 2 || threads > 8) abort();
    teams++;
    for (unsigned i = 1; i < threads; i++) pthread_create(&members[i], NULL, take_part, &one);
    take_part(&one);
    for (unsigned i = 1; i < threads; i++) pthread_join(members[i], NULL);
}

int main(void) {
    pthread_t threads[CALLERS];
    for (size_t i = 0; i < CALLERS; i++) pthread_create(&threads[i], NULL, calls, (void *)(i + 1));
    usleep(2000);
    pid_t child;
    int status = 0;
#ifndef __SANITIZE_ADDRESS__ /* whose own locks a fork may copy while they are held */
    child = fork(); /* while others call */
    if (child == 0) {
        alarm(30);
        calls((void *)99);
        _exit(0);
    }
    waitpid(child, &status, 0);
#endif
    for (int i = 0; i < CALLERS; i++) pthread_join(threads[i], NULL);
    if (status) return 2;
    ssmcore_use_team(team);
    calls((void *)7);
    int used = teams;
    child = fork();
    if (child == 0) {
        alarm(30);
        calls((void *)98);
        _exit(teams != used); /* the team stayed with the parent */
    }
    waitpid(child, &status, 0);
    if (status || !used) return 3;
    ssmcore_use_team(NULL);
    calls((void *)8);
    if (teams != used) return 4;
    puts("every unit ran once");
    return 0;
}
