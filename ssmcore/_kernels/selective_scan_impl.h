/* Selective scan for one instruction set and one type; see ops/selective_scan.md for the derivation.
 *
 * A unit of work is one batch entry, one group, up to SSMCORE_BLOCK of its channels. Channels lie in the lanes, time is
 * walked in tiles of CHUNK steps that live in the first-level cache, and within a tile the state dimension is walked in
 * blocks held in registers. Lanes beyond the last channel hold zeros.
 */
#include "vecmath.h"

#define CHUNK SSMCORE_CHUNK
#define BLOCK_VECS (SSMCORE_BLOCK / VL)

typedef struct {
    vec u[CHUNK], dt[CHUNK], dtu[CHUNK], z[CHUNK], y[CHUNK];
} NAME(tile);

/* ---- between strided memory and tiles [step][lane] ---- */

INLINE void NAME(load)(vec *tile, const REAL *p, int64_t time, int64_t dim, int64_t steps, int64_t lanes) {
    if (dim == 1 && lanes == VL) {
        for (int64_t t = 0; t < steps; t++) __builtin_memcpy(&tile[t], p + t * time, sizeof(vec));
        return;
    }
    REAL *flat = (REAL *)tile;
    if (lanes < VL) __builtin_memset(tile, 0, steps * sizeof(vec));
    if (time == 1) {
        for (int64_t d = 0; d < lanes; d++)
            for (int64_t t = 0; t < steps; t++) flat[t * VL + d] = p[d * dim + t];
        return;
    }
    for (int64_t t = 0; t < steps; t++)
        for (int64_t d = 0; d < lanes; d++) flat[t * VL + d] = p[t * time + d * dim];
}

INLINE void NAME(store)(REAL *p, const vec *tile, int64_t time, int64_t dim, int64_t steps, int64_t lanes) {
    if (dim == 1 && lanes == VL) {
        for (int64_t t = 0; t < steps; t++) __builtin_memcpy(p + t * time, &tile[t], sizeof(vec));
        return;
    }
    const REAL *flat = (const REAL *)tile;
    if (time == 1) {
        for (int64_t d = 0; d < lanes; d++)
            for (int64_t t = 0; t < steps; t++) p[d * dim + t] = flat[t * VL + d];
        return;
    }
    for (int64_t t = 0; t < steps; t++)
        for (int64_t d = 0; d < lanes; d++) p[t * time + d * dim] = flat[t * VL + d];
}

/* Per-channel rows of (dim, dstate) arrays as [state][lane]. */
INLINE void NAME(load_state)(vec *state, const REAL *p, int64_t dstate, int64_t lanes) {
    if (p) NAME(load)(state, p, 1, dstate, dstate, lanes);
    else __builtin_memset(state, 0, dstate * sizeof(vec));
}

INLINE void NAME(load_matrix)(REAL *tile, const ssm_matrix *m, int64_t b, int64_t g, int64_t t0, int64_t steps,
                              int64_t dstate) {
    const REAL *p = (const REAL *)m->data + b * m->batch + t0 * m->time + g * m->group;
    for (int64_t t = 0; t < steps; t++)
        for (int64_t n = 0; n < dstate; n++) tile[t * dstate + n] = p[t * m->time + n * m->state];
}

/* ---- one step of the discretised system ---- */

/* `a` is A for bilinear and zoh and A log2(e) for mamba. kept[0..2] is what the backward pass wants again:
 * mamba: A_bar; bilinear: 1/(1 - x/2); zoh: A_bar, phi, phi'. Input enters as gain * (delta B u). */
INLINE vec NAME(a_bar)(const int disc, vec dt, vec a, vec *gain, vec *kept) {
    if (disc == SSMCORE_MAMBA) {
        kept[0] = NAME(exp2)(dt * a);
        return kept[0];
    }
    if (disc == SSMCORE_BILINEAR) {
        vec half = dt * a * (REAL)0.5;
        vec q = RECIPROCAL(1 - half);
        kept[0] = q;
        *gain = q;
        return (1 + half) * q;
    }
    vec x = dt * a;
    NAME(exp_phi)(x, &kept[0], &kept[1], &kept[2]);
    *gain = kept[1];
    return kept[0];
}

