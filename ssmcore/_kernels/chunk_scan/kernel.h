/* The scan of scalar decays by chunks of CHUNK steps, for one instruction set and one type; see ops/chunk_scan.md.
 *
 * A unit of work is one batch entry and a block of heads of one group. Within a chunk everything is a product of small matrices,
 * whose rows lie in the lanes; states are kept transposed, (dstate, headdim). Rows are padded with zeros to whole vectors and
 * chunks to whole blocks of ROWS, unless the caller's memory can be read as it is.
 */
#include "api.h"
#include "lanes.h"
#include "units.h"

#define ROWS 4
#define WIDE (VECTOR_BYTES == 64 ? 4 : 2) /* vectors of a row that are summed side by side */
#define PAD (VL > ROWS ? VL : ROWS)       /* entries of a row are made up to a multiple of it */

INLINE int64_t NAME(padded)(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

/* A product of matrices. Entry (i, k) of the left one is left[i * row + k * column], vector v of the right one's row k begins at
 * right + k * step + v * vector. Of a triangle, what lies beyond the diagonal is not touched: 0 times infinity would be seen. */
typedef struct {
    const REAL *left;
    int64_t row, column;
    const REAL *right;
    int64_t step, vector, inner;
    int shape;
} NAME(factors);

typedef struct {
    REAL *p;
    int64_t row;
} NAME(matrix);

/* sums[j] += left(i + j, k) right(k) for rows first <= j <= last. */
INLINE void NAME(add_step)(const int wide, const int first, const int last, vec (*sums)[WIDE], const NAME(factors) *f, int64_t i,
                           int64_t k, int64_t v) {
    const REAL *left = f->left + i * f->row + k * f->column, *right = f->right + k * f->step + v * f->vector;
    vec across[WIDE];
#pragma GCC unroll 4
    for (int c = 0; c < wide; c++) across[c] = NAME(read)(right + c * f->vector);
#pragma GCC unroll 4
    for (int j = first; j <= last; j++) {
        vec down = NAME(splat)(left[j * f->row]);
#pragma GCC unroll 4
        for (int c = 0; c < wide; c++) sums[j][c] += down * across[c];
    }
}

INLINE void NAME(add_product)(const int wide, vec (*sums)[WIDE], const NAME(factors) *at, int64_t i, int64_t v) {
    const NAME(factors) f = *at; /* strides in registers */
    if (f.shape == SSMCORE_UPPER) {
        NAME(add_step)(wide, 0, 0, sums, &f, i, i, v);
        NAME(add_step)(wide, 0, 1, sums, &f, i, i + 1, v);
        NAME(add_step)(wide, 0, 2, sums, &f, i, i + 2, v);
        NAME(add_step)(wide, 0, 3, sums, &f, i, i + 3, v);
    }
    const int64_t from = f.shape == SSMCORE_UPPER ? i + ROWS : 0, to = f.shape == SSMCORE_LOWER ? i : f.inner;
    for (int64_t k = from; k < to; k++) NAME(add_step)(wide, 0, ROWS - 1, sums, &f, i, k, v);
    if (f.shape == SSMCORE_LOWER) {
        NAME(add_step)(wide, 0, 3, sums, &f, i, i, v);
        NAME(add_step)(wide, 1, 3, sums, &f, i, i + 1, v);
        NAME(add_step)(wide, 2, 3, sums, &f, i, i + 2, v);
        NAME(add_step)(wide, 3, 3, sums, &f, i, i + 3, v);
    }
}

INLINE void NAME(product_tile)(const int wide, NAME(matrix) out, NAME(matrix) start, const REAL *scale,
                               const NAME(factors) *f, int count, int64_t i, int64_t v) {
    vec sums[ROWS][WIDE];
#pragma GCC unroll 4
    for (int j = 0; j < ROWS; j++)
#pragma GCC unroll 4
        for (int c = 0; c < wide; c++) {
            sums[j][c] = start.p ? NAME(read)(start.p + (i + j) * start.row + (v + c) * VL) : (vec){0};
            if (scale) sums[j][c] *= NAME(read)(scale + (v + c) * VL);
        }
    for (int n = 0; n < count; n++) NAME(add_product)(wide, sums, f + n, i, v);
#pragma GCC unroll 4
    for (int j = 0; j < ROWS; j++)
#pragma GCC unroll 4
        for (int c = 0; c < wide; c++) NAME(write)(out.p + (i + j) * out.row + (v + c) * VL, sums[j][c]);
}

/* Rows i to i + ROWS of start * scale + the sum of `count` products; start and scale may be NULL, start may be out. */
OUTLINE void NAME(product_rows)(NAME(matrix) out, NAME(matrix) start, const REAL *scale, const NAME(factors) *f, int count,
                                int64_t i, int64_t vecs) {
    int64_t v = 0;
    for (; v + WIDE <= vecs; v += WIDE) NAME(product_tile)(WIDE, out, start, scale, f, count, i, v);
    for (; v < vecs; v++) NAME(product_tile)(1, out, start, scale, f, count, i, v);
}

INLINE void NAME(product)(NAME(matrix) out, NAME(matrix) start, const REAL *scale, const NAME(factors) *f, int count,
                          int64_t rows, int64_t vecs) {
    for (int64_t i = 0; i < rows; i += ROWS) NAME(product_rows)(out, start, scale, f, count, i, vecs);
}

/* to[i] = scale[i] from[i], row by row. */
INLINE void NAME(scale_rows)(NAME(matrix) to, NAME(matrix) from, const REAL *scale, int64_t rows, int64_t vecs) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t v = 0; v < vecs; v++)
            NAME(write)(to.p + i * to.row + v * VL, scale[i] * NAME(read)(from.p + i * from.row + v * VL));
}

