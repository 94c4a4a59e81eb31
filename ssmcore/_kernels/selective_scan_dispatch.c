/* Picks the instruction set. */
#include "selective_scan.h"

#define DECLARE(isa)                              \
    int ssm_scan_fwd_f32_##isa(const ssm_scan *); \
    int ssm_scan_fwd_f64_##isa(const ssm_scan *); \
    int ssm_scan_bwd_f32_##isa(const ssm_scan *); \
    int ssm_scan_bwd_f64_##isa(const ssm_scan *);
DECLARE(generic)

#define RUN(direction, isa) \
    return is_double ? ssm_scan_##direction##_f64_##isa(scan) : ssm_scan_##direction##_f32_##isa(scan)

#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
int ssm_best_isa(void) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        return SSMCORE_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return SSMCORE_AVX2;
    return SSMCORE_GENERIC;
}
#define DISPATCH(direction)                              \
    if (isa > ssm_best_isa()) return SSMCORE_NO_ISA;     \
    if (isa == SSMCORE_AVX512) RUN(direction, avx512);   \
    if (isa == SSMCORE_AVX2) RUN(direction, avx2);       \
    RUN(direction, generic)
#else
int ssm_best_isa(void) { return SSMCORE_GENERIC; }
#define DISPATCH(direction)                          \
    if (isa > ssm_best_isa()) return SSMCORE_NO_ISA; \
    RUN(direction, generic)
#endif

int ssm_has_openmp(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

int ssm_scan_fwd(const ssm_scan *scan, int isa, int is_double) { DISPATCH(fwd); }
int ssm_scan_bwd(const ssm_scan *scan, int isa, int is_double) { DISPATCH(bwd); }