#define KEPT(disc) ((disc) == SSMCORE_ZOH ? 3 : 1)

typedef struct {
    const REAL *B, *C;   /* varying: [step][dstate], broadcast; offset to the first state of the block */
    const vec *Bv, *Cv;  /* constant: [state][lane], used when not NULL */
    int64_t dstate;
} NAME(bc);

INLINE NAME(bc) NAME(from_state)(NAME(bc) all, int64_t n) {
    return (NAME(bc)){all.B + n, all.C + n, all.Bv ? all.Bv + n : 0, all.Cv ? all.Cv + n : 0, all.dstate};
}

/* ---- forward ---- */

INLINE void NAME(fwd_states)(const int disc, const int nb, const int constant, NAME(tile) *tile, const vec *A, vec *state,
                             NAME(bc) bc, int64_t steps) {
    vec h[16];
#pragma GCC unroll 16
    for (int n = 0; n < nb; n++) h[n] = state[n];
    for (int64_t t = 0; t < steps; t++) {
        vec dt = tile->dt[t], dtu = tile->dtu[t], y = tile->y[t], y_odd = {0};
        const REAL *B = bc.B + t * bc.dstate, *C = bc.C + t * bc.dstate;
#pragma GCC unroll 16
        for (int n = 0; n < nb; n++) {
            vec gain, kept[3];
            vec a = NAME(a_bar)(disc, dt, A[n], &gain, kept);
            vec input = constant && bc.Bv ? dtu * bc.Bv[n] : dtu * B[n];
            if (disc != SSMCORE_MAMBA) input *= gain;
            h[n] = a * h[n] + input;
            vec term = constant && bc.Cv ? bc.Cv[n] * h[n] : C[n] * h[n];
            if (n & 1) y_odd += term;
            else y += term;
        }
        tile->y[t] = y + y_odd;
    }
#pragma GCC unroll 16
    for (int n = 0; n < nb; n++) state[n] = h[n];
}

/* A wide block (WIDE_STATES) holds its states in registers; what is left over is walked by fours and ones. */
#define WIDE_STATES (VL * sizeof(REAL) == 64 ? 16 : 8)
#define WALK_STATES(body)                                                       \
    do {                                                                        \
        int64_t n = 0;                                                          \
        for (; n + WIDE_STATES <= dstate; n += WIDE_STATES) body(WIDE_STATES);  \
        for (; n + 4 <= dstate; n += 4) body(4);                                \
        for (; n < dstate; n++) body(1);                                        \
    } while (0)

static void NAME(fwd_tile)(int disc, int constant, NAME(tile) *tile, const vec *A, vec *state, NAME(bc) all, int64_t steps) {
    int64_t dstate = all.dstate;
#define FWD(nb) NAME(fwd_states)(DISC, nb, CONSTANT, tile, A + n, state + n, NAME(from_state)(all, n), steps)
#define CONSTANT 0
    if (!constant) {
#define DISC SSMCORE_MAMBA
        if (disc == SSMCORE_MAMBA) WALK_STATES(FWD);
#undef DISC
#define DISC SSMCORE_BILINEAR
        if (disc == SSMCORE_BILINEAR) WALK_STATES(FWD);
#undef DISC
#define DISC SSMCORE_ZOH
        if (disc == SSMCORE_ZOH) WALK_STATES(FWD);
#undef DISC
        return;
    }
#undef CONSTANT
#define CONSTANT 1
#define DISC disc
    for (int64_t n = 0; n < dstate; n++) FWD(1);
#undef DISC
#undef CONSTANT
#undef FWD
}

