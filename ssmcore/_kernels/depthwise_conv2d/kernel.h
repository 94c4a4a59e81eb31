/* Depthwise 3x3 convolution with SiLU for one instruction set and one type; see ops/depthwise_conv2d.md.
 *
 * A unit of work is one batch entry and the 16 channels of a cache line. Channels lie in the lanes; the grid is walked in strips
 * of rows that stay in the second-level cache, with a border of zeros around the grid, so that no position is special.
 */
#include "api.h"
#include "lanes.h"
#include "units.h"

enum { NAME(DW_VECS) = 16 / VL ? 16 / VL : 1, NAME(DW_BYTES) = 1 << 17 };

/* Rows of a strip, without those it borrows from its neighbours. */
INLINE int64_t NAME(dw_rows)(const ssm_dwconv *s) {
    int64_t rows = NAME(DW_BYTES) / ((s->width + 2) * (int64_t)sizeof(vec));
    return rows < 1 ? 1 : rows < s->height ? rows : s->height;
}

/* Rows [y0, y1) with a column before and after them, zeros where the grid has none. */
INLINE void NAME(open_strip)(vec *strip, const ssm_grid *x, const ssm_dwconv *s, int64_t b, int64_t c, int64_t lanes, int64_t y0,
                             int64_t y1) {
    int64_t wide = s->width + 2;
    for (int64_t y = y0; y < y1; y++, strip += wide) {
        if (y < 0 || y >= s->height) {
            __builtin_memset(strip, 0, wide * sizeof(vec));
            continue;
        }
        const REAL *p = (const REAL *)x->data + b * x->batch + y * x->row + c * x->dim;
        strip[0] = strip[wide - 1] = (vec){0};
        if (x->dim == 1)
            for (int64_t i = 0; i < s->width; i++) strip[i + 1] = NAME(lanes_of)(p, i * x->column, lanes);
        else
            for (int64_t i = 0; i < s->width; i++) {
                vec value = {0};
                for (int64_t d = 0; d < lanes; d++) value[d] = p[i * x->column + d * x->dim];
                strip[i + 1] = value;
            }
    }
}

INLINE void NAME(put)(const ssm_grid *x, int64_t b, int64_t y, int64_t i, int64_t c, vec value, int64_t lanes) {
    REAL *p = (REAL *)x->data + b * x->batch + y * x->row + i * x->column + c * x->dim;
    if (x->dim == 1 && lanes == VL) NAME(write)(p, value);
    else
        for (int64_t d = 0; d < lanes; d++) p[d * x->dim] = value[d];
}

/* start + sum over the 3x3 neighbours of a position, whose first is at `x`. */
INLINE vec NAME(around)(const vec *x, int64_t wide, const vec *weight, vec start) {
    vec odd = {0};
    for (int i = 0; i < 3; i++) {
        start += weight[3 * i] * x[i * wide] + weight[3 * i + 2] * x[i * wide + 2];
        odd += weight[3 * i + 1] * x[i * wide + 1];
    }
    return start + odd;
}

INLINE void NAME(dw_unit)(const ssm_dwconv *s, int64_t index, int64_t *b, int64_t *c0, int64_t *c1) {
    int64_t channels = NAME(DW_VECS) * VL, blocks = (s->dim + channels - 1) / channels;
    *b = index / blocks;
    *c0 = index % blocks * channels;
    *c1 = *c0 + channels < s->dim ? *c0 + channels : s->dim;
}

/* Positions t to t + count of a row of the output, `x` being at the first neighbour of the row's first position. */
INLINE void NAME(dw_forward)(const int count, int64_t t, const ssm_dwconv *s, const vec *x, int64_t wide, const vec *weight,
                             vec bias, int64_t b, int64_t y, int64_t c, int64_t lanes) {
    vec sum[ABREAST], gate[ABREAST];
    EACH sum[i] = NAME(around)(x + t + i, wide, weight, bias);
    if (s->silu) {
        EACH gate[i] = sum[i];
        NAME(sigmoid)(count, gate);
        EACH sum[i] *= gate[i];
    }
    EACH NAME(put)(&s->out, b, y, t + i, c, sum[i], lanes);
}

/* The gradient of the same positions, of the output in `dy`, becomes that of the sum before SiLU. */
INLINE void NAME(dw_through_silu)(const int count, int64_t t, vec *dy, const vec *x, int64_t wide, const vec *weight, vec bias) {
    vec sum[ABREAST], gate[ABREAST];
    EACH gate[i] = sum[i] = NAME(around)(x + t + i, wide, weight, bias);
    NAME(sigmoid)(count, gate);
    EACH dy[t + i] *= gate[i] * (1 + sum[i] * (1 - gate[i]));
}

static int64_t NAME(dw_scratch)(const ssm_dwconv *s) {
    return (2 * NAME(dw_rows)(s) + 6) * (s->width + 2) * sizeof(vec) + 32 * sizeof(vec) + 512;
}

