/* Units of work on threads. Every unit writes its own part of every output, so no result depends on the number of threads. */
#ifndef SSMCORE_UNITS_H
#define SSMCORE_UNITS_H
#include <stdint.h>
#include "cpu.h"
#include "ssmcore.h"

/* Who works, and where memory comes from. */
typedef struct {
    int threads;
    int64_t work_per_thread; /* multiply-adds that are worth waking a thread */
    ssmcore_parallel_for *parallel_for; /* NULL: the library's own threads */
    void *pool;
    ssmcore_allocate *allocate;
    ssmcore_release *release;
    void *memory;
} ssm_workers;

void *ssm_allocate(const ssm_workers *workers, size_t bytes);
void ssm_release(const ssm_workers *workers, void *block, size_t bytes);

typedef void ssm_unit(const void *task, int64_t index, char *scratch);

/* Calls work(task, index, scratch) for every index below `units`, in any order. Each thread has `scratch` bytes of its own, on a cache
 * line; `cost` estimates the multiply-adds of all calls. Returns 0 or SSMCORE_ERROR_MEMORY. */
int ssm_run_units(const void *task, int64_t units, const ssm_workers *workers, int64_t cost, int64_t scratch, ssm_unit *work);
#endif
