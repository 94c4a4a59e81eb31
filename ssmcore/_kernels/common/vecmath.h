/* Vectors of VL lanes in the compiler's portable vector extension, and the few functions a scan needs.
 *
 * The including file sets REAL (float or double), INT (an integer of the same size), VL, NAME(x) (the suffix of this
 * instruction set and type) and, where the instruction set has them, SCALE2(p, k) = p * 2^k, ROUND(x) to the nearest
 * integer, RECIPROCAL(x) with RECIPROCAL_INSIDE(x) for finite x away from 0, and SELECT(mask, yes, no) with
 * LARGER(low, x), which is x where x is not a number.
 * No fast-math anywhere: NaN and infinity come out where IEEE arithmetic has them. Results below 2^-125
 * (2^-1021) become 0.
 */
#include <stdint.h>

typedef REAL NAME(vec) __attribute__((vector_size(VL * sizeof(REAL))));
typedef INT NAME(ivec) __attribute__((vector_size(VL * sizeof(REAL))));
typedef REAL NAME(vec_anywhere) __attribute__((vector_size(VL * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
#define vec NAME(vec)
#define ivec NAME(ivec)
#define INLINE static inline __attribute__((always_inline, unused))
#define OUTLINE static __attribute__((noinline, unused)) /* loops that want the registers for themselves */

#if REAL_IS_DOUBLE
#define MANTISSA 52
#define EXPONENT_BIAS 1023
#define ROUND_MAGIC 6755399441055744.0
#define EXP2_HIGH 1024.0
#define EXP2_LOW -1021.0
#define LN2_HIGH 6.93147180369123816490e-01
#define LN2_LOW 1.90821492927058770002e-10
#else
#define MANTISSA 23
#define EXPONENT_BIAS 127
#define ROUND_MAGIC 12582912.0f
#define EXP2_HIGH 128.0f
#define EXP2_LOW -125.0f
#define LN2_HIGH 6.93359375e-1f
#define LN2_LOW -2.12194440e-4f
#endif
#define LOG2_E ((REAL)1.44269504088896340736)

/* A vector from and to memory in one move: memcpy may take two, and what is stored in halves cannot be forwarded whole. */
INLINE vec NAME(read)(const REAL *p) { return *(const NAME(vec_anywhere) *)p; }
INLINE void NAME(write)(REAL *p, vec x) { *(NAME(vec_anywhere) *)p = x; }

INLINE vec NAME(splat)(REAL x) { return x - (vec){0}; }
#ifdef SELECT
INLINE vec NAME(select)(ivec mask, vec yes, vec no) { return SELECT(mask, yes, no); }
#else
INLINE vec NAME(select)(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }
#define LARGER(low, x) NAME(select)((low) > (x), low, x)
#endif
INLINE vec NAME(minus_magnitude)(vec x) { return (vec)((ivec)x | (ivec)NAME(splat)(-(REAL)0)); }

/* Nearest integer, |x| < 2^22 (2^51); `bits` receives it as an integer. */
INLINE vec NAME(round)(vec x, ivec *bits) {
    vec shifted = x + ROUND_MAGIC;
    *bits = (ivec)shifted - (ivec)NAME(splat)(ROUND_MAGIC);
    return shifted - ROUND_MAGIC;
}

/* p * 2^k for p near 1 and -125 <= k <= 128 (-1021, 1024): two factors, so that 2^128 overflows only where it should. */
#ifndef SCALE2
INLINE vec NAME(scale2)(vec p, ivec k) {
    ivec half = (k - 1 + EXPONENT_BIAS) << MANTISSA;
    return p * (vec)half * 2;
}
#define SCALE2(p, k_real, k_int) NAME(scale2)(p, k_int)
#endif
#ifndef RECIPROCAL
#define RECIPROCAL(x) (1 / (x))
#define RECIPROCAL_INSIDE(x) (1 / (x))
#endif

/* The two ends, kept out of the polynomial's way: values above are clamped to overflow, below to the smallest result. */
INLINE vec NAME(clamp_exp2)(vec x) {
    x = NAME(select)(x > EXP2_HIGH, NAME(splat)(EXP2_HIGH), x);
    return LARGER(NAME(splat)(EXP2_LOW), x);
}

/* 2^r for |r| <= 1/2 of `count` vectors, in place. 2^0 is exactly 1, so that a step of length 0 leaves the state alone.
 *
 * Stage by stage and not vector by vector: a processor that waits for one chain after the other runs out of room to look
 * ahead. */
#define ABREAST 4 /* vectors at most that are computed side by side */
#define EACH _Pragma("GCC unroll 8") for (int i = 0; i < count; i++)
INLINE void NAME(exp2_fractions)(const int count, vec *r) {
#if REAL_IS_DOUBLE
    static const REAL coefficients[] = {4.4549605981865183938e-10, 7.0725859492692236999e-9, 1.0178062445845773521e-7,
                                        1.3215442587921689653e-6,  0.000015252733829836118394, 0.00015403530441736050155,
                                        0.001333355814641693531,   0.0096181291076068885273,   0.055504108664821594339,
                                        0.2402265069591009822,     0.69314718055994530942,     1};
#else
    static const REAL coefficients[] = {0.0013264727391626221f, /* 9e-8, and less towards 0, where a state remembers longest */
                                        0.009671512917326205f, 0.05550733745336525f, 0.24022242081104875f,
                                        0.6931469775964691f, 1};
#endif
    const int degree = sizeof(coefficients) / sizeof(REAL) - 1;
    vec q[ABREAST];
    EACH q[i] = NAME(splat)(coefficients[0]);
#pragma GCC unroll 12
    for (int k = 1; k <= degree; k++) EACH q[i] = q[i] * r[i] + coefficients[k];
    EACH r[i] = q[i];
}

INLINE vec NAME(exp2_fraction)(vec r) {
    NAME(exp2_fractions)(1, &r);
    return r;
}

INLINE vec NAME(exp2)(vec x) {
    ivec k;
    vec clamped = NAME(clamp_exp2)(x);
    vec whole = NAME(round)(clamped, &k);
    return NAME(select)(x < EXP2_LOW, NAME(splat)(0), SCALE2(NAME(exp2_fraction)(clamped - whole), whole, k));
}

/* The same of `count` vectors, in place, for EXP2_LOW <= x < EXP2_HIGH - 1. */
INLINE void NAME(exp2_inside)(const int count, vec *x) {
    vec whole[ABREAST];
#ifdef ROUND
    EACH whole[i] = ROUND(x[i]);
    EACH x[i] -= whole[i];
    NAME(exp2_fractions)(count, x);
    EACH x[i] = SCALE2(x[i], whole[i], 0);
#else
    vec shifted[ABREAST]; /* the last bits of its mantissa are the nearest integer, and the shift drops the others */
    EACH shifted[i] = x[i] + ROUND_MAGIC;
    EACH whole[i] = shifted[i] - ROUND_MAGIC;
    EACH x[i] -= whole[i];
    NAME(exp2_fractions)(count, x);
    EACH x[i] = (vec)((ivec)x[i] + ((ivec)shifted[i] << MANTISSA));
#endif
}

/* Everything the exact (zoh) discretisation needs of e^x, without cancellation near 0:
 * exp_x = e^x, phi = (e^x - 1)/x, dphi = phi'(x) = (e^x - phi)/x. */
INLINE void NAME(exp_phi)(vec x, vec *exp_x, vec *phi, vec *dphi) {
    ivec k;
    vec clamped = NAME(clamp_exp2)(x * LOG2_E);
    vec whole = NAME(round)(clamped, &k);
    ivec low = x < EXP2_LOW * (LN2_HIGH + LN2_LOW);
    ivec high = x > EXP2_HIGH * (LN2_HIGH + LN2_LOW);
    vec r = x - whole * LN2_HIGH - whole * LN2_LOW;
    r = NAME(select)(low | high, NAME(splat)(0), r);
#if REAL_IS_DOUBLE
    vec q = NAME(splat)(1.6086627956780368844e-10);
    q = q * r + 2.0918137737642736429e-9;
    q = q * r + 2.5052071094293546753e-8;
    q = q * r + 2.7557263278088496905e-7;
    q = q * r + 2.7557319247218730776e-6;
    q = q * r + 0.000024801587336442237861;
    q = q * r + 0.00019841269841263299129;
    q = q * r + 0.0013888888888879073994;
    q = q * r + 0.008333333333333334007;
    q = q * r + 0.041666666666666676774;
    q = q * r + 0.16666666666666666667;
    q = q * r + 0.5;
#else
    vec q = NAME(splat)(0.00019890990824673653848f);
    q = q * r + 0.001393364999630925043f;
    q = q * r + 0.0083333109254809008349f;
    q = q * r + 0.041666464925285905408f;
    q = q * r + 0.16666666681623231402f;
    q = q * r + 0.50000000134658092001f;
#endif
    vec p = (q * r + 1) * r; /* e^r - 1 */
    vec e = SCALE2(p + 1, whole, k);
    e = NAME(select)(low, NAME(splat)(0), e);
    vec scale = SCALE2(NAME(splat)(1), whole, k);
    vec em1 = p * scale + (scale - 1);
    em1 = NAME(select)(low, NAME(splat)(-1), em1);
    em1 = NAME(select)(k > MANTISSA + 8, e, em1);
    ivec near = k == 0;
    vec inv = 1 / x;
    vec f = NAME(select)(near, q * r + 1, em1 * inv);
    *exp_x = e;
    *phi = f;
    *dphi = NAME(select)(near, q * (r - 1) + 1, (e - f) * inv);
}

/* e^x of `count` vectors, in place, for x <= 0: softplus and sigmoid have no use for the way up. */
INLINE void NAME(exp_negative)(const int count, vec *x) {
    ivec k[ABREAST], low[ABREAST];
    vec whole[ABREAST];
    EACH low[i] = x[i] < EXP2_LOW * (LN2_HIGH + LN2_LOW);
    EACH x[i] = LARGER(NAME(splat)(EXP2_LOW * (LN2_HIGH + LN2_LOW)), x[i]);
    EACH whole[i] = NAME(round)(x[i] * LOG2_E, &k[i]);
    EACH x[i] = (x[i] - whole[i] * LN2_HIGH - whole[i] * LN2_LOW) * LOG2_E;
    NAME(exp2_fractions)(count, x);
    EACH x[i] = (vec)(~low[i] & (ivec)SCALE2(x[i], whole[i], k[i]));
}

/* log(1 + e^x) = max(x, 0) + 2 artanh(s), s = e/(2 + e), e = exp(-|x|), of `count` vectors, in place; above 20 the identity,
 * as torch has it. `slope`, unless NULL, receives the derivative, 1/(1 + e^-x), above 20 that of the identity. */
INLINE void NAME(softplus)(const int count, vec *x, vec *slope) {
#if REAL_IS_DOUBLE
    static const REAL coefficients[] = {0.080362830673391359166, 0.028927044988338250322, 0.050490927343170297784,
                                        0.052274737577654313479, 0.058853092776241545906, 0.066664997601925853657,
                                        0.076923141106323210244, 0.090909089260906135886, 0.11111111113820865993,
                                        0.14285714285687825765,  0.2000000000000013402,   0.33333333333333330667, 1};
#else
    static const REAL coefficients[] = {0.12196954042011512453f, 0.10699280253339271618f, 0.14310103704218619165f,
                                        0.19999355623431165808f, 0.3333333951321698478f,  1};
#endif
    const int degree = sizeof(coefficients) / sizeof(REAL) - 1;
    vec e[ABREAST], s[ABREAST], w[ABREAST], q[ABREAST];
    EACH e[i] = NAME(minus_magnitude)(x[i]);
    NAME(exp_negative)(count, e);
    if (slope)
        EACH slope[i] = NAME(select)(x[i] > 20, NAME(splat)(1), NAME(select)(x[i] < 0, e[i], NAME(splat)(1)) / (1 + e[i]));
    EACH s[i] = e[i] / (e[i] + 2);
    EACH w[i] = s[i] * s[i];
    EACH q[i] = NAME(splat)(coefficients[0]);
#pragma GCC unroll 13
    for (int k = 1; k <= degree; k++) EACH q[i] = q[i] * w[i] + coefficients[k];
    EACH x[i] = NAME(select)(x[i] > 20, x[i], LARGER(NAME(splat)(0), x[i]) + s[i] * q[i] * 2);
}

INLINE void NAME(sigmoid)(const int count, vec *x) {
    vec e[ABREAST];
    EACH e[i] = NAME(minus_magnitude)(x[i]);
    NAME(exp_negative)(count, e);
    EACH x[i] = NAME(select)(x[i] < 0, e[i], NAME(splat)(1)) / (1 + e[i]);
}

INLINE vec NAME(sigmoid1)(vec x) {
    NAME(sigmoid)(1, &x);
    return x;
}