/* The columns of `from` in the lanes: vector v of row k at to + (v * columns + k) * VL, for k < columns; zeros up to a multiple of PAD. */
static void NAME(turn)(REAL *to, NAME(matrix) from, int64_t rows, int64_t columns, NAME(walk) *walk) {
    for (int64_t v = (rows + VL - 1) / VL; v < NAME(padded)(rows, PAD) / VL; v++)
        __builtin_memset(to + v * columns * VL, 0, columns * VL * sizeof(REAL));
    for (int64_t first = 0; first < columns; first += CHUNK) {
        NAME(walk_from)(walk, columns, columns, 0, first);
        for (int64_t v = 0; v * VL < rows; v++) {
            int64_t lanes = rows - v * VL < VL ? rows - v * VL : VL;
            NAME(load)((vec *)(to + (v * columns + first) * VL), from.p + v * VL * from.row, 1, from.row, walk, lanes);
        }
    }
}

/* The steps of a chunk of one head or group: the caller's memory, or a padded copy. */
INLINE NAME(matrix) NAME(chunk_rows)(REAL *copy, const ssm_rows *x, int64_t b, int64_t t0, int64_t head, int64_t steps,
                                     int64_t entries) {
    REAL *p = (REAL *)x->data + b * x->batch + t0 * x->time + head * x->head;
    if (steps % ROWS == 0 && entries % PAD == 0) return (NAME(matrix)){p, x->time};
    int64_t wide = NAME(padded)(entries, PAD);
    __builtin_memset(copy, 0, NAME(padded)(steps, ROWS) * wide * sizeof(REAL));
    for (int64_t t = 0; t < steps; t++) __builtin_memcpy(copy + t * wide, p + t * x->time, entries * sizeof(REAL));
    return (NAME(matrix)){copy, wide};
}

/* Where a chunk's result goes before `put_rows` has brought it home: home itself, or a padded copy. */
INLINE NAME(matrix) NAME(result_rows)(REAL *copy, REAL *home, int64_t stride, int64_t steps, int64_t entries) {
    if (steps % ROWS == 0 && entries % PAD == 0) return (NAME(matrix)){home, stride};
    return (NAME(matrix)){copy, NAME(padded)(entries, PAD)};
}

INLINE void NAME(put_rows)(REAL *home, int64_t stride, NAME(matrix) from, int64_t steps, int64_t entries) {
    if (from.p == home) return;
    for (int64_t t = 0; t < steps; t++)
        __builtin_memcpy(home + t * stride, from.p + t * from.row, entries * sizeof(REAL));
}

/* (headdim, dstate) as the caller has it, to (dstate, headdim) padded, and back. */
INLINE void NAME(open_state)(NAME(matrix) state, const void *from, int64_t index, int64_t headdim, int64_t dstate) {
    __builtin_memset(state.p, 0, NAME(padded)(dstate, PAD) * state.row * sizeof(REAL));
    if (!from) return;
    const REAL *p = (const REAL *)from + index * headdim * dstate;
    for (int64_t n = 0; n < dstate; n++)
        for (int64_t d = 0; d < headdim; d++) state.p[n * state.row + d] = p[d * dstate + n];
}