/* Reads u and delta, applies bias and softplus. */
INLINE void NAME(open_tile)(NAME(tile) *tile, const ssm_scan *s, int64_t b, int64_t t0, int64_t c, int64_t steps,
                            int64_t lanes, vec bias) {
    NAME(load)(tile->u, (const REAL *)s->u.data + b * s->u.batch + t0 * s->u.time + c * s->u.dim, s->u.time, s->u.dim,
               steps, lanes);
    NAME(load)(tile->dt, (const REAL *)s->delta.data + b * s->delta.batch + t0 * s->delta.time + c * s->delta.dim,
               s->delta.time, s->delta.dim, steps, lanes);
    for (int64_t t = 0; t < steps; t++) {
        vec dt = tile->dt[t] + bias;
        if (s->delta_softplus) dt = NAME(softplus)(dt);
        tile->dt[t] = dt;
        tile->dtu[t] = dt * tile->u[t];
    }
}

INLINE vec NAME(lanes_of)(const void *p, int64_t c, int64_t lanes) {
    vec v = {0};
    if (p) __builtin_memcpy(&v, (const REAL *)p + c, lanes * sizeof(REAL));
    return v;
}

typedef struct {
    int64_t b, g, c0, c1, block; /* channels [c0, c1) */
} NAME(unit);

INLINE int64_t NAME(blocks)(const ssm_scan *s) {
    int64_t per_group = s->dim / s->ngroups;
    return (per_group + SSMCORE_BLOCK - 1) / SSMCORE_BLOCK;
}

INLINE NAME(unit) NAME(unit_at)(const ssm_scan *s, int64_t index) {
    int64_t per_group = s->dim / s->ngroups, nblocks = NAME(blocks)(s);
    NAME(unit) unit;
    unit.block = index % nblocks;
    unit.g = index / nblocks % s->ngroups;
    unit.b = index / nblocks / s->ngroups;
    unit.c0 = unit.g * per_group + unit.block * SSMCORE_BLOCK;
    int64_t end = (unit.g + 1) * per_group;
    unit.c1 = unit.c0 + SSMCORE_BLOCK < end ? unit.c0 + SSMCORE_BLOCK : end;
    return unit;
}

INLINE int64_t NAME(lanes_at)(const NAME(unit) *unit, int64_t v) {
    int64_t left = unit->c1 - unit->c0 - v * VL;
    return left < VL ? left : VL;
}

/* A, scaled for exp2 where the kernel wants it. */
INLINE void NAME(load_A)(vec *A, const ssm_scan *s, int64_t c, int64_t lanes) {
    NAME(load_state)(A, (const REAL *)s->A + c * s->dstate, s->dstate, lanes);
    if (s->discretization == SSMCORE_MAMBA)
        for (int64_t n = 0; n < s->dstate; n++) A[n] *= LOG2_E;
}

#define ARENA(arena, type, count) \
    (type *)arena;                \
    arena += ((count) * sizeof(type) + 63) / 64 * 64

static int64_t NAME(fwd_scratch)(const ssm_scan *s) {
    return sizeof(NAME(tile)) + (4 * BLOCK_VECS + 2) * s->dstate * sizeof(vec) + 2 * CHUNK * s->dstate * sizeof(REAL) + 1024;
}

