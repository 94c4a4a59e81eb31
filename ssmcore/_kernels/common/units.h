/* Units of work on threads. Every unit writes its own part of every output, so no result depends on the number of threads. */
#ifndef SSMCORE_UNITS_H
#define SSMCORE_UNITS_H
#include <stdint.h>
#include "cpu.h"

typedef void ssm_unit(const void *task, int64_t index, char *scratch);

/* Calls work(task, index, scratch) for every index below `units`, in any order, on at most `threads` threads. Each thread has `scratch`
 * bytes of its own, on a cache line; `cost` estimates the multiply-adds of all calls. Returns 0 or SSMCORE_NO_MEMORY. */
int ssm_run_units(const void *task, int64_t units, int threads, int64_t cost, int64_t scratch, ssm_unit *work);
#endif