static void NAME(dw_fwd_unit)(const void *task, int64_t index, char *arena) {
    const ssm_dwconv *s = task;
    int64_t b, c0, c1, rows = NAME(dw_rows)(s), wide = s->width + 2;
    NAME(dw_unit)(s, index, &b, &c0, &c1);
    vec *weight = ARENA(arena, vec, 9);
    vec *x = ARENA(arena, vec, (rows + 2) * wide);
    for (int64_t c = c0; c < c1; c += VL) {
        int64_t lanes = c1 - c < VL ? c1 - c : VL;
        vec bias = NAME(lanes_of)(s->bias, c, lanes);
        NAME(load_rows)(weight, (const REAL *)s->weight + 9 * c, 9, lanes);
        for (int64_t y0 = 0; y0 < s->height; y0 += rows) {
            int64_t y1 = y0 + rows < s->height ? y0 + rows : s->height;
            NAME(open_strip)(x, &s->x, s, b, c, lanes, y0 - 1, y1 + 1);
            for (int64_t y = y0; y < y1; y++) {
                const vec *row = x + (y - y0) * wide;
#define POSITIONS(count, t) NAME(dw_forward)(count, t, s, row, wide, weight, bias, b, y, c, lanes)
                TILE(s->width, POSITIONS);
#undef POSITIONS
            }
        }
    }
}

static void NAME(dw_bwd_unit)(const void *task, int64_t index, char *arena) {
    const ssm_dwconv *s = task;
    int64_t b, c0, c1, rows = NAME(dw_rows)(s), wide = s->width + 2;
    NAME(dw_unit)(s, index, &b, &c0, &c1);
    vec *weight = ARENA(arena, vec, 9);
    vec *flipped = ARENA(arena, vec, 9);
    vec *x = ARENA(arena, vec, (rows + 4) * wide);
    vec *dy = ARENA(arena, vec, (rows + 2) * wide); /* of the sum before SiLU */
    for (int64_t c = c0; c < c1; c += VL) {
        int64_t lanes = c1 - c < VL ? c1 - c : VL, row = b * s->dim + c;
        vec bias = NAME(lanes_of)(s->bias, c, lanes), dbias = {0}, dweight[9] = {{0}};
        NAME(load_rows)(weight, (const REAL *)s->weight + 9 * c, 9, lanes);
        for (int k = 0; k < 9; k++) flipped[k] = weight[8 - k];
        for (int64_t y0 = 0; y0 < s->height; y0 += rows) {
            int64_t y1 = y0 + rows < s->height ? y0 + rows : s->height;
            NAME(open_strip)(x, &s->x, s, b, c, lanes, y0 - 2, y1 + 2);
            NAME(open_strip)(dy, &s->dout, s, b, c, lanes, y0 - 1, y1 + 1);
            if (s->silu)
                for (int64_t y = y0 - (y0 > 0); y < y1 + (y1 < s->height); y++) {
                    int64_t at = (y - y0 + 1) * wide;
#define POSITIONS(count, t) NAME(dw_through_silu)(count, t, dy + at + 1, x + at, wide, weight, bias)
                    TILE(s->width, POSITIONS);
#undef POSITIONS
                }
            for (int64_t y = 0; y < y1 - y0; y++)
                for (int64_t i = 0; i < s->width; i++) {
                    vec p = dy[(y + 1) * wide + i + 1];
                    dbias += p;
#pragma GCC unroll 9
                    for (int k = 0; k < 9; k++) dweight[k] += p * x[(y + 1 + k / 3) * wide + i + k % 3];
                }
            for (int64_t y = 0; y < y1 - y0; y++)
                for (int64_t i = 0; i < s->width; i++)
                    NAME(put)(&s->dx, b, y0 + y, i, c, NAME(around)(dy + y * wide + i, wide, flipped, (vec){0}), lanes);
        }
        NAME(store_rows)(s->dweight, row, dweight, 9, lanes);
        if (s->dbias) __builtin_memcpy((REAL *)s->dbias + row, &dbias, lanes * sizeof(REAL));
    }
}

INLINE int64_t NAME(dw_units)(const ssm_dwconv *s) {
    int64_t channels = NAME(DW_VECS) * VL;
    return s->batch * ((s->dim + channels - 1) / channels);
}

INLINE int64_t NAME(dw_cost)(const ssm_dwconv *s) {
    return s->batch * s->dim * s->height * s->width * (9 + (s->silu ? 12 : 0));
}

int NAME(ssm_dwconv_fwd)(const ssm_dwconv *s) {
    return ssm_run_units(s, NAME(dw_units)(s), s->workers, NAME(dw_cost)(s), NAME(dw_scratch)(s), NAME(dw_fwd_unit));
}

int NAME(ssm_dwconv_bwd)(const ssm_dwconv *s) {
    return ssm_run_units(s, NAME(dw_units)(s), s->workers, 3 * NAME(dw_cost)(s), NAME(dw_scratch)(s),
                         NAME(dw_bwd_unit));
}
