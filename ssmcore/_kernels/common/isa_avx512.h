/* IMPLEMENTATION for x86-64 with AVX-512 F, BW, DQ and VL. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#include <immintrin.h>

#define ISA avx512
#define VECTOR_BYTES 64
#define SCALE2_F32(p, k) ((vec)_mm512_scalef_ps((__m512)(p), (__m512)(k)))
#define SCALE2_F64(p, k) ((vec)_mm512_scalef_pd((__m512d)(p), (__m512d)(k)))
#define ROUND_F32(x) ((vec)_mm512_roundscale_ps((__m512)(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define ROUND_F64(x) ((vec)_mm512_roundscale_pd((__m512d)(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define SELECT_F32(mask, yes, no) \
    ((vec)_mm512_mask_mov_ps((__m512)(no), _mm512_movepi32_mask((__m512i)(mask)), (__m512)(yes)))
#define SELECT_F64(mask, yes, no) \
    ((vec)_mm512_mask_mov_pd((__m512d)(no), _mm512_movepi64_mask((__m512i)(mask)), (__m512d)(yes)))
#define LARGER_F32(low, x) ((vec)_mm512_max_ps((__m512)(low), (__m512)(x)))
#define LARGER_F64(low, x) ((vec)_mm512_max_pd((__m512d)(low), (__m512d)(x)))
#define RECIPROCAL_F32(x) ((vec)reciprocal_f32_avx512((__m512)(x)))
#define RECIPROCAL_INSIDE_F32(x) ((vec)reciprocal_inside_f32_avx512((__m512)(x)))

/* Estimate (14 bits) and one Newton step. */
static inline __attribute__((always_inline)) __m512 reciprocal_inside_f32_avx512(__m512 x) {
    __m512 estimate = _mm512_rcp14_ps(x);
    __m512 error = _mm512_fnmadd_ps(x, estimate, _mm512_set1_ps(1.0f));
    return _mm512_fmadd_ps(estimate, error, estimate);
}

/* Where the step itself is not a number (0 or infinity) the estimate is exact. */
static inline __attribute__((always_inline)) __m512 reciprocal_f32_avx512(__m512 x) {
    __m512 refined = reciprocal_inside_f32_avx512(x);
    return _mm512_mask_mov_ps(refined, _mm512_cmp_ps_mask(refined, refined, _CMP_UNORD_Q), _mm512_rcp14_ps(x));
}

#include "types.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int ssmcore_no_avx512;
#endif
