/* Causal depthwise convolution with SiLU for one instruction set and one type; see ops/causal_conv1d.md.
 *
 * A unit of work is one batch entry and 64 channels. Channels lie in the lanes; a tile holds CHUNK steps of the
 * input after the taps - 1 before them.
 */
#include "api.h"
#include "lanes.h"
#include "units.h"

/* Input of a tile's steps at x[past], the `past` before them at x[0]: earlier input, the initial state, or zeros. */
INLINE void NAME(open_conv)(vec *x, const ssm_conv *s, const NAME(walk) *walk, int64_t b, int64_t c, int64_t lanes, int64_t t0) {
    int64_t past = s->taps - 1;
    NAME(load_steps)(x + past, &s->x, b, 0, c, walk, lanes);
    const REAL *initial = s->initial;
    int64_t first = b * s->x.batch + c * s->x.dim;
    for (int64_t i = 0; i < past; i++) {
        int64_t t = t0 - past + i;
        vec value = {0};
        for (int64_t d = 0; d < lanes; d++) {
            if (t >= 0) value[d] = NAME(element)(s->x.data, s->x.type, first + t * s->x.time + d * s->x.dim);
            else if (initial) value[d] = initial[(b * s->dim + c + d + 1) * s->kept + t];
        }
        x[i] = value;
    }
}

/* bias + sum_k weight[k] x[t + k], for a number of taps the compiler may know. */
INLINE void NAME(convolve)(vec *y, const vec *x, const vec *weight, vec bias, const int64_t taps, int64_t steps) {
    for (int64_t t = 0; t < steps; t++) {
        vec sum = bias;
        for (int64_t k = 0; k < taps; k++) sum += weight[k] * x[t + k];
        y[t] = sum;
    }
}

static void NAME(convolve_any)(vec *y, const vec *x, const vec *weight, vec bias, int64_t taps, int64_t steps) {
    if (taps == 4) NAME(convolve)(y, x, weight, bias, 4, steps);
    else if (taps == 3) NAME(convolve)(y, x, weight, bias, 3, steps);
    else if (taps == 2) NAME(convolve)(y, x, weight, bias, 2, steps);
    else NAME(convolve)(y, x, weight, bias, taps, steps);
}

enum { NAME(CONV_VECS) = 64 / VL ? 64 / VL : 1 }; /* of channels a unit has: whole cache lines of a row, few enough to stay in cache */

INLINE int64_t NAME(conv_units)(const ssm_conv *s) {
    int64_t channels = NAME(CONV_VECS) * VL;
    return s->batch * ((s->dim + channels - 1) / channels);
}

/* The batch entry of a unit, and its channels [c0, c1). */
INLINE void NAME(conv_unit)(const ssm_conv *s, int64_t index, int64_t *b, int64_t *c0, int64_t *c1) {
    int64_t channels = NAME(CONV_VECS) * VL, blocks = (s->dim + channels - 1) / channels;
    *b = index / blocks;
    *c0 = index % blocks * channels;
    *c1 = *c0 + channels < s->dim ? *c0 + channels : s->dim;
}

static int64_t NAME(conv_scratch)(const ssm_conv *s) {
    return sizeof(NAME(walk)) + (2 * (CHUNK + s->taps) + CHUNK + (3 * s->taps + 1) * NAME(CONV_VECS)) * sizeof(vec) + 1024;
}

INLINE void NAME(conv_silu)(const int count, vec *y) {
    vec gate[ABREAST];
    EACH gate[i] = y[i];
    NAME(sigmoid)(count, gate);
    EACH y[i] *= gate[i];
}

/* The gradient of silu(y) becomes that of y. */
INLINE void NAME(conv_through_silu)(const int count, vec *dy, const vec *y) {
    vec gate[ABREAST];
    EACH gate[i] = y[i];
    NAME(sigmoid)(count, gate);
    EACH dy[i] *= gate[i] * (1 + y[i] * (1 - gate[i]));
}

static void NAME(conv_fwd_unit)(const void *task, int64_t index, char *arena) {
    const ssm_conv *s = task;
    int64_t b, c0, c1, taps = s->taps;
    NAME(conv_unit)(s, index, &b, &c0, &c1);
    NAME(walk) *walk = ARENA(arena, NAME(walk), 1);
    vec *x = ARENA(arena, vec, CHUNK + taps);
    vec *y = ARENA(arena, vec, CHUNK);
    vec *weight = ARENA(arena, vec, taps * NAME(CONV_VECS));
    for (int64_t c = c0, v = 0; c < c1; c += VL, v++)
        NAME(load_rows)(weight + v * taps, (const REAL *)s->weight + c * taps, taps, c1 - c < VL ? c1 - c : VL);
    for (int64_t t0 = 0; t0 < s->seqlen; t0 += CHUNK) {
        NAME(walk_from)(walk, s->seqlen, s->seqlen, 0, t0);
        for (int64_t c = c0, v = 0; c < c1; c += VL, v++) {
            int64_t lanes = c1 - c < VL ? c1 - c : VL;
            NAME(open_conv)(x, s, walk, b, c, lanes, t0);
            NAME(convolve_any)(y, x, weight + v * taps, NAME(lanes_of)(s->bias, c, lanes), taps, walk->steps);
#define STEPS(count, t) NAME(conv_silu)(count, y + t)
            if (s->silu) TILE(walk->steps, STEPS);
#undef STEPS
            NAME(store_steps)(&s->out, b, 0, c, y, walk, lanes);
        }
    }
}