INLINE void NAME(close_state)(void *to, NAME(matrix) state, int64_t index, int64_t headdim, int64_t dstate) {
    REAL *p = (REAL *)to + index * headdim * dstate;
    for (int64_t d = 0; d < headdim; d++)
        for (int64_t n = 0; n < dstate; n++) p[d * dstate + n] = state.p[n * state.row + d];
}

/* The decays of a chunk of one head. `high` + `low` is the logarithm to base 2 of all decay up to a step, itself included. */
typedef struct {
    REAL dt[CHUNK], high[CHUNK], low[CHUNK];
    REAL since[CHUNK]; /* decay of the state before the chunk until a step */
    REAL until[CHUNK]; /* decay from a step until the chunk's last one */
    REAL whole;        /* that of the chunk */
} NAME(decays);

/* Whether step t knows nothing of those before it. */
INLINE int NAME(is_start)(const ssm_chunks *s, int64_t b, int64_t t) { return s->starts && t > 0 && s->starts[b * s->seqlen + t]; }

/* A chunk ends where a state is kept, and where a packed sequence ends: a factor of 0 between sequences would let infinity through. */
INLINE int64_t NAME(chunk_end)(const ssm_chunks *s, int64_t b, int64_t t0) {
    int64_t t = t0 + 1, end = (t0 / CHUNK + 1) * CHUNK;
    if (end > s->seqlen) end = s->seqlen;
    if (!s->starts) return end;
    while (t < end && !NAME(is_start)(s, b, t)) t++;
    return t;
}

INLINE int64_t NAME(chunk_start)(const ssm_chunks *s, int64_t b, int64_t end) {
    int64_t t = end - 1;
    if (!s->starts) return t / CHUNK * CHUNK;
    while (t % CHUNK && !NAME(is_start)(s, b, t)) t--;
    return t;
}

#define SSM_SMALLEST -1e5 /* a logarithm of a decay that is 0 in either type, and loses no digit in a sum of 64 */

static void NAME(decay)(NAME(decays) *d, const ssm_chunks *s, int64_t b, int64_t h, int64_t t0, int64_t steps) {
    int64_t count = NAME(padded)(steps, PAD);
    const REAL *dt = (const REAL *)s->dt + (b * s->seqlen + t0) * s->nheads + h;
    const double rate = (double)((const REAL *)s->A)[h] * 1.44269504088896340736;
    double total = 0;
    for (int64_t t = 0; t < count; t++) {
        d->dt[t] = t < steps ? dt[t * s->nheads] : 0;
        double log2 = d->dt[t] * rate;
        total += log2 < SSM_SMALLEST ? SSM_SMALLEST : log2;
        d->high[t] = (REAL)total;
        d->low[t] = (REAL)(total - d->high[t]);
    }
    REAL high = d->high[count - 1], low = d->low[count - 1];
    for (int64_t t = 0; t < count; t += VL) {
        vec up_to_here = NAME(read)(d->high + t), rest = NAME(read)(d->low + t);
        NAME(write)(d->since + t, NAME(exp2)(up_to_here + rest));
        NAME(write)(d->until + t, NAME(exp2)((high - up_to_here) + (low - rest)));
    }
    d->whole = d->since[count - 1];
}

INLINE ivec NAME(lanes_from)(int64_t first) {
    ivec lane;
    for (int k = 0; k < VL; k++) lane[k] = (INT)(first + k);
    return lane;
}

/* Row i of the decays between steps, exp(sum of logarithms of steps j + 1 to i), 0 where j > i. */
INLINE vec NAME(between)(const NAME(decays) *d, int64_t i, int64_t j) {
    ivec lane = NAME(lanes_from)(j);
    vec decay = NAME(exp2)((d->high[i] - NAME(read)(d->high + j)) + (d->low[i] - NAME(read)(d->low + j)));
    return NAME(select)(lane <= (INT)i, decay, (vec){0});
}

INLINE int64_t NAME(chunk_units)(const ssm_chunks *s) {
    int64_t heads = s->nheads / s->ngroups;
    return s->batch * s->ngroups * ((heads + s->block - 1) / s->block);
}

/* A unit's batch entry, group, block and heads [h0, h1). */
typedef struct {
    int64_t b, group, block, h0, h1;
} NAME(unit);

