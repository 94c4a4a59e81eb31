/* Units of work on threads. Every unit writes its own part of every output, so no result depends on the number of threads. */
#ifndef SSMCORE_UNITS_H
#define SSMCORE_UNITS_H
#include <stdint.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#include "cpu.h"

/* work(task, index, scratch) for every index, `scratch` bytes of its thread's own each time. 0 or SSMCORE_NO_MEMORY. */
static int ssm_run_units(const void *task, int64_t units, int threads, int64_t scratch,
                         void (*work)(const void *, int64_t, char *)) {
    if (units == 0) return 0;
    if (threads > units) threads = (int)units;
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
