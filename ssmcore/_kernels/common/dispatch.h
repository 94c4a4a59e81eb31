/* Defines the functions that SSMCORE_PASSES of an api.h lists: each calls its like for an instruction set and a type, such as
 * name_f32_avx512. api.h may define SSMCORE_CHOOSE(argument, isa, is_double), the instruction set to take instead of `isa`. */
#include "cpu.h"

#ifndef SSMCORE_CHOOSE
#define SSMCORE_CHOOSE(argument, isa, is_double) (isa)
#endif
#define SSMCORE_CALL(name, argument, is_double, set) return (is_double) ? name##_f64_##set(argument) : name##_f32_##set(argument)
#if defined(__x86_64__)
#define SSMCORE_WIDE(name, type) \
    int name##_f32_avx2(const type *), name##_f64_avx2(const type *), name##_f32_avx512(const type *), name##_f64_avx512(const type *);
#define SSMCORE_CALL_WIDE(name, argument, is_double, set)                         \
    if (set == SSMCORE_AVX512) SSMCORE_CALL(name, argument, is_double, avx512);   \
    if (set == SSMCORE_AVX2) SSMCORE_CALL(name, argument, is_double, avx2)
#else
#define SSMCORE_WIDE(name, type)
#define SSMCORE_CALL_WIDE(name, argument, is_double, set)
#endif

#define SSMCORE_DEFINE(name, type)                                          \
    int name##_f32_generic(const type *), name##_f64_generic(const type *); \
    SSMCORE_WIDE(name, type)                                                \
    int name(const type *argument, int isa, int is_double) {                \
        int set = SSMCORE_CHOOSE(argument, isa, is_double);                 \
        if (isa > ssm_widest_isa()) return SSMCORE_ERROR_ISA;                  \
        SSMCORE_CALL_WIDE(name, argument, is_double, set);                  \
        SSMCORE_CALL(name, argument, is_double, generic);                   \
    }
SSMCORE_PASSES(SSMCORE_DEFINE)