INLINE NAME(unit) NAME(unit_of)(const ssm_chunks *s, int64_t index) {
    int64_t heads = s->nheads / s->ngroups, blocks = (heads + s->block - 1) / s->block;
    NAME(unit) u = {index / (s->ngroups * blocks), index / blocks % s->ngroups, index % blocks, 0, 0};
    u.h0 = u.group * heads + u.block * s->block;
    u.h1 = u.block == blocks - 1 ? (u.group + 1) * heads : u.h0 + s->block;
    return u;
}

/* Scratch of a unit: matrices of CHUNK rows over heads' entries (x), over states (n) and over steps (q). */
typedef struct {
    NAME(walk) *walk;
    NAME(decays) *decays;
    REAL *states;                                        /* (block, dstate, headdim), padded */
    REAL *x_copy, *B_copy, *C_copy, *dout_copy, *out_copy; /* padded copies of what cannot be read as it lies */
    REAL *x_scaled, *n_scaled, *q, *between, *turned;
    REAL *scores, *dscores;                              /* C B', and its gradient */
    REAL *dB, *dC, *turned_state, *zeros, *scale;
} NAME(scratch);

static int64_t NAME(carve)(NAME(scratch) *m, const ssm_chunks *s, char *arena) {
    char *start = arena;
    int64_t x = NAME(padded)(s->headdim, PAD), n = NAME(padded)(s->dstate, PAD), widest = x > n ? x : n;
    m->walk = ARENA(arena, NAME(walk), 1);
    m->decays = ARENA(arena, NAME(decays), 1);
    m->states = ARENA(arena, REAL, s->block * n * x);
    REAL **over_x[] = {&m->x_copy, &m->dout_copy, &m->out_copy, &m->x_scaled};
    for (int i = 0; i < 4; i++) { *over_x[i] = ARENA(arena, REAL, CHUNK * x); }
    REAL **over_n[] = {&m->B_copy, &m->C_copy, &m->n_scaled, &m->dB, &m->dC};
    for (int i = 0; i < 5; i++) { *over_n[i] = ARENA(arena, REAL, CHUNK * n); }
    REAL **over_q[] = {&m->q, &m->between, &m->scores, &m->dscores};
    for (int i = 0; i < 4; i++) { *over_q[i] = ARENA(arena, REAL, CHUNK * CHUNK); }
    m->turned = ARENA(arena, REAL, CHUNK * widest);
    m->turned_state = ARENA(arena, REAL, n * x);
    m->zeros = ARENA(arena, REAL, n * x);
    m->scale = ARENA(arena, REAL, widest);
    return arena - start;
}

static const NAME(matrix) NAME(nothing) = {0, 0};

/* C B' of a chunk, as far as its lower triangle goes. */
static void NAME(score)(NAME(scratch) *m, NAME(matrix) B, NAME(matrix) C, int64_t dstate, int64_t count) {
    NAME(turn)(m->turned, B, count, dstate, m->walk);
    NAME(factors) f = {C.p, C.row, 1, m->turned, VL, dstate * VL, dstate, SSMCORE_FULL};
    for (int64_t i = 0; i < count; i += ROWS)
        NAME(product_rows)((NAME(matrix)){m->scores, CHUNK}, NAME(nothing), 0, &f, 1, i, (i + ROWS + VL - 1) / VL);
}