static void NAME(fwd_unit)(const ssm_scan *s, NAME(unit) unit, char *arena) {
    int64_t dstate = s->dstate, vecs = (unit.c1 - unit.c0 + VL - 1) / VL;
    NAME(tile) *tile = ARENA(arena, NAME(tile), 1);
    vec *A = ARENA(arena, vec, BLOCK_VECS * dstate);
    vec *state = ARENA(arena, vec, BLOCK_VECS * dstate);
    vec *Bv = ARENA(arena, vec, BLOCK_VECS * dstate);
    vec *Cv = ARENA(arena, vec, BLOCK_VECS * dstate);
    REAL *B = ARENA(arena, REAL, CHUNK * dstate);
    REAL *C = ARENA(arena, REAL, CHUNK * dstate);
    int constant = s->B.constant || s->C.constant;
    for (int64_t v = 0; v < vecs; v++) {
        int64_t c = unit.c0 + v * VL, lanes = NAME(lanes_at)(&unit, v);
        const REAL *h0 = s->initial_state;
        NAME(load_A)(A + v * dstate, s, c, lanes);
        NAME(load_state)(state + v * dstate, h0 ? h0 + (unit.b * s->dim + c) * dstate : 0, dstate, lanes);
        if (s->B.constant) NAME(load_state)(Bv + v * dstate, (const REAL *)s->B.data + c * dstate, dstate, lanes);
        if (s->C.constant) NAME(load_state)(Cv + v * dstate, (const REAL *)s->C.data + c * dstate, dstate, lanes);
    }
    int64_t nchunks = (s->seqlen + CHUNK - 1) / CHUNK;
    for (int64_t t0 = 0; t0 < s->seqlen; t0 += CHUNK) {
        int64_t steps = s->seqlen - t0 < CHUNK ? s->seqlen - t0 : CHUNK;
        if (!s->B.constant) NAME(load_matrix)(B, &s->B, unit.b, unit.g, t0, steps, dstate);
        if (!s->C.constant) NAME(load_matrix)(C, &s->C, unit.b, unit.g, t0, steps, dstate);
        for (int64_t v = 0; v < vecs; v++) {
            int64_t c = unit.c0 + v * VL, lanes = NAME(lanes_at)(&unit, v);
            if (s->checkpoints) {
                REAL *kept = (REAL *)s->checkpoints + ((unit.b * nchunks + t0 / CHUNK) * dstate) * s->dim + c;
                NAME(store)(kept, state + v * dstate, s->dim, 1, dstate, lanes);
            }
            if (!s->out.data && t0 + CHUNK >= s->seqlen && !s->last_state) continue;
            NAME(open_tile)(tile, s, unit.b, t0, c, steps, lanes, NAME(lanes_of)(s->delta_bias, c, lanes));
            vec D = NAME(lanes_of)(s->D, c, lanes);
            for (int64_t t = 0; t < steps; t++) tile->y[t] = (vec){0};
            NAME(bc) bc = {B, C, s->B.constant ? Bv + v * dstate : 0, s->C.constant ? Cv + v * dstate : 0, dstate};
            NAME(fwd_tile)(s->discretization, constant, tile, A + v * dstate, state + v * dstate, bc, steps);
            if (!s->out.data) continue;
            if (s->D)
                for (int64_t t = 0; t < steps; t++) tile->y[t] += D * tile->u[t];
            if (s->z.data) {
                NAME(load)(tile->z, (const REAL *)s->z.data + unit.b * s->z.batch + t0 * s->z.time + c * s->z.dim,
                           s->z.time, s->z.dim, steps, lanes);
                for (int64_t t = 0; t < steps; t++) tile->y[t] *= tile->z[t] * NAME(sigmoid)(tile->z[t]);
            }
            NAME(store)((REAL *)s->out.data + unit.b * s->out.batch + t0 * s->out.time + c * s->out.dim, tile->y,
                        s->out.time, s->out.dim, steps, lanes);
        }
    }
    if (!s->last_state) return;
    for (int64_t v = 0; v < vecs; v++)
        NAME(store)((REAL *)s->last_state + (unit.b * s->dim + unit.c0 + v * VL) * dstate, state + v * dstate, 1, dstate,
                    dstate, NAME(lanes_at)(&unit, v));
}

/* ---- backward ---- */

/* What one (unit, chunk, vector) carries through its blocks of states. */
typedef struct {
    vec dy[CHUNK];   /* gradient of the recurrence's output, gate and D already undone */
    vec du[CHUNK];   /* D dy, then + delta * sum_n dh gain B */
    vec ddt[CHUNK];
    vec dz[CHUNK];
} NAME(dtile);

typedef struct {
    vec *h;    /* [CHUNK + 1][nb]: states before each step, and after the last */
    vec *kept; /* [CHUNK][nb][KEPT] */
    vec *dstate, *dA;           /* [nb] of this block */
    vec *dB, *dC;               /* varying: [CHUNK][dstate] lane sums over vectors; constant: [nb] */
} NAME(sweep);

