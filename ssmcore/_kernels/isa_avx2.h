/* IMPLEMENTATION for x86-64 with AVX2 and FMA. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define ISA avx2
#define VECTOR_BYTES 32
#include "types.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int ssmcore_no_avx2;
#endif