static void NAME(chunks_fwd_unit)(const void *task, int64_t index, char *arena) {
    const ssm_chunks *s = task;
    const NAME(unit) u = NAME(unit_of)(s, index);
    NAME(scratch) m;
    NAME(carve)(&m, s, arena);
    const int64_t headdim = s->headdim, dstate = s->dstate, nchunks = (s->seqlen + CHUNK - 1) / CHUNK;
    const int64_t x_wide = NAME(padded)(headdim, PAD), n_wide = NAME(padded)(dstate, PAD);
    const int64_t x_vecs = x_wide / VL, n_vecs = n_wide / VL, out_row = s->nheads * headdim;
    for (int64_t h = u.h0; h < u.h1; h++)
        NAME(open_state)((NAME(matrix)){m.states + (h - u.h0) * n_wide * x_wide, x_wide}, s->initial, u.b * s->nheads + h,
                         headdim, dstate);
    for (int64_t t0 = 0, end; t0 < s->seqlen; t0 = end) {
        end = NAME(chunk_end)(s, u.b, t0);
        int64_t steps = end - t0, count = NAME(padded)(steps, ROWS), fresh = NAME(is_start)(s, u.b, t0);
        NAME(matrix) B = NAME(chunk_rows)(m.B_copy, &s->B, u.b, t0, u.group, steps, dstate);
        NAME(matrix) C = NAME(chunk_rows)(m.C_copy, &s->C, u.b, t0, u.group, steps, dstate);
        NAME(score)(&m, B, C, dstate, count);
        for (int64_t h = u.h0; h < u.h1; h++) {
            NAME(decays) *d = m.decays;
            NAME(matrix) state = {m.states + (h - u.h0) * n_wide * x_wide, x_wide};
            NAME(matrix) x = NAME(chunk_rows)(m.x_copy, &s->x, u.b, t0, h, steps, headdim);
            REAL *home = (REAL *)s->out + ((u.b * s->seqlen + t0) * s->nheads + h) * headdim;
            NAME(matrix) out = NAME(result_rows)(m.out_copy, home, out_row, steps, headdim);
            NAME(decay)(d, s, u.b, h, t0, steps);
            if (s->kept && t0 % CHUNK == 0)
                NAME(put_rows)((REAL *)s->kept + ((u.b * nchunks + t0 / CHUNK) * s->nheads + h) * dstate * headdim, headdim, state,
                               dstate, headdim);
            if (fresh) __builtin_memset(state.p, 0, n_wide * x_wide * sizeof(REAL));
            for (int64_t i = 0; i < count; i++)
                for (int64_t j = 0; j < i / ROWS * ROWS + ROWS; j += VL)
                    NAME(write)(m.q + i * CHUNK + j, NAME(between)(d, i, j) * NAME(read)(d->dt + j) *
                                                         NAME(read)(m.scores + i * CHUNK + j));
            NAME(matrix) scaled_C = {m.n_scaled, n_wide}, scaled_x = {m.x_scaled, x_wide};
            NAME(scale_rows)(scaled_C, C, d->since, count, n_vecs);
            NAME(factors) sums[] = {{scaled_C.p, scaled_C.row, 1, state.p, state.row, VL, dstate, SSMCORE_FULL},
                                    {m.q, CHUNK, 1, x.p, x.row, VL, count, SSMCORE_LOWER}};
            if (s->D) {
                __builtin_memset(m.scale, 0, x_wide * sizeof(REAL));
                __builtin_memcpy(m.scale, (const REAL *)s->D + h * headdim, headdim * sizeof(REAL));
            }
            NAME(product)(out, s->D ? x : NAME(nothing), s->D ? m.scale : 0, sums, 2, count, x_vecs);
            NAME(put_rows)(home, out_row, out, steps, headdim);
            REAL weight[CHUNK];
            for (int64_t t = 0; t < count; t++) weight[t] = d->until[t] * d->dt[t];
            NAME(scale_rows)(scaled_x, x, weight, count, x_vecs);
            for (int64_t i = 0; i < x_wide; i++) m.scale[i] = d->whole;
            NAME(factors) update = {B.p, 1, B.row, scaled_x.p, scaled_x.row, VL, count, SSMCORE_FULL};
            NAME(product)(state, state, m.scale, &update, 1, n_wide, x_vecs);
        }
    }
    for (int64_t h = u.h0; h < u.h1; h++)
        NAME(close_state)(s->last, (NAME(matrix)){m.states + (h - u.h0) * n_wide * x_wide, x_wide}, u.b * s->nheads + h, headdim,
                          dstate);
}

/* Lanes moved up by `width`, zeros below. */
INLINE vec NAME(moved_up)(const int width, vec x) {
#if defined(__clang__)
    vec y = {0};
    for (int i = width; i < VL; i++) y[i] = x[i - width];
    return y;
#else
    ivec from;
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) from[i] = i < width ? i : VL + i - width;
    return __builtin_shuffle((vec){0}, x, from);
#endif
}

/* Every lane with all lanes below it added. */
INLINE vec NAME(running_sum)(vec x) {
    x += NAME(moved_up)(1, x);
    if (VL > 2) x += NAME(moved_up)(2 % VL, x);
    if (VL > 4) x += NAME(moved_up)(4 % VL, x);
    if (VL > 8) x += NAME(moved_up)(8 % VL, x);
    return x;
}