INLINE void NAME(bwd_states)(const int disc, const int nb, const int constant, NAME(tile) *tile, NAME(dtile) *d,
                             const vec *A, const vec *checkpoint, NAME(bc) bc, NAME(sweep) w, int64_t steps) {
    const int nk = KEPT(disc);
    vec h[8], dh[8], dA[8];
#pragma GCC unroll 8
    for (int n = 0; n < nb; n++) h[n] = w.h[n] = checkpoint[n];
    for (int64_t t = 0; t < steps; t++) {
        vec dt = tile->dt[t], dtu = tile->dtu[t], y = tile->y[t];
        const REAL *B = bc.B + t * bc.dstate, *C = bc.C + t * bc.dstate;
#pragma GCC unroll 8
        for (int n = 0; n < nb; n++) {
            vec gain, *kept = w.kept + (t * nb + n) * nk;
            vec a = NAME(a_bar)(disc, dt, A[n], &gain, kept);
            vec input = constant && bc.Bv ? dtu * bc.Bv[n] : dtu * B[n];
            if (disc != SSMCORE_MAMBA) input *= gain;
            h[n] = a * h[n] + input;
            w.h[(t + 1) * nb + n] = h[n];
            y += constant && bc.Cv ? bc.Cv[n] * h[n] : C[n] * h[n];
        }
        tile->y[t] = y;
    }
#pragma GCC unroll 8
    for (int n = 0; n < nb; n++) {
        dh[n] = w.dstate[n];
        dA[n] = (vec){0};
    }
    for (int64_t t = steps; t-- > 0;) {
        vec dt = tile->dt[t], u = tile->u[t], dtu = tile->dtu[t], dy = d->dy[t], sum_B = {0}, sum_A = {0};
        const REAL *B = bc.B + t * bc.dstate, *C = bc.C + t * bc.dstate;
#pragma GCC unroll 8
        for (int n = 0; n < nb; n++) {
            const vec *kept = w.kept + (t * nb + n) * nk;
            vec before = w.h[t * nb + n], after = w.h[(t + 1) * nb + n];
            vec Bn = constant && bc.Bv ? bc.Bv[n] : NAME(splat)(B[n]);
            vec *dB = constant && bc.Bv ? &w.dB[n] : &w.dB[t * bc.dstate + n];
            vec *dC = constant && bc.Cv ? &w.dC[n] : &w.dC[t * bc.dstate + n];
            *dC += dy * after;
            vec g = dh[n] + (constant && bc.Cv ? bc.Cv[n] * dy : C[n] * dy); /* dL/dh[t] */
            vec dx, enter;                                                    /* dL/d(delta A), gain * g */
            if (disc == SSMCORE_MAMBA) {
                enter = g;
                dh[n] = g * kept[0];
                dx = dh[n] * before;
            } else if (disc == SSMCORE_BILINEAR) {
                vec q = kept[0];
                enter = g * q;
                dh[n] = g * (2 * q - 1);
                dx = enter * q * (before + dtu * Bn * (REAL)0.5);
            } else {
                enter = g * kept[1];
                dh[n] = g * kept[0];
                dx = dh[n] * before + g * (dtu * Bn) * kept[2];
            }
            *dB += enter * dtu;
            sum_B += enter * Bn;
            sum_A += dx * A[n];
            dA[n] += dx * dt;
        }
        if (disc == SSMCORE_MAMBA) sum_A *= 1 / LOG2_E;
        d->du[t] += dt * sum_B;
        d->ddt[t] += sum_A + u * sum_B;
    }
#pragma GCC unroll 8
    for (int n = 0; n < nb; n++) {
        w.dstate[n] = dh[n];
        w.dA[n] += dA[n];
    }
}

