/* Units of work on threads. Every unit writes its own part of every output, so no result depends on the number of threads. */
#ifndef SSMCORE_UNITS_H
#define SSMCORE_UNITS_H
#include <stdint.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#include "cpu.h"

/* Multiply-adds that are worth waking a thread: 2^20, or SSMCORE_WORK_PER_THREAD, which backends/_threads.py has checked. */
static int64_t ssm_work_per_thread(void) {
    const char *wanted = getenv("SSMCORE_WORK_PER_THREAD");
    int64_t work = wanted ? atoll(wanted) : 0;
    return work > 0 ? work : 1 << 20;
}

/* Calls work(task, index, scratch) for every index. Each thread has `scratch` bytes of its own; `cost` estimates the multiply-adds of all
 * calls. Returns 0 or SSMCORE_NO_MEMORY. */
static int ssm_run_units(const void *task, int64_t units, int threads, int64_t cost, int64_t scratch,
                         void (*work)(const void *, int64_t, char *)) {
    if (units == 0) return 0;
    if (threads > units) threads = (int)units;
    if (threads > 1) {
        int64_t worth = cost / ssm_work_per_thread();
        if (threads > worth) threads = worth > 1 ? (int)worth : 1;
    }
    scratch = (scratch + 4095) / 4096 * 4096;
    char *raw = malloc(scratch * threads + 64);
    if (!raw) return SSMCORE_NO_MEMORY;
    char *arena = (char *)(((uintptr_t)raw + 63) / 64 * 64);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        int thread = 0;
#ifdef _OPENMP
        thread = omp_get_thread_num();
#endif
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < units; i++) work(task, i, arena + thread * scratch);
    }
    free(raw);
    return 0;
}
#endif
