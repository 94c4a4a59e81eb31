/* What this processor offers, and how a function leaves the library. */
#ifndef SSMCORE_CPU_H
#define SSMCORE_CPU_H

#if defined(_WIN32)
#define SSMCORE_EXPORT __declspec(dllexport)
#else
#define SSMCORE_EXPORT __attribute__((visibility("default")))
#endif

enum { SSMCORE_GENERIC = 0, SSMCORE_AVX2 = 1, SSMCORE_AVX512 = 2 };
enum { SSMCORE_NO_MEMORY = -1, SSMCORE_NO_ISA = -2 };

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

/* Whether the kernels run on several threads here. */
SSMCORE_EXPORT int ssmcore_has_threads(void);

/* Runs work(given) on `threads` threads at once, the caller's among them, and returns when all have: the signature of OpenMP's
 * GOMP_parallel. `flags` is 0. */
typedef void ssmcore_team(void (*work)(void *), void *given, unsigned threads, unsigned flags);

/* Lets kernels run on the threads of the program, such as torch's, in place of the library's own; NULL undoes it. Two sets of threads
 * that each wait for work without sleeping would take processors from each other. A forked child has the library's own. */
SSMCORE_EXPORT void ssmcore_use_team(ssmcore_team *function);

/* A function of an operation returns 0, SSMCORE_NO_MEMORY, or SSMCORE_NO_ISA where `isa` is not compiled in or not run by this
 * processor. `task` points to the `type` of its api.h, where SSMCORE_PASSES lists them, for declarations here and definitions in
 * dispatch.h. All have one signature, so that Cython calls each by the same lines. */
#define SSMCORE_DECLARE(name, type) SSMCORE_EXPORT int name(const void *task, int isa, int is_double);
#endif