/* to[i] = the inner product of rows i of x and y. Also written: what lies between `rows` and the next multiple of VL. */
static void NAME(row_products)(REAL *to, NAME(matrix) x, NAME(matrix) y, int64_t rows, int64_t vecs) {
    vec sums[CHUNK];
    for (int64_t i = 0; i < rows; i++) {
        sums[i] = (vec){0};
        for (int64_t v = 0; v < vecs; v++)
            sums[i] += NAME(read)(x.p + i * x.row + v * VL) * NAME(read)(y.p + i * y.row + v * VL);
    }
    for (int64_t i = rows; i % VL; i++) sums[i] = (vec){0};
    for (int64_t i = 0; i < rows; i += VL) NAME(write)(to + i, NAME(lane_sums)(sums + i));
}

/* The sum of x y over rows of which the last may not fill a vector. */
static double NAME(inner_product)(NAME(matrix) x, NAME(matrix) y, int64_t rows, int64_t entries) {
    vec sum = {0};
    double total = 0;
    for (int64_t i = 0; i < rows; i++) {
        const REAL *p = x.p + i * x.row, *q = y.p + i * y.row;
        int64_t e = 0;
        for (; e + VL <= entries; e += VL) sum += NAME(read)(p + e) * NAME(read)(q + e);
        for (; e < entries; e++) total += p[e] * q[e];
    }
    for (int k = 0; k < VL; k++) total += sum[k];
    return total;
}