static void NAME(conv_bwd_unit)(const void *task, int64_t index, char *arena) {
    const ssm_conv *s = task;
    int64_t b, c0, c1, taps = s->taps, past = taps - 1;
    NAME(conv_unit)(s, index, &b, &c0, &c1);
    NAME(walk) *walk = ARENA(arena, NAME(walk), 1);
    vec *x = ARENA(arena, vec, CHUNK + taps);
    vec *dy = ARENA(arena, vec, CHUNK + taps); /* of the sum before SiLU, this tile's and the `past` after them */
    vec *y = ARENA(arena, vec, CHUNK);
    vec *weight = ARENA(arena, vec, taps * NAME(CONV_VECS));
    vec *dweight = ARENA(arena, vec, taps * NAME(CONV_VECS));
    vec *later = ARENA(arena, vec, past * NAME(CONV_VECS)); /* the first `past` of dy, for the tile before */
    vec *dbias = ARENA(arena, vec, NAME(CONV_VECS));
    for (int64_t c = c0, v = 0; c < c1; c += VL, v++) {
        NAME(load_rows)(weight + v * taps, (const REAL *)s->weight + c * taps, taps, c1 - c < VL ? c1 - c : VL);
        for (int64_t k = 0; k < taps; k++) dweight[v * taps + k] = (vec){0};
        for (int64_t i = 0; i < past; i++) later[v * past + i] = (vec){0};
        dbias[v] = (vec){0};
    }
    for (int64_t chunk = (s->seqlen + CHUNK - 1) / CHUNK; chunk-- > 0;) {
        NAME(walk_from)(walk, s->seqlen, s->seqlen, 0, chunk * CHUNK);
        int64_t steps = walk->steps;
        for (int64_t c = c0, v = 0; c < c1; c += VL, v++) {
            int64_t lanes = c1 - c < VL ? c1 - c : VL;
            const vec *w = weight + v * taps;
            NAME(open_conv)(x, s, walk, b, c, lanes, chunk * CHUNK);
            NAME(load_steps)(dy, &s->dout, b, 0, c, walk, lanes);
            for (int64_t i = 0; i < past; i++) dy[steps + i] = later[v * past + i];
            if (s->silu) {
                NAME(convolve_any)(y, x, w, NAME(lanes_of)(s->bias, c, lanes), taps, steps);
#define STEPS(count, t) NAME(conv_through_silu)(count, dy + t, y + t)
                TILE(steps, STEPS);
#undef STEPS
            }
            for (int64_t t = 0; t < steps; t++) {
                vec dx = {0};
                dbias[v] += dy[t];
                for (int64_t k = 0; k < taps; k++) {
                    dweight[v * taps + k] += dy[t] * x[t + k];
                    dx += w[past - k] * dy[t + k];
                }
                y[t] = dx;
            }
            NAME(store_steps)(&s->dx, b, 0, c, y, walk, lanes);
            for (int64_t i = 0; i < past; i++) later[v * past + i] = dy[i];
        }
    }
    for (int64_t c = c0, v = 0; c < c1; c += VL, v++) {
        int64_t lanes = c1 - c < VL ? c1 - c : VL, row = b * s->dim + c;
        NAME(store_rows)(s->dweight, row, dweight + v * taps, taps, lanes);
        if (s->dbias) __builtin_memcpy((REAL *)s->dbias + row, &dbias[v], lanes * sizeof(REAL));
        for (int64_t i = 0; i < past; i++) { /* position i - past, before the first */
            x[i] = (vec){0};
            for (int64_t k = past - i; k < taps; k++) x[i] += weight[v * taps + past - k] * later[v * past + i + k - past];
        }
        NAME(store_rows)(s->dinitial, row, x, past, lanes);
    }
}

INLINE int64_t NAME(conv_cost)(const ssm_conv *s) { return s->batch * s->dim * s->seqlen * (s->taps + (s->silu ? 12 : 0)); }

int NAME(ssm_conv_fwd)(const ssm_conv *s) {
    return ssm_run_units(s, NAME(conv_units)(s), s->workers, NAME(conv_cost)(s), NAME(conv_scratch)(s), NAME(conv_fwd_unit));
}

int NAME(ssm_conv_bwd)(const ssm_conv *s) {
    return ssm_run_units(s, NAME(conv_units)(s), s->workers, 3 * NAME(conv_cost)(s), NAME(conv_scratch)(s),
                         NAME(conv_bwd_unit));
}
