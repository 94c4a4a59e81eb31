/* Kernels on the threads behind a function like OpenMP's GOMP_parallel, such as torch's: as a parallel_for, whose pool it is. */
#ifndef SSMCORE_TEAM_H
#define SSMCORE_TEAM_H
#include <stdatomic.h>
#include "ssmcore.h"

/* Runs work(given) on `threads` threads at once, the caller's among them, and returns when all have; `flags` is 0. */
typedef void ssm_team(void (*work)(void *), void *given, unsigned threads, unsigned flags);

typedef struct {
    ssmcore_task *task;
    void *user;
    _Atomic int32_t next;
} ssm_team_call;

static void ssm_team_member(void *given) {
    ssm_team_call *call = given;
    call->task(call->user, atomic_fetch_add(&call->next, 1));
}

/* A team may have fewer members than asked for: they do all the work. */
static void ssm_team_for(void *team, int32_t count, ssmcore_task *task, void *user) {
    ssm_team_call call = {task, user, 0};
    ((ssm_team *)team)(ssm_team_member, &call, (unsigned)count, 0);
}
#endif
