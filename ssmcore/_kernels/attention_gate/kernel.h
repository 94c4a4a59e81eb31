/* The passes of an attention gate for one instruction set and one type; see ops/attention_gate.md.
 *
 * A unit of work is a strip of rows of one batch entry. Channels lie in the lanes; what is summed over them goes by VL positions
 * at once, so that one transposition serves VL sums.
 */
#include "api.h"
#include "lanes.h"
#include "units.h"

typedef struct {
    int64_t index, b, y0, y1;
} NAME(strip);

INLINE NAME(strip) NAME(strip_at)(const ssm_gate *s, int64_t index) {
    int64_t strips = (s->height + s->rows - 1) / s->rows, y0 = index % strips * s->rows;
    return (NAME(strip)){index, index / strips, y0, y0 + s->rows < s->height ? y0 + s->rows : s->height};
}

INLINE REAL *NAME(row_of)(const ssm_grid *x, int64_t b, int64_t y) { return (REAL *)x->data + b * x->batch + y * x->row; }

INLINE int64_t NAME(lanes_from)(int64_t channels, int64_t c) { return channels - c < VL ? channels - c : VL; }

INLINE void NAME(put_lanes)(REAL *p, vec value, int64_t lanes) {
    if (lanes == VL) NAME(write)(p, value);
    else __builtin_memcpy(p, &value, lanes * sizeof(REAL));
}

/* A row of the coefficients, for the channels from c on. */
#define COEFFICIENT(s, row, c, lanes) NAME(lanes_of)((s)->coefficients, (row) * (s)->dim + (c), lanes)

INLINE void NAME(put_partial)(const ssm_gate *s, int64_t index, int row, int64_t c, vec value, int64_t lanes) {
    NAME(put_lanes)((REAL *)s->partial + (index * 4 + row) * s->dim + c, value, lanes);
}

/* ---- forward ---- */

/* Mean, then the squares about it, over a strip: no large sum is taken from another. */
static void NAME(moments_unit)(const void *task, int64_t index, char *arena) {
    const ssm_gate *s = task;
    NAME(strip) strip = NAME(strip_at)(s, index);
    REAL count = (REAL)((strip.y1 - strip.y0) * s->width);
    const ssm_grid *grids[2] = {&s->theta, &s->phi};
    (void)arena;
    for (int which = 0; which < 2; which++)
        for (int64_t c = 0; c < s->dim; c += VL) {
            int64_t lanes = NAME(lanes_from)(s->dim, c), column = grids[which]->column;
            vec mean = {0}, result = {0};
            for (int squares = 0; squares < 2; squares++) {
                vec sum[4] = {{0}};
                for (int64_t y = strip.y0; y < strip.y1; y++) {
                    const REAL *p = NAME(row_of)(grids[which], strip.b, y) + c;
                    int64_t i = 0;
                    for (; i + 4 <= s->width; i += 4)
#pragma GCC unroll 4
                        for (int k = 0; k < 4; k++) {
                            vec value = NAME(lanes_of)(p, (i + k) * column, lanes) - mean;
                            sum[k] += squares ? value * value : value;
                        }
                    for (; i < s->width; i++) {
                        vec value = NAME(lanes_of)(p, i * column, lanes) - mean;
                        sum[0] += squares ? value * value : value;
                    }
                }
                result = (sum[0] + sum[1]) + (sum[2] + sum[3]);
                if (!squares) {
                    mean = result / count;
                    NAME(put_partial)(s, index, 2 * which, c, mean, lanes);
                }
            }
            NAME(put_partial)(s, index, 2 * which + 1, c, result, lanes);
        }
}

INLINE vec NAME(compared)(vec theta, vec phi, vec scale_theta, vec scale_phi, vec shift) {
    return theta * scale_theta + (phi * scale_phi + shift);
}

/* q of `count` positions from `i` on; whole vectors where `full`. */
INLINE void NAME(compare_positions)(const ssm_gate *s, const REAL *theta, const REAL *phi, REAL *q, int64_t i, const int full,
                                    int64_t count) {
    vec sum[VL] = {{0}};
    for (int64_t c = 0; c < s->dim; c += VL) {
        int64_t lanes = full ? VL : NAME(lanes_from)(s->dim, c);
        vec scale_theta = COEFFICIENT(s, GATE_SCALE_THETA, c, lanes), scale_phi = COEFFICIENT(s, GATE_SCALE_PHI, c, lanes);
        vec shift = COEFFICIENT(s, GATE_SHIFT, c, lanes), psi = COEFFICIENT(s, GATE_PSI, c, lanes);
#define POSITION(k)                                                                                    \
    do {                                                                                               \
        vec a = NAME(compared)(NAME(lanes_of)(theta, (i + (k)) * s->theta.column + c, lanes),          \
                               NAME(lanes_of)(phi, (i + (k)) * s->phi.column + c, lanes), scale_theta, \
                               scale_phi, shift);                                                      \
        sum[k] += LARGER(NAME(splat)(0), a) * psi;                                                     \
    } while (0)
        if (full) {
#pragma GCC unroll 16
            for (int k = 0; k < VL; k++) POSITION(k);
        } else {
            for (int64_t k = 0; k < count; k++) POSITION(k);
        }
#undef POSITION
    }
    NAME(put_lanes)(q + i, NAME(lane_sums)(sum), count);
}