static void NAME(chunks_bwd_unit)(const void *task, int64_t index, char *arena) {
    const ssm_chunks *s = task;
    const NAME(unit) u = NAME(unit_of)(s, index);
    NAME(scratch) m;
    NAME(carve)(&m, s, arena);
    const int64_t headdim = s->headdim, dstate = s->dstate, nchunks = (s->seqlen + CHUNK - 1) / CHUNK;
    const int64_t x_wide = NAME(padded)(headdim, PAD), n_wide = NAME(padded)(dstate, PAD);
    const int64_t x_vecs = x_wide / VL, n_vecs = n_wide / VL, out_row = s->nheads * headdim;
    REAL *dD = s->dD;
    __builtin_memset(m.zeros, 0, n_wide * x_wide * sizeof(REAL));
    for (int64_t h = u.h0; h < u.h1; h++) {
        NAME(open_state)((NAME(matrix)){m.states + (h - u.h0) * n_wide * x_wide, x_wide}, s->dlast, u.b * s->nheads + h, headdim,
                         dstate);
        ((REAL *)s->dA)[u.b * s->nheads + h] = 0;
        if (dD) __builtin_memset(dD + (u.b * s->nheads + h) * headdim, 0, headdim * sizeof(REAL));
    }
    for (int64_t end = s->seqlen, t0; end > 0; end = t0) {
        t0 = NAME(chunk_start)(s, u.b, end);
        int64_t steps = end - t0, count = NAME(padded)(steps, ROWS), fresh = NAME(is_start)(s, u.b, t0);
        NAME(matrix) B = NAME(chunk_rows)(m.B_copy, &s->B, u.b, t0, u.group, steps, dstate);
        NAME(matrix) C = NAME(chunk_rows)(m.C_copy, &s->C, u.b, t0, u.group, steps, dstate);
        NAME(matrix) dB = {m.dB, n_wide}, dC = {m.dC, n_wide};
        __builtin_memset(dB.p, 0, count * n_wide * sizeof(REAL));
        __builtin_memset(dC.p, 0, count * n_wide * sizeof(REAL));
        NAME(score)(&m, B, C, dstate, count);
        for (int64_t h = u.h0; h < u.h1; h++) {
            NAME(decays) *d = m.decays;
            REAL ddt[CHUNK], across[CHUNK], from_before[CHUNK], to_after[CHUNK], weight[CHUNK];
            NAME(matrix) dstate_after = {m.states + (h - u.h0) * n_wide * x_wide, x_wide};
            NAME(matrix) x = NAME(chunk_rows)(m.x_copy, &s->x, u.b, t0, h, steps, headdim);
            NAME(matrix) dout = NAME(chunk_rows)(m.dout_copy, &s->dout, u.b, t0, h, steps, headdim);
            NAME(decay)(d, s, u.b, h, t0, steps);

            /* within the chunk: gradients of the scores, of dt, and, `across` a step, of the decays from before it to it and after */
            NAME(turn)(m.turned, x, count, headdim, m.walk);
            NAME(factors) pairs = {dout.p, dout.row, 1, m.turned, VL, headdim * VL, headdim, SSMCORE_FULL};
            vec by_dt[CHUNK / VL], by_step[CHUNK / VL];
            for (int64_t v = 0; v < CHUNK / VL; v++) by_dt[v] = by_step[v] = (vec){0};
            for (int64_t i = 0; i < count; i++) {
                if (i % ROWS == 0)
                    NAME(product_rows)((NAME(matrix)){m.dscores, CHUNK}, NAME(nothing), 0, &pairs, 1, i, (i + ROWS + VL - 1) / VL);
                vec before = {0};
                for (int64_t j = 0; j < i / ROWS * ROWS + ROWS; j += VL) {
                    REAL *dq = m.dscores + i * CHUNK + j;
                    vec decay = NAME(between)(d, i, j), dt = NAME(read)(d->dt + j), of = NAME(read)(dq);
                    vec without_dt = decay * NAME(read)(m.scores + i * CHUNK + j), part = NAME(select)(decay != 0, of * without_dt, (vec){0});
                    NAME(write)(m.q + i * CHUNK + j, without_dt * dt);
                    NAME(write)(dq, of * decay * dt);
                    by_dt[j / VL] += part;
                    vec sums = NAME(running_sum)(part * dt), upto = before + NAME(moved_up)(1, sums);
                    by_step[j / VL] += NAME(select)(NAME(lanes_from)(j) <= (INT)i, upto, (vec){0});
                    before += sums[VL - 1];
                }
            }
            for (int64_t i = 0; i < count; i += VL) {
                NAME(write)(across + i, by_step[i / VL]);
                NAME(write)(ddt + i, by_dt[i / VL]);
            }

            /* what the state before the chunk gave to its steps */
            const REAL *kept = (const REAL *)s->kept + ((u.b * nchunks + t0 / CHUNK) * s->nheads + h) * dstate * headdim;
            if (fresh) kept = m.zeros;
            NAME(matrix) scaled_dout = {m.x_scaled, x_wide}, dn = {m.n_scaled, n_wide};
            NAME(scale_rows)(scaled_dout, dout, d->since, count, x_vecs);
            NAME(turn)(m.turned_state, (NAME(matrix)){(REAL *)kept, headdim}, dstate, headdim, m.walk);
            NAME(factors) back = {scaled_dout.p, scaled_dout.row, 1, m.turned_state, VL, headdim * VL, headdim, SSMCORE_FULL};
            NAME(product)(dn, NAME(nothing), 0, &back, 1, count, n_vecs);
            NAME(row_products)(from_before, C, dn, count, n_vecs);
            NAME(factors) through_B = {m.dscores, CHUNK, 1, B.p, B.row, VL, count, SSMCORE_LOWER};
            for (int64_t i = 0; i < count; i++)
                for (int64_t v = 0; v < n_vecs; v++)
                    NAME(write)(dC.p + i * n_wide + v * VL, NAME(read)(dC.p + i * n_wide + v * VL) + NAME(read)(dn.p + i * n_wide + v * VL));
            NAME(product)(dC, dC, 0, &through_B, 1, count, n_vecs);

            /* what the steps gave to the state after the chunk */
            NAME(matrix) scaled_x = {m.x_scaled, x_wide};
            NAME(scale_rows)(scaled_x, x, d->until, count, x_vecs);
            NAME(turn)(m.turned_state, dstate_after, dstate, headdim, m.walk);
            NAME(factors) given = {scaled_x.p, scaled_x.row, 1, m.turned_state, VL, headdim * VL, headdim, SSMCORE_FULL};
            NAME(product)(dn, NAME(nothing), 0, &given, 1, count, n_vecs);
            NAME(row_products)(to_after, B, dn, count, n_vecs);
            for (int64_t j = 0; j < count; j++) {
                ddt[j] += to_after[j];
                to_after[j] *= d->dt[j];
                for (int64_t v = 0; v < n_vecs; v++)
                    NAME(write)(dB.p + j * n_wide + v * VL,
                                NAME(read)(dB.p + j * n_wide + v * VL) + d->dt[j] * NAME(read)(dn.p + j * n_wide + v * VL));
            }
            NAME(factors) through_C = {m.dscores, 1, CHUNK, C.p, C.row, VL, count, SSMCORE_UPPER};
            NAME(product)(dB, dB, 0, &through_C, 1, count, n_vecs);
            const double through = d->whole * NAME(inner_product)((NAME(matrix)){(REAL *)kept, headdim}, dstate_after, dstate, headdim);

            /* the input's gradient, then that of the state before the chunk */
            NAME(matrix) scaled_B = {m.n_scaled, n_wide};
            for (int64_t t = 0; t < count; t++) weight[t] = d->until[t] * d->dt[t];
            NAME(scale_rows)(scaled_B, B, weight, count, n_vecs);
            NAME(factors) sums[] = {{scaled_B.p, scaled_B.row, 1, dstate_after.p, dstate_after.row, VL, dstate, SSMCORE_FULL},
                                    {m.q, 1, CHUNK, dout.p, dout.row, VL, count, SSMCORE_UPPER}};
            if (s->D) {
                __builtin_memset(m.scale, 0, x_wide * sizeof(REAL));
                __builtin_memcpy(m.scale, (const REAL *)s->D + h * headdim, headdim * sizeof(REAL));
                REAL *row = dD + (u.b * s->nheads + h) * headdim;
                for (int64_t t = 0; t < steps; t++)
                    for (int64_t e = 0; e < headdim; e++) row[e] += dout.p[t * dout.row + e] * x.p[t * x.row + e];
            }
            REAL *home = (REAL *)s->dx + ((u.b * s->seqlen + t0) * s->nheads + h) * headdim;
            NAME(matrix) dx = NAME(result_rows)(m.out_copy, home, out_row, steps, headdim);
            NAME(product)(dx, s->D ? dout : NAME(nothing), s->D ? m.scale : 0, sums, 2, count, x_vecs);
            NAME(put_rows)(home, out_row, dx, steps, headdim);
            NAME(scale_rows)((NAME(matrix)){m.n_scaled, n_wide}, C, d->since, count, n_vecs);
            for (int64_t e = 0; e < x_wide; e++) m.scale[e] = d->whole;
            NAME(factors) into = {m.n_scaled, 1, n_wide, dout.p, dout.row, VL, count, SSMCORE_FULL};
            NAME(product)(dstate_after, dstate_after, m.scale, &into, 1, n_wide, x_vecs);
            if (fresh) __builtin_memset(dstate_after.p, 0, n_wide * x_wide * sizeof(REAL));

            /* a step's logarithm of decay: in the decays across it, into it and later ones from before the chunk, out of earlier ones
             * to after it, and through it all */
            const REAL rate = ((const REAL *)s->A)[h];
            REAL *to = (REAL *)s->ddt + (u.b * s->seqlen + t0) * s->nheads + h, *dA = (REAL *)s->dA + u.b * s->nheads + h;
            double out_of_earlier = through, later = 0, sum = 0, dlog[CHUNK];
            for (int64_t t = 0; t < steps; t++) {
                dlog[t] = out_of_earlier + across[t];
                out_of_earlier += to_after[t];
            }
            for (int64_t t = steps; t-- > 0;) {
                later += from_before[t];
                dlog[t] += later;
                to[t * s->nheads] = ddt[t] + (REAL)(dlog[t] * rate);
                sum += dlog[t] * d->dt[t];
            }
            *dA += (REAL)sum;
        }
        int64_t at = ((u.block * s->batch + u.b) * s->seqlen + t0) * s->ngroups + u.group, row = s->ngroups * dstate;
        NAME(put_rows)((REAL *)s->dB + at * dstate, row, dB, steps, dstate);
        NAME(put_rows)((REAL *)s->dC + at * dstate, row, dC, steps, dstate);
    }
    for (int64_t h = u.h0; h < u.h1; h++)
        NAME(close_state)(s->dinitial, (NAME(matrix)){m.states + (h - u.h0) * n_wide * x_wide, x_wide}, u.b * s->nheads + h,
                          headdim, dstate);
}

INLINE int64_t NAME(chunks_cost)(const ssm_chunks *s) {
    return s->batch * s->nheads * s->seqlen * s->headdim * (2 * s->dstate + CHUNK / 2);
}

int NAME(ssm_chunks_fwd)(const ssm_chunks *s) {
    NAME(scratch) m;
    return ssm_run_units(s, NAME(chunk_units)(s), s->workers, NAME(chunks_cost)(s), NAME(carve)(&m, s, 0),
                         NAME(chunks_fwd_unit));
}

int NAME(ssm_chunks_bwd)(const ssm_chunks *s) {
    NAME(scratch) m;
    return ssm_run_units(s, NAME(chunk_units)(s), s->workers, 3 * NAME(chunks_cost)(s), NAME(carve)(&m, s, 0),
                         NAME(chunks_bwd_unit));
}

#undef ROWS
#undef WIDE
#undef PAD
