/* x[k] = A x[k-1] + B u[k], y[k] = C x[k] with a diagonal A that does not change, for one instruction set and one type.
 *
 * A unit of work is a row: one system and its input. States lie in the lanes and stay in a register for VL steps, after which the
 * sums over the lanes of all these steps are taken at once.
 */
#include "lanes.h"
#include "api.h"
#include "units.h"

typedef struct {
    vec real, imaginary;
} NAME(number);

INLINE NAME(number) NAME(entry)(const ssm_parts *parts, int64_t at) {
    NAME(number) x = {NAME(read)((const REAL *)parts->real + at), {0}};
    if (parts->imaginary) x.imaginary = NAME(read)((const REAL *)parts->imaginary + at);
    return x;
}

/* VL steps, of which the first `steps` count, of the states at `at`; C x is added to `sums`. */
INLINE void NAME(linear_steps)(const int complex_A, const int complex_u, const ssm_linear *s, int64_t at, const REAL *u,
                               const REAL *u_imaginary, int64_t steps, NAME(number) *sums) {
    const NAME(number) A = NAME(entry)(&s->A, at), B = NAME(entry)(&s->B, at), C = NAME(entry)(&s->C, at);
    NAME(number) x = NAME(entry)(&s->state, at);
    for (int64_t k = 0; k < steps; k++) {
        vec entering = B.real * u[k];
        if (!complex_A) {
            x.real = A.real * x.real + entering;
            sums[k].real += C.real * x.real;
            continue;
        }
        vec turned = B.imaginary * u[k];
        if (complex_u) {
            entering -= B.imaginary * u_imaginary[k];
            turned += B.real * u_imaginary[k];
        }
        vec real = A.real * x.real - A.imaginary * x.imaginary + entering;
        x.imaginary = A.real * x.imaginary + A.imaginary * x.real + turned;
        x.real = real;
        sums[k].real += C.real * x.real - C.imaginary * x.imaginary;
        sums[k].imaginary += C.real * x.imaginary + C.imaginary * x.real;
    }
    NAME(write)((REAL *)s->state.real + at, x.real);
    if (complex_A) NAME(write)((REAL *)s->state.imaginary + at, x.imaginary);
}

INLINE void NAME(linear_row)(const int complex_A, const int complex_u, const ssm_linear *s, int64_t row) {
    const REAL *u = (const REAL *)s->u.real + row * s->seqlen;
    const REAL *u_imaginary = complex_u ? (const REAL *)s->u.imaginary + row * s->seqlen : 0;
    REAL *y = (REAL *)s->y.real + row * s->seqlen;
    REAL *y_imaginary = complex_A ? (REAL *)s->y.imaginary + row * s->seqlen : 0;
    for (int64_t t = 0; t < s->seqlen; t += VL) {
        const int64_t steps = s->seqlen - t < VL ? s->seqlen - t : VL;
        NAME(number) sums[VL];
        vec parts[VL];
        __builtin_memset(sums, 0, sizeof(sums));
        for (int64_t n = 0; n < s->dstate; n += VL) {
            const int64_t at = row * s->dstate + n;
            if (steps == VL) NAME(linear_steps)(complex_A, complex_u, s, at, u + t, complex_u ? u_imaginary + t : 0, VL, sums);
            else NAME(linear_steps)(complex_A, complex_u, s, at, u + t, complex_u ? u_imaginary + t : 0, steps, sums);
        }
        for (int k = 0; k < VL; k++) parts[k] = sums[k].real;
        vec total = NAME(lane_sums)(parts);
        __builtin_memcpy(y + t, &total, steps * sizeof(REAL));
        if (!complex_A) continue;
        for (int k = 0; k < VL; k++) parts[k] = sums[k].imaginary;
        total = NAME(lane_sums)(parts);
        __builtin_memcpy(y_imaginary + t, &total, steps * sizeof(REAL));
    }
}

static void NAME(linear_unit)(const void *task, int64_t row, char *arena) {
    const ssm_linear *s = task;
    if (!s->A.imaginary) NAME(linear_row)(0, 0, s, row);
    else if (!s->u.imaginary) NAME(linear_row)(1, 0, s, row);
    else NAME(linear_row)(1, 1, s, row);
}

int NAME(ssm_linear_run)(const ssm_linear *s) {
    return ssm_run_units(s, s->rows, s->workers, s->rows * s->dstate * s->seqlen * (s->A.imaginary ? 8 : 3), 0,
                         NAME(linear_unit));
}
