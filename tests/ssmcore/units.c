/* Several callers at once: every unit runs once, with memory of its thread's own; so it is in a forked child. Compiled by test_units.py. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "team.h"
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

static void call_often(unsigned state, ssmcore_parallel_for *parallel_for, void *pool) {
    for (int call = 0; call < CALLS; call++) {
        task one = {{0}};
        int units = rand_r(&state) % (MOST + 1);
        ssm_workers workers = {.threads = 1 + rand_r(&state) % 6, .work_per_thread = 1, .parallel_for = parallel_for, .pool = pool};
        if (ssm_run_units(&one, units, &workers, 1 << 30, SCRATCH, work)) abort();
        for (int i = 0; i < MOST; i++)
            if (one.counts[i] != (i < units)) abort();
        if (call % 50 == 0) usleep(1000); /* helpers fall asleep */
    }
}

static void *calls(void *seed) {
    call_often((unsigned)(size_t)seed, NULL, NULL);
    return NULL;
}

/* A program's own threads, new ones for each call. */
typedef struct {
    ssmcore_task *task;
    void *user;
    int32_t index;
} member;

static void *take_part(void *one) {
    member *m = one;
    m->task(m->user, m->index);
    return NULL;
}

static _Atomic int teams;

static void team(void *pool, int32_t count, ssmcore_task *task, void *user) {
    member members[8];
    pthread_t threads[8];
    if (pool != &teams || count < 2 || count > 8) abort();
    teams++;
    for (int32_t i = 0; i < count; i++) members[i] = (member){task, user, i};
    for (int32_t i = 1; i < count; i++) pthread_create(&threads[i], NULL, take_part, &members[i]);
    take_part(&members[0]);
    for (int32_t i = 1; i < count; i++) pthread_join(threads[i], NULL);
}

/* One after the other, the last first. */
static void in_turn(void *pool, int32_t count, ssmcore_task *task, void *user) {
    if (pool) abort();
    while (count-- > 0) task(user, count);
}

/* As OpenMP does for torch: team.h makes a parallel_for of it, here of one that has fewer members than it was asked for. */
static void one_less(void (*work)(void *), void *given, unsigned threads, unsigned flags) {
    if (flags || threads < 2) abort();
    for (unsigned i = 1; i < threads; i++) work(given);
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
    call_often(7, team, &teams);
    call_often(9, in_turn, NULL);
    call_often(10, ssm_team_for, (void *)one_less);
    int used = teams;
    child = fork();
    if (child == 0) {
        alarm(30);
        calls((void *)98);
        _exit(teams != used); /* the team stayed with the call that brought it */
    }
    waitpid(child, &status, 0);
    if (status || !used) return 3;
    calls((void *)8);
    if (teams != used) return 4;
    puts("every unit ran once");
    return 0;
}
