/* IMPLEMENTATION for x86-64 with AVX2 and FMA. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#include <immintrin.h>

#define ISA avx2
#define VECTOR_BYTES 32
#define SELECT_F32(mask, yes, no) ((vec)_mm256_blendv_ps((__m256)(no), (__m256)(yes), (__m256)(mask)))
#define SELECT_F64(mask, yes, no) ((vec)_mm256_blendv_pd((__m256d)(no), (__m256d)(yes), (__m256d)(mask)))
#define LARGER_F32(low, x) ((vec)_mm256_max_ps((__m256)(low), (__m256)(x)))
#define LARGER_F64(low, x) ((vec)_mm256_max_pd((__m256d)(low), (__m256d)(x)))
#define LANE_SUMS_F32(v) ((vec)add_lanes_f32_avx2((const __m256 *)(v)))
#define LANE_SUMS_F64(v) ((vec)add_lanes_f64_avx2((const __m256d *)(v)))

/* The sum of the lanes of v[i] in lane i. */
static inline __attribute__((always_inline, unused)) __m256 add_lanes_f32_avx2(const __m256 *v) {
    __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

static inline __attribute__((always_inline, unused)) __m256d add_lanes_f64_avx2(const __m256d *v) {
    __m256d low = _mm256_hadd_pd(v[0], v[1]), high = _mm256_hadd_pd(v[2], v[3]);
    return _mm256_add_pd(_mm256_permute2f128_pd(low, high, 0x20), _mm256_permute2f128_pd(low, high, 0x31));
}

#include "types.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int ssmcore_no_avx2;
#endif
