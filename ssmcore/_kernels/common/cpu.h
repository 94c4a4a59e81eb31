/* Instruction sets, and the widest one compiled in that this processor runs. */
#ifndef SSMCORE_CPU_H
#define SSMCORE_CPU_H

enum { SSMCORE_GENERIC = 0, SSMCORE_AVX2 = 1, SSMCORE_AVX512 = 2 };
enum { SSMCORE_NO_MEMORY = -1, SSMCORE_NO_ISA = -2 };

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

/* A function of one direction, chosen among name_f32_avx512 and so on; `argument` is handed on. */
#if defined(__x86_64__)
#define SSMCORE_DECLARE(name, type)                                                                            \
    int name##_f32_generic(type), name##_f64_generic(type), name##_f32_avx2(type), name##_f64_avx2(type);      \
    int name##_f32_avx512(type), name##_f64_avx512(type)
#define SSMCORE_DISPATCH(name, argument, isa, is_double)                                                       \
    if ((isa) > ssm_widest_isa()) return SSMCORE_NO_ISA;                                                       \
    if ((isa) == SSMCORE_AVX512) return (is_double) ? name##_f64_avx512(argument) : name##_f32_avx512(argument); \
    if ((isa) == SSMCORE_AVX2) return (is_double) ? name##_f64_avx2(argument) : name##_f32_avx2(argument);     \
    return (is_double) ? name##_f64_generic(argument) : name##_f32_generic(argument)
#else
#define SSMCORE_DECLARE(name, type) int name##_f32_generic(type), name##_f64_generic(type)
#define SSMCORE_DISPATCH(name, argument, isa, is_double)   \
    if ((isa) > ssm_widest_isa()) return SSMCORE_NO_ISA;   \
    return (is_double) ? name##_f64_generic(argument) : name##_f32_generic(argument)
#endif
#endif