static void NAME(bwd_tile)(int disc, int constant, NAME(tile) *tile, NAME(dtile) *d, const vec *A, const vec *checkpoint,
                           NAME(bc) all, NAME(sweep) w, int64_t steps) {
    int64_t dstate = all.dstate;
#define BWD(nb)                                                                                                  \
    NAME(bwd_states)(DISC, nb, CONSTANT, tile, d, A + n, checkpoint + n, NAME(from_state)(all, n),              \
                     (NAME(sweep)){w.h, w.kept, w.dstate + n, w.dA + n, w.dB + n, w.dC + n}, steps)
#undef WIDE_STATES
#define WIDE_STATES 8 /* two registers a state here */
#define CONSTANT 0
    if (!constant) {
#define DISC SSMCORE_MAMBA
        if (disc == SSMCORE_MAMBA) WALK_STATES(BWD);
#undef DISC
#define DISC SSMCORE_BILINEAR
        if (disc == SSMCORE_BILINEAR) WALK_STATES(BWD);
#undef DISC
#define DISC SSMCORE_ZOH
        if (disc == SSMCORE_ZOH) WALK_STATES(BWD);
#undef DISC
        return;
    }
#undef CONSTANT
#define CONSTANT 1
#define DISC disc
    for (int64_t n = 0; n < dstate; n++) BWD(1);
#undef DISC
#undef CONSTANT
#undef BWD
}

static int64_t NAME(bwd_scratch)(const ssm_scan *s) {
    int64_t states = s->dstate * sizeof(vec);
    return sizeof(NAME(tile)) + sizeof(NAME(dtile)) + (6 * BLOCK_VECS + 4) * states + 2 * CHUNK * s->dstate * sizeof(REAL) +
           ((CHUNK + 1) + 3 * CHUNK) * 8 * sizeof(vec) + 2 * CHUNK * states + 2 * BLOCK_VECS * sizeof(vec) + 2048;
}

INLINE REAL NAME(sum_lanes)(vec v) {
    REAL total = 0;
    for (int i = 0; i < VL; i++) total += v[i];
    return total;
}

/* Gradient of a varying B or C: the lanes of each (step, state) summed into this block's own plane. */
INLINE void NAME(store_matrix_grad)(REAL *p, const ssm_scan *s, NAME(unit) unit, int64_t t0, int64_t steps, const vec *sums) {
    p += (((unit.block * s->batch + unit.b) * s->seqlen + t0) * s->ngroups + unit.g) * s->dstate;
    for (int64_t t = 0; t < steps; t++)
        for (int64_t n = 0; n < s->dstate; n++) p[t * s->ngroups * s->dstate + n] = NAME(sum_lanes)(sums[t * s->dstate + n]);
}