static void NAME(compare_unit)(const void *task, int64_t index, char *arena) {
    const ssm_gate *s = task;
    NAME(strip) strip = NAME(strip_at)(s, index);
    (void)arena;
    for (int64_t y = strip.y0; y < strip.y1; y++) {
        const REAL *theta = NAME(row_of)(&s->theta, strip.b, y), *phi = NAME(row_of)(&s->phi, strip.b, y);
        REAL *q = (REAL *)s->q + (strip.b * s->height + y) * s->width;
        int64_t i = 0;
        if (s->dim % VL == 0)
            for (; i + VL <= s->width; i += VL) NAME(compare_positions)(s, theta, phi, q, i, 1, VL);
        for (; i < s->width; i += VL)
            NAME(compare_positions)(s, theta, phi, q, i, 0, s->width - i < VL ? s->width - i : VL);
    }
}

/* sigmoid(gain q + offset) of up to VL positions. */
INLINE vec NAME(rate)(const ssm_gate *s, const REAL *q, int64_t count) {
    return NAME(sigmoid1)(NAME(lanes_of)(q, 0, count) * (REAL)s->gain + (REAL)s->offset);
}

static void NAME(apply_unit)(const void *task, int64_t index, char *arena) {
    const ssm_gate *s = task;
    NAME(strip) strip = NAME(strip_at)(s, index);
    (void)arena;
    for (int64_t y = strip.y0; y < strip.y1; y++) {
        const REAL *x = NAME(row_of)(&s->x, strip.b, y), *q = (const REAL *)s->q + (strip.b * s->height + y) * s->width;
        REAL *out = NAME(row_of)(&s->out, strip.b, y);
        for (int64_t i = 0; i < s->width; i += VL) {
            int64_t count = s->width - i < VL ? s->width - i : VL;
            vec rate = NAME(rate)(s, q + i, count);
            for (int64_t k = 0; k < count; k++) {
                const REAL *from = x + (i + k) * s->x.column;
                REAL *to = out + (i + k) * s->out.column, one = rate[k];
                int64_t c = 0;
                for (; c + VL <= s->dim; c += VL) NAME(write)(to + c, NAME(read)(from + c) * one);
                for (; c < s->dim; c++) to[c] = from[c] * one;
            }
        }
    }
}

/* ---- backward ---- */

static void NAME(retract_unit)(const void *task, int64_t index, char *arena) {
    const ssm_gate *s = task;
    NAME(strip) strip = NAME(strip_at)(s, index);
    (void)arena;
    for (int64_t y = strip.y0; y < strip.y1; y++) {
        int64_t line = (strip.b * s->height + y) * s->width;
        const REAL *x = NAME(row_of)(&s->x, strip.b, y), *dout = NAME(row_of)(&s->dout, strip.b, y);
        REAL *dx = NAME(row_of)(&s->dx, strip.b, y);
        for (int64_t i = 0; i < s->width; i += VL) {
            int64_t count = s->width - i < VL ? s->width - i : VL;
            vec rate = NAME(rate)(s, (const REAL *)s->q + line + i, count), sum[VL] = {{0}};
            for (int64_t k = 0; k < count; k++) {
                const REAL *at = x + (i + k) * s->x.column, *given = dout + (i + k) * s->dout.column;
                REAL *to = dx + (i + k) * s->dx.column, one = rate[k];
                for (int64_t c = 0; c < s->dim; c += VL) {
                    int64_t lanes = NAME(lanes_from)(s->dim, c);
                    vec d = NAME(lanes_of)(given, c, lanes);
                    sum[k] += d * NAME(lanes_of)(at, c, lanes);
                    NAME(put_lanes)(to + c, d * one, lanes);
                }
            }
            NAME(put_lanes)((REAL *)s->dq + line + i, NAME(lane_sums)(sum) * rate * (1 - rate), count);
        }
    }
}

