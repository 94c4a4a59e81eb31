/* What this processor offers, and the passes of an operation. */
#ifndef SSMCORE_CPU_H
#define SSMCORE_CPU_H
#include "ssmcore.h"

enum { SSMCORE_GENERIC = 0, SSMCORE_AVX2 = 1, SSMCORE_AVX512 = 2 };

/* The widest instruction set compiled in that this processor runs. */
static inline int ssm_widest_isa(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        return SSMCORE_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return SSMCORE_AVX2;
#endif
    return SSMCORE_GENERIC;
}

/* A pass of an operation returns 0, SSMCORE_ERROR_MEMORY, or SSMCORE_ERROR_ISA where `isa` is not compiled in or not run by this processor.
 * SSMCORE_PASSES of an api.h lists them, for declarations here and definitions in dispatch.h. */
#define SSMCORE_DECLARE(name, type) int name(const type *task, int isa, int is_double);
#endif