static void NAME(bwd_unit)(const ssm_scan *s, NAME(unit) unit, char *arena) {
    int64_t dstate = s->dstate, vecs = (unit.c1 - unit.c0 + VL - 1) / VL;
    NAME(tile) *tile = ARENA(arena, NAME(tile), 1);
    NAME(dtile) *d = ARENA(arena, NAME(dtile), 1);
    vec *A = ARENA(arena, vec, BLOCK_VECS * dstate);
    vec *dA = ARENA(arena, vec, BLOCK_VECS * dstate);
    vec *dh = ARENA(arena, vec, BLOCK_VECS * dstate);
    vec *dBc = ARENA(arena, vec, BLOCK_VECS * dstate);
    vec *dCc = ARENA(arena, vec, BLOCK_VECS * dstate);
    vec *checkpoint = ARENA(arena, vec, dstate);
    vec *Bv = ARENA(arena, vec, dstate);
    vec *Cv = ARENA(arena, vec, dstate);
    REAL *B = ARENA(arena, REAL, CHUNK * dstate);
    REAL *C = ARENA(arena, REAL, CHUNK * dstate);
    vec *h = ARENA(arena, vec, (CHUNK + 1) * 8);
    vec *kept = ARENA(arena, vec, CHUNK * 8 * 3);
    vec *dB = ARENA(arena, vec, CHUNK * dstate);
    vec *dC = ARENA(arena, vec, CHUNK * dstate);
    vec *dD = ARENA(arena, vec, BLOCK_VECS);
    vec *dbias = ARENA(arena, vec, BLOCK_VECS);
    int constant = s->B.constant || s->C.constant;
    int64_t nchunks = (s->seqlen + CHUNK - 1) / CHUNK;
    for (int64_t v = 0; v < vecs; v++) {
        int64_t c = unit.c0 + v * VL, lanes = NAME(lanes_at)(&unit, v);
        const REAL *dlast = s->dlast_state;
        NAME(load_A)(A + v * dstate, s, c, lanes);
        NAME(load_state)(dh + v * dstate, dlast ? dlast + (unit.b * s->dim + c) * dstate : 0, dstate, lanes);
        dD[v] = dbias[v] = (vec){0};
    }
    __builtin_memset(dA, 0, BLOCK_VECS * dstate * sizeof(vec));
    __builtin_memset(dBc, 0, BLOCK_VECS * dstate * sizeof(vec));
    __builtin_memset(dCc, 0, BLOCK_VECS * dstate * sizeof(vec));
    for (int64_t chunk = nchunks; chunk-- > 0;) {
        int64_t t0 = chunk * CHUNK, steps = s->seqlen - t0 < CHUNK ? s->seqlen - t0 : CHUNK;
        if (!s->B.constant) NAME(load_matrix)(B, &s->B, unit.b, unit.g, t0, steps, dstate);
        if (!s->C.constant) NAME(load_matrix)(C, &s->C, unit.b, unit.g, t0, steps, dstate);
        __builtin_memset(dB, 0, steps * dstate * sizeof(vec));
        __builtin_memset(dC, 0, steps * dstate * sizeof(vec));
        for (int64_t v = 0; v < vecs; v++) {
            int64_t c = unit.c0 + v * VL, lanes = NAME(lanes_at)(&unit, v);
            vec bias = NAME(lanes_of)(s->delta_bias, c, lanes), D = NAME(lanes_of)(s->D, c, lanes);
            const REAL *start = (const REAL *)s->checkpoints + ((unit.b * nchunks + chunk) * dstate) * s->dim + c;
            NAME(load)(checkpoint, start, s->dim, 1, dstate, lanes);
            if (s->B.constant) NAME(load_state)(Bv, (const REAL *)s->B.data + c * dstate, dstate, lanes);
            if (s->C.constant) NAME(load_state)(Cv, (const REAL *)s->C.data + c * dstate, dstate, lanes);
            NAME(open_tile)(tile, s, unit.b, t0, c, steps, lanes, bias);
            NAME(load)(d->dy, (const REAL *)s->dout.data + unit.b * s->dout.batch + t0 * s->dout.time + c * s->dout.dim,
                       s->dout.time, s->dout.dim, steps, lanes);
            if (s->z.data) {
                NAME(load)(tile->z, (const REAL *)s->z.data + unit.b * s->z.batch + t0 * s->z.time + c * s->z.dim,
                           s->z.time, s->z.dim, steps, lanes);
                for (int64_t t = 0; t < steps; t++) {
                    vec z = tile->z[t], gate = NAME(sigmoid)(z);
                    d->dz[t] = d->dy[t] * gate * (1 + z * (1 - gate)); /* times y, once it is known */
                    d->dy[t] *= z * gate;
                }
            }
            for (int64_t t = 0; t < steps; t++) {
                tile->y[t] = D * tile->u[t];
                d->du[t] = D * d->dy[t];
                d->ddt[t] = (vec){0};
            }
            NAME(bc) bc = {B, C, s->B.constant ? Bv : 0, s->C.constant ? Cv : 0, dstate};
            NAME(sweep) sweep = {h, kept, dh + v * dstate, dA + v * dstate, s->B.constant ? dBc + v * dstate : dB,
                                 s->C.constant ? dCc + v * dstate : dC};
            NAME(bwd_tile)(s->discretization, constant, tile, d, A + v * dstate, checkpoint, bc, sweep, steps);
            vec sum_D = {0}, sum_bias = {0};
            if (s->delta_softplus) {
                NAME(load)(tile->dt, (const REAL *)s->delta.data + unit.b * s->delta.batch + t0 * s->delta.time + c * s->delta.dim,
                           s->delta.time, s->delta.dim, steps, lanes);
                for (int64_t t = 0; t < steps; t++) {
                    vec raw = tile->dt[t] + bias, slope = NAME(sigmoid)(raw);
                    d->ddt[t] = NAME(select)(raw > 20, d->ddt[t], d->ddt[t] * slope);
                }
            }
            for (int64_t t = 0; t < steps; t++) {
                sum_D += d->dy[t] * tile->u[t];
                sum_bias += d->ddt[t];
            }
            dD[v] += sum_D;
            dbias[v] += sum_bias;
            NAME(store)((REAL *)s->du.data + unit.b * s->du.batch + t0 * s->du.time + c * s->du.dim, d->du, s->du.time,
                        s->du.dim, steps, lanes);
            NAME(store)((REAL *)s->ddelta.data + unit.b * s->ddelta.batch + t0 * s->ddelta.time + c * s->ddelta.dim,
                        d->ddt, s->ddelta.time, s->ddelta.dim, steps, lanes);
            if (s->z.data) {
                for (int64_t t = 0; t < steps; t++) d->dz[t] *= tile->y[t];
                NAME(store)((REAL *)s->dz.data + unit.b * s->dz.batch + t0 * s->dz.time + c * s->dz.dim, d->dz, s->dz.time,
                            s->dz.dim, steps, lanes);
            }
        }
        if (!s->B.constant) NAME(store_matrix_grad)((REAL *)s->dB, s, unit, t0, steps, dB);
        if (!s->C.constant) NAME(store_matrix_grad)((REAL *)s->dC, s, unit, t0, steps, dC);
    }
    for (int64_t v = 0; v < vecs; v++) {
        int64_t c = unit.c0 + v * VL, lanes = NAME(lanes_at)(&unit, v), row = (unit.b * s->dim + c) * dstate;
        NAME(store)((REAL *)s->dA + row, dA + v * dstate, 1, dstate, dstate, lanes);
        NAME(store)((REAL *)s->dinitial_state + row, dh + v * dstate, 1, dstate, dstate, lanes);
        if (s->B.constant) NAME(store)((REAL *)s->dB + row, dBc + v * dstate, 1, dstate, dstate, lanes);
        if (s->C.constant) NAME(store)((REAL *)s->dC + row, dCc + v * dstate, 1, dstate, dstate, lanes);
        if (s->dD) __builtin_memcpy((REAL *)s->dD + unit.b * s->dim + c, &dD[v], lanes * sizeof(REAL));
        if (s->ddelta_bias) __builtin_memcpy((REAL *)s->ddelta_bias + unit.b * s->dim + c, &dbias[v], lanes * sizeof(REAL));
    }
}