static void NAME(sums_unit)(const void *task, int64_t index, char *arena) {
    const ssm_gate *s = task;
    NAME(strip) strip = NAME(strip_at)(s, index);
    (void)arena;
    for (int64_t c = 0; c < s->dim; c += VL) {
        int64_t lanes = NAME(lanes_from)(s->dim, c);
        vec scale_theta = COEFFICIENT(s, GATE_SCALE_THETA, c, lanes), scale_phi = COEFFICIENT(s, GATE_SCALE_PHI, c, lanes);
        vec shift = COEFFICIENT(s, GATE_SHIFT, c, lanes), psi = COEFFICIENT(s, GATE_PSI, c, lanes);
        vec mean_theta = COEFFICIENT(s, GATE_MEAN_THETA, c, lanes), mean_phi = COEFFICIENT(s, GATE_MEAN_PHI, c, lanes);
        vec sum[4] = {{0}};
        for (int64_t y = strip.y0; y < strip.y1; y++) {
            const REAL *theta = NAME(row_of)(&s->theta, strip.b, y) + c, *phi = NAME(row_of)(&s->phi, strip.b, y) + c;
            const REAL *dq = (const REAL *)s->dq + (strip.b * s->height + y) * s->width;
            for (int64_t i = 0; i < s->width; i++) {
                vec t = NAME(lanes_of)(theta, i * s->theta.column, lanes), p = NAME(lanes_of)(phi, i * s->phi.column, lanes);
                vec a = NAME(compared)(t, p, scale_theta, scale_phi, shift);
                vec da = (vec)((ivec)(psi * dq[i]) & (a > 0));
                sum[0] += da;
                sum[1] += da * (t - mean_theta);
                sum[2] += da * (p - mean_phi);
                sum[3] += LARGER(NAME(splat)(0), a) * dq[i];
            }
        }
        for (int k = 0; k < 4; k++) NAME(put_partial)(s, index, k, c, sum[k], lanes);
    }
}

static void NAME(spread_unit)(const void *task, int64_t index, char *arena) {
    const ssm_gate *s = task;
    NAME(strip) strip = NAME(strip_at)(s, index);
    (void)arena;
    for (int64_t c = 0; c < s->dim; c += VL) {
        int64_t lanes = NAME(lanes_from)(s->dim, c);
        vec k[GATE_COEFFICIENTS];
#pragma GCC unroll 16
        for (int row = 0; row < GATE_COEFFICIENTS; row++) k[row] = COEFFICIENT(s, row, c, lanes);
        for (int64_t y = strip.y0; y < strip.y1; y++) {
            const REAL *theta = NAME(row_of)(&s->theta, strip.b, y) + c, *phi = NAME(row_of)(&s->phi, strip.b, y) + c;
            REAL *dtheta = NAME(row_of)(&s->dtheta, strip.b, y) + c, *dphi = NAME(row_of)(&s->dphi, strip.b, y) + c;
            const REAL *dq = (const REAL *)s->dq + (strip.b * s->height + y) * s->width;
            for (int64_t i = 0; i < s->width; i++) {
                vec t = NAME(lanes_of)(theta, i * s->theta.column, lanes), p = NAME(lanes_of)(phi, i * s->phi.column, lanes);
                vec a = NAME(compared)(t, p, k[GATE_SCALE_THETA], k[GATE_SCALE_PHI], k[GATE_SHIFT]);
                vec da = (vec)((ivec)(k[GATE_PSI] * dq[i]) & (a > 0));
                t = k[GATE_SCALE_THETA] * da + (k[GATE_CONSTANT_THETA] + k[GATE_SLOPE_THETA] * (t - k[GATE_MEAN_THETA]));
                p = k[GATE_SCALE_PHI] * da + (k[GATE_CONSTANT_PHI] + k[GATE_SLOPE_PHI] * (p - k[GATE_MEAN_PHI]));
                NAME(put_lanes)(dtheta + i * s->dtheta.column, t, lanes);
                NAME(put_lanes)(dphi + i * s->dphi.column, p, lanes);
            }
        }
    }
}

#define PASS(name)                                                                           \
    int NAME(ssm_gate_##name)(const ssm_gate *s) {                                           \
        int64_t strips = s->batch * ((s->height + s->rows - 1) / s->rows);                   \
        int64_t cost = s->batch * s->height * s->width * s->dim * 6;                   \
        return ssm_run_units(s, strips, s->workers, cost, 64, NAME(name##_unit));            \
    }
PASS(moments)
PASS(compare)
PASS(apply)
PASS(retract)
PASS(sums)
PASS(spread)
#undef PASS
#undef COEFFICIENT