/* ---- threads ---- */

/* Every unit writes its own part of every output, so the result does not depend on the number of threads. */
static int NAME(run)(const ssm_scan *s, int64_t scratch, void (*work)(const ssm_scan *, NAME(unit), char *)) {
    int64_t units = s->batch * s->ngroups * NAME(blocks)(s);
    int threads = s->num_threads < units ? s->num_threads : (int)units;
    if (units == 0) return 0;
    scratch = (scratch + 4095) / 4096 * 4096;
    char *raw = malloc(scratch * threads + 64);
    if (!raw) return SSMCORE_NO_MEMORY;
    char *arena = (char *)(((uintptr_t)raw + 63) / 64 * 64);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        int thread = 0;
#ifdef _OPENMP
        thread = omp_get_thread_num();
#endif
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < units; i++) work(s, NAME(unit_at)(s, i), arena + thread * scratch);
    }
    free(raw);
    return 0;
}

int NAME(ssm_scan_fwd)(const ssm_scan *s) { return NAME(run)(s, NAME(fwd_scratch)(s), NAME(fwd_unit)); }
int NAME(ssm_scan_bwd)(const ssm_scan *s) { return NAME(run)(s, NAME(bwd_scratch)(s), NAME(bwd_unit)); }

#undef CHUNK
#undef BLOCK_VECS
#undef WIDE_STATES
#undef WALK_STATES
#undef KEPT
#undef ARENA
