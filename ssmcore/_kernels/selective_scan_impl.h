/* Selective scan for one instruction set and one type; see ops/selective_scan.md and ops/ss2d.md for the derivation.
 *
 * A unit of work is one batch entry, one group, one block of its channels, in every direction. Channels lie in the lanes,
 * time is walked in tiles of CHUNK steps that live in the first-level cache, and within a tile the state dimension is
 * walked in blocks held in registers. Lanes beyond the last channel hold zeros. A direction is an order of positions,
 * looked up once a tile; what several directions write to one position they add up there.
 */
#include "lanes.h"
#include "selective_scan.h"
#include "units.h"

typedef struct {
    vec u[CHUNK], dt[CHUNK], dtu[CHUNK], z[CHUNK], y[CHUNK];
} NAME(tile);

/* B or C of a tile as [step][state]. */
INLINE void NAME(load_matrix)(REAL *tile, const ssm_matrix *m, int64_t b, int64_t g, const NAME(walk) *walk,
                              int64_t dstate) {
    const REAL *p = (const REAL *)m->data + b * m->batch + g * m->group;
    for (int64_t t = 0; t < walk->steps; t++) {
        const REAL *row = p + walk->at[t] * m->time;
        if (m->state == 1) __builtin_memcpy(tile + t * dstate, row, dstate * sizeof(REAL));
        else
            for (int64_t n = 0; n < dstate; n++) tile[t * dstate + n] = row[n * m->state];
    }
}

/* The states of a checkpoint, (dstate, dim) in memory. */
INLINE void NAME(store_states)(REAL *p, const vec *state, int64_t dim, int64_t dstate, int64_t lanes) {
    for (int64_t n = 0; n < dstate; n++) __builtin_memcpy(p + n * dim, &state[n], lanes * sizeof(REAL));
}

INLINE void NAME(load_states)(vec *state, const REAL *p, int64_t dim, int64_t dstate, int64_t lanes) {
    for (int64_t n = 0; n < dstate; n++) {
        state[n] = (vec){0};
        __builtin_memcpy(&state[n], p + n * dim, lanes * sizeof(REAL));
    }
}

/* ---- one step of the discretised system ---- */

/* `a` is A times A_SCALE: for mamba, so that 2^x is e^x; for bilinear, so that G = 2/(1 - x/2) is 1/(1/2 - dt a) and
 * A_bar = G - 1. `input` is IN_SCALE delta B u. kept[0..2] is what the backward pass wants again: mamba: A_bar;
 * bilinear: G; zoh: A_bar, phi, phi'.
 *
 * A `tame` tile (see below) does without guards, and for bilinear joins terms, G (h + input) - h, that part ways at
 * infinity; so a tame tile whose states do not come out finite is walked again, guarded. */
#define A_SCALE(disc) ((disc) == SSMCORE_MAMBA ? LOG2_E : (disc) == SSMCORE_BILINEAR ? (REAL)0.25 : (REAL)1)
#define IN_SCALE(disc) ((disc) == SSMCORE_BILINEAR ? (REAL)0.5 : (REAL)1)

INLINE void NAME(coefficients)(const int disc, const int tame, vec dt, vec a, vec *kept) {
    if (disc == SSMCORE_MAMBA) {
        kept[0] = tame ? NAME(exp2_inside)(dt * a) : NAME(exp2)(dt * a);
    } else if (disc == SSMCORE_BILINEAR) {
        vec denominator = (REAL)0.5 - dt * a;
        kept[0] = tame ? RECIPROCAL_INSIDE(denominator) : RECIPROCAL(denominator);
    } else {
        NAME(exp_phi)(dt * a, &kept[0], &kept[1], &kept[2]);
    }
}

INLINE vec NAME(advance)(const int disc, const int tame, const vec *kept, vec h, vec input) {
    if (disc == SSMCORE_MAMBA) return kept[0] * h + input;
    if (disc == SSMCORE_BILINEAR) return tame ? kept[0] * (h + input) - h : (kept[0] - 1) * h + kept[0] * input;
    return kept[0] * h + kept[1] * input;
}

#define KEPT(disc) ((disc) == SSMCORE_ZOH ? 3 : 1)

/* The largest -dt a for which neither 2^x nor a reciprocal leaves the normal numbers. */
#define REACH(disc) ((disc) == SSMCORE_MAMBA ? -EXP2_LOW - 1 : (disc) == SSMCORE_BILINEAR ? (REAL)1e30 : (REAL)-1)

INLINE int NAME(all_lanes)(ivec mask) {
    int all = 1;
    for (int i = 0; i < VL; i++) all &= mask[i] != 0;
    return all;
}

/* Of a vector of channels: max_n -a[n], infinity where an a is positive or not a number, and whether A is the same for
 * every state, as in Mamba-2. */
typedef struct {
    vec reach;
    int uniform;
} NAME(traits);

INLINE NAME(traits) NAME(traits_of)(const vec *a, int64_t dstate) {
    vec most = {0};
    ivec same = ~(ivec){0};
    for (int64_t n = 0; n < dstate; n++) {
        vec magnitude = NAME(select)(a[n] <= 0, -a[n], NAME(splat)((REAL)__builtin_inf()));
        most = NAME(select)(magnitude > most, magnitude, most);
        same &= a[n] == a[0];
    }
    return (NAME(traits)){most, dstate > 1 && NAME(all_lanes)(same)};
}

/* Whether every step of the tile is >= 0 and keeps dt a within REACH. */
INLINE int NAME(tame)(int disc, const vec *dt, vec reach, int64_t steps) {
    vec limit = NAME(splat)(REACH(disc));
    ivec ok = ~(ivec){0};
    for (int64_t t = 0; t < steps; t++) ok &= (dt[t] >= 0) & (dt[t] * reach <= limit);
    return NAME(all_lanes)(ok);
}

INLINE int NAME(finite)(const vec *x, int64_t count) {
    ivec ok = ~(ivec){0};
    for (int64_t n = 0; n < count; n++) ok &= x[n] - x[n] == 0;
    return NAME(all_lanes)(ok);
}

typedef struct {
    const REAL *B, *C;   /* varying: [step][dstate], broadcast; offset to the first state of the block */
    const vec *Bv, *Cv;  /* constant: [state][lane], used when not NULL */
    int64_t dstate;
} NAME(bc);

INLINE NAME(bc) NAME(from_state)(NAME(bc) all, int64_t n) {
    return (NAME(bc)){all.B + n, all.C + n, all.Bv ? all.Bv + n : 0, all.Cv ? all.Cv + n : 0, all.dstate};
}

/* ---- forward ---- */

/* `uniform`: one set of coefficients serves all states of a step. */
INLINE void NAME(fwd_states)(const int disc, const int tame, const int uniform, const int constant, const int nb,
                             NAME(tile) *tile, const vec *A, vec *state, NAME(bc) bc, int64_t steps) {
    vec h[16];
#pragma GCC unroll 16
    for (int n = 0; n < nb; n++) h[n] = state[n];
    for (int64_t t = 0; t < steps; t++) {
        vec dt = tile->dt[t], dtu = tile->dtu[t], y = tile->y[t], y_odd = {0};
        const REAL *B = bc.B + t * bc.dstate, *C = bc.C + t * bc.dstate;
        vec kept[3];
#pragma GCC unroll 16
        for (int n = 0; n < nb; n++) {
            if (!uniform || n == 0) NAME(coefficients)(disc, tame, dt, A[n], kept);
            h[n] = NAME(advance)(disc, tame, kept, h[n], constant && bc.Bv ? dtu * bc.Bv[n] : dtu * B[n]);
            vec term = constant && bc.Cv ? bc.Cv[n] * h[n] : C[n] * h[n];
            if (n & 1) y_odd += term;
            else y += term;
        }
        tile->y[t] = y + y_odd;
    }
#pragma GCC unroll 16
    for (int n = 0; n < nb; n++) state[n] = h[n];
}

/* Walks the states in blocks held in registers, `wide` of them, then by fours and ones. Each combination that is worth it
 * is given to the compiler with constants; constant B or C, with which nobody trains, goes by single states. */
#define WALK(states, wide, disc, tame, uniform)                                           \
    do {                                                                                  \
        int64_t n = 0;                                                                    \
        for (; n + (wide) <= dstate; n += (wide)) states(disc, tame, uniform, 0, (wide)); \
        for (; n + 4 <= dstate; n += 4) states(disc, tame, uniform, 0, 4);                \
        for (; n < dstate; n++) states(disc, tame, uniform, 0, 1);                        \
    } while (0)
#define WALK_STATES(states, wide)                                                                     \
    do {                                                                                              \
        if (constant) {                                                                               \
            for (int64_t n = 0; n < dstate; n++) states(disc, 0, 0, 1, 1);                            \
        } else if (disc == SSMCORE_MAMBA && tame && uniform) WALK(states, wide, SSMCORE_MAMBA, 1, 1); \
        else if (disc == SSMCORE_MAMBA && tame) WALK(states, wide, SSMCORE_MAMBA, 1, 0);              \
        else if (disc == SSMCORE_MAMBA) WALK(states, wide, SSMCORE_MAMBA, 0, 0);                      \
        else if (disc == SSMCORE_BILINEAR && tame) WALK(states, wide, SSMCORE_BILINEAR, 1, 0);        \
        else if (disc == SSMCORE_BILINEAR) WALK(states, wide, SSMCORE_BILINEAR, 0, 0);                \
        else WALK(states, wide, SSMCORE_ZOH, 0, 0);                                                   \
    } while (0)

static void NAME(fwd_tile)(int disc, int tame, int uniform, int constant, NAME(tile) *tile, const vec *A, vec *state,
                           NAME(bc) all, int64_t steps) {
    int64_t dstate = all.dstate;
#define FWD(disc, tame, uniform, constant, nb) \
    NAME(fwd_states)(disc, tame, uniform, constant, nb, tile, A + n, state + n, NAME(from_state)(all, n), steps)
    WALK_STATES(FWD, VL * sizeof(REAL) == 64 ? 16 : 8);
#undef FWD
}

typedef struct {
    int64_t b, g, c0, c1, block; /* channels [c0, c1) */
} NAME(unit);

INLINE int64_t NAME(blocks)(const ssm_scan *s) { return (s->dim / s->ngroups + s->block - 1) / s->block; }

INLINE NAME(unit) NAME(unit_at)(const ssm_scan *s, int64_t index) {
    int64_t per_group = s->dim / s->ngroups, nblocks = NAME(blocks)(s);
    NAME(unit) unit;
    unit.block = index % nblocks;
    unit.g = index / nblocks % s->ngroups;
    unit.b = index / nblocks / s->ngroups;
    unit.c0 = unit.g * per_group + unit.block * s->block;
    int64_t end = (unit.g + 1) * per_group;
    unit.c1 = unit.c0 + s->block < end ? unit.c0 + s->block : end;
    return unit;
}

/* One vector of channels of a unit in one direction: where its parameters and partial sums stand. */
typedef struct {
    int64_t c, lanes, row, out_row; /* first channel; its row in (directions, dim); that in (batch, directions, dim) */
} NAME(slot);

INLINE NAME(slot) NAME(slot_at)(const ssm_scan *s, const NAME(unit) *unit, int64_t direction, int64_t v) {
    NAME(slot) slot;
    slot.c = unit->c0 + v * VL;
    slot.lanes = unit->c1 - slot.c < VL ? unit->c1 - slot.c : VL;
    slot.row = direction * s->dim + slot.c;
    slot.out_row = (unit->b * s->directions + direction) * s->dim + slot.c;
    return slot;
}

/* A, scaled as the kernel wants it. */
INLINE NAME(traits) NAME(load_A)(vec *A, const ssm_scan *s, NAME(slot) slot) {
    NAME(load_rows)(A, (const REAL *)s->A + slot.row * s->dstate, s->dstate, slot.lanes);
    for (int64_t n = 0; n < s->dstate; n++) A[n] *= A_SCALE(s->discretization);
    return NAME(traits_of)(A, s->dstate);
}

/* Reads u and delta, applies bias and softplus; whether the tile is tame. */
INLINE int NAME(open_tile)(NAME(tile) *tile, const ssm_scan *s, int64_t b, int64_t direction, NAME(slot) slot,
                           const NAME(walk) *walk, vec reach) {
    vec bias = NAME(lanes_of)(s->delta_bias, slot.row, slot.lanes);
    NAME(load_steps)(tile->u, &s->u, b, direction, slot.c, walk, slot.lanes);
    NAME(load_steps)(tile->dt, &s->delta, b, direction, slot.c, walk, slot.lanes);
    for (int64_t t = 0; t < walk->steps; t++) {
        vec dt = tile->dt[t] + bias;
        if (s->delta_softplus) dt = NAME(softplus)(dt);
        tile->dt[t] = dt;
        tile->dtu[t] = dt * tile->u[t] * IN_SCALE(s->discretization);
    }
    return NAME(tame)(s->discretization, tile->dt, reach, walk->steps);
}

/* Starts y with D u, or with 0 and not 0 u, which may be NaN. */
INLINE void NAME(open_out)(NAME(tile) *tile, const ssm_scan *s, NAME(slot) slot, int64_t steps) {
    vec D = NAME(lanes_of)(s->D, slot.row, slot.lanes);
    for (int64_t t = 0; t < steps; t++) tile->y[t] = s->D ? D * tile->u[t] : (vec){0};
}

#define BLOCK_VECS(s) (((s)->block + VL - 1) / VL)
#define CHECKPOINT(s, unit, direction, chunk, slot)                                                                \
    ((REAL *)(s)->checkpoints +                                                                                    \
     ((((direction) * (s)->batch + (unit).b) * nchunks + (chunk)) * (s)->dstate) * (s)->dim + (slot).c)

static int64_t NAME(fwd_scratch)(const ssm_scan *s) {
    return sizeof(NAME(walk)) + sizeof(NAME(tile)) + ((4 * s->dstate + 2) * sizeof(vec) + 64) * BLOCK_VECS(s) + s->dstate * sizeof(vec) +
           2 * CHUNK * (s->dstate * sizeof(REAL) + 64) + 1024;
}

static void NAME(fwd_unit)(const ssm_scan *s, NAME(unit) unit, char *arena) {
    int64_t dstate = s->dstate, vecs = (unit.c1 - unit.c0 + VL - 1) / VL, nchunks = (s->seqlen + CHUNK - 1) / CHUNK;
    NAME(walk) *walk = ARENA(arena, NAME(walk), 1);
    NAME(tile) *tile = ARENA(arena, NAME(tile), 1);
    vec *A = ARENA(arena, vec, vecs * dstate);
    vec *state = ARENA(arena, vec, vecs * dstate);
    vec *Bv = ARENA(arena, vec, vecs * dstate);
    vec *Cv = ARENA(arena, vec, vecs * dstate);
    vec *before = ARENA(arena, vec, dstate);
    NAME(traits) *traits = ARENA(arena, NAME(traits), vecs);
    REAL *B = ARENA(arena, REAL, CHUNK * dstate);
    REAL *C = ARENA(arena, REAL, CHUNK * dstate);
    int constant = s->B.constant || s->C.constant;
    for (int64_t direction = 0; direction < s->directions; direction++) {
        for (int64_t v = 0; v < vecs; v++) {
            NAME(slot) slot = NAME(slot_at)(s, &unit, direction, v);
            const REAL *h0 = s->initial_state;
            traits[v] = NAME(load_A)(A + v * dstate, s, slot);
            NAME(load_rows)(state + v * dstate, h0 ? h0 + slot.out_row * dstate : 0, dstate, slot.lanes);
            if (s->B.constant) NAME(load_rows)(Bv + v * dstate, (const REAL *)s->B.data + slot.row * dstate, dstate, slot.lanes);
            if (s->C.constant) NAME(load_rows)(Cv + v * dstate, (const REAL *)s->C.data + slot.row * dstate, dstate, slot.lanes);
        }
        for (int64_t t0 = 0; t0 < s->seqlen; t0 += CHUNK) {
            int64_t plane = unit.g + direction * s->ngroups;
            NAME(walk_from)(walk, s->seqlen, s->width, direction, t0);
            int64_t steps = walk->steps;
            if (!s->B.constant) NAME(load_matrix)(B, &s->B, unit.b, plane, walk, dstate);
            if (!s->C.constant) NAME(load_matrix)(C, &s->C, unit.b, plane, walk, dstate);
            for (int64_t v = 0; v < vecs; v++) {
                NAME(slot) slot = NAME(slot_at)(s, &unit, direction, v);
                if (s->checkpoints)
                    NAME(store_states)(CHECKPOINT(s, unit, direction, t0 / CHUNK, slot), state + v * dstate, s->dim, dstate,
                                       slot.lanes);
                int tame = NAME(open_tile)(tile, s, unit.b, direction, slot, walk, traits[v].reach);
                NAME(bc) bc = {B, C, s->B.constant ? Bv + v * dstate : 0, s->C.constant ? Cv + v * dstate : 0, dstate};
                vec *h = state + v * dstate;
                if (tame && !constant) {
                    __builtin_memcpy(before, h, dstate * sizeof(vec));
                    NAME(open_out)(tile, s, slot, steps);
                    NAME(fwd_tile)(s->discretization, 1, traits[v].uniform, 0, tile, A + v * dstate, h, bc, steps);
                    tame = s->discretization == SSMCORE_MAMBA || NAME(finite)(h, dstate);
                    if (!tame) __builtin_memcpy(h, before, dstate * sizeof(vec));
                }
                if (!tame || constant) {
                    NAME(open_out)(tile, s, slot, steps);
                    NAME(fwd_tile)(s->discretization, 0, 0, constant, tile, A + v * dstate, h, bc, steps);
                }
                if (s->z.data) {
                    NAME(load_steps)(tile->z, &s->z, unit.b, direction, slot.c, walk, slot.lanes);
                    for (int64_t t = 0; t < steps; t++) tile->y[t] *= tile->z[t] * NAME(sigmoid)(tile->z[t]);
                }
                NAME(store_steps)(&s->out, unit.b, direction, slot.c, tile->y, walk, slot.lanes);
            }
        }
        for (int64_t v = 0; v < vecs; v++) {
            NAME(slot) slot = NAME(slot_at)(s, &unit, direction, v);
            NAME(store_rows)(s->last_state, slot.out_row, state + v * dstate, dstate, slot.lanes);
        }
    }
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
    int read_out;               /* whether y is wanted, for the gate */
} NAME(sweep);

/* 0, and nothing written but scratch, where a tame tile turns out not to be. */
INLINE int NAME(bwd_states)(const int disc, const int tame, const int uniform, const int constant, const int nb,
                            NAME(tile) *tile,
                             NAME(dtile) *d, const vec *A, const vec *checkpoint, NAME(bc) bc, NAME(sweep) w, int64_t steps) {
    const int nk = KEPT(disc);
    vec h[8], dh[8], dA[8];
#pragma GCC unroll 8
    for (int n = 0; n < nb; n++) h[n] = w.h[n] = checkpoint[n];
    for (int64_t t = 0; t < steps; t++) {
        vec dt = tile->dt[t], dtu = tile->dtu[t];
        const REAL *B = bc.B + t * bc.dstate;
#pragma GCC unroll 8
        for (int n = 0; n < nb; n++) {
            vec *kept = w.kept + (t * nb + (uniform ? 0 : n)) * nk;
            if (!uniform || n == 0) NAME(coefficients)(disc, tame, dt, A[n], kept);
            h[n] = NAME(advance)(disc, tame, kept, h[n], constant && bc.Bv ? dtu * bc.Bv[n] : dtu * B[n]);
            w.h[(t + 1) * nb + n] = h[n];
        }
    }
    if (tame && disc == SSMCORE_BILINEAR && !NAME(finite)(h, nb)) return 0;
    if (w.read_out)
        for (int64_t t = 0; t < steps; t++)
            for (int n = 0; n < nb; n++) {
                vec after = w.h[(t + 1) * nb + n];
                tile->y[t] += constant && bc.Cv ? bc.Cv[n] * after : bc.C[t * bc.dstate + n] * after;
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
            const vec *kept = w.kept + (t * nb + (uniform ? 0 : n)) * nk;
            vec before = w.h[t * nb + n], after = h[n];
            vec Bn = constant && bc.Bv ? bc.Bv[n] : NAME(splat)(B[n]);
            vec *dB = constant && bc.Bv ? &w.dB[n] : &w.dB[t * bc.dstate + n];
            vec *dC = constant && bc.Cv ? &w.dC[n] : &w.dC[t * bc.dstate + n];
            *dC += dy * after;
            vec g = dh[n] + (constant && bc.Cv ? bc.Cv[n] * dy : C[n] * dy); /* dL/dh[t] */
            vec dx, enter;                                                    /* dL/d(dt A[n]), gain * g */
            if (disc == SSMCORE_MAMBA) {
                enter = g;
                dh[n] = g * kept[0];
                dx = dh[n] * before;
            } else if (disc == SSMCORE_BILINEAR) {
                enter = g * kept[0];
                dh[n] = g * (kept[0] - 1);
                dx = enter * (tame ? after + before : kept[0] * (before + dtu * Bn)); /* equal, while finite */
            } else {
                enter = g * kept[1];
                dh[n] = g * kept[0];
                dx = dh[n] * before + g * (dtu * Bn) * kept[2];
            }
            *dB += enter * dtu;
            sum_B += enter * Bn;
            sum_A += dx * A[n];
            dA[n] += dx * dt;
            h[n] = before;
        }
        if (disc == SSMCORE_MAMBA) sum_A *= 1 / LOG2_E;
        sum_B *= IN_SCALE(disc);
        d->du[t] += dt * sum_B;
        d->ddt[t] += sum_A + u * sum_B;
    }
#pragma GCC unroll 8
    for (int n = 0; n < nb; n++) {
        w.dstate[n] = dh[n];
        w.dA[n] += dA[n] * (disc == SSMCORE_BILINEAR ? A_SCALE(disc) : 1);
    }
    return 1;
}

static void NAME(bwd_tile)(int disc, int tame, int uniform, int constant, NAME(tile) *tile, NAME(dtile) *d, const vec *A,
                           const vec *checkpoint, NAME(bc) all, NAME(sweep) w, int64_t steps) {
    int64_t dstate = all.dstate;
#define SWEEP(disc, tame, uniform, constant, nb, n)                                                                           \
    NAME(bwd_states)(disc, tame, uniform, constant, nb, tile, d, A + (n), checkpoint + (n), NAME(from_state)(all, n),         \
                     (NAME(sweep)){w.h, w.kept, w.dstate + (n), w.dA + (n), w.dB + (n), w.dC + (n), w.read_out}, steps)
#define BWD(disc, tame, uniform, constant, nb)                                        \
    if (!SWEEP(disc, tame, uniform, constant, nb, n))                                 \
        for (int64_t k = n; k < n + (nb); k++) SWEEP(disc, 0, 0, constant, 1, k)
    WALK_STATES(BWD, 8); /* three registers a state here */
#undef BWD
#undef SWEEP
}

/* Sums over the lanes of VL vectors, that of v[i] in lane i, in a fixed order. */
INLINE vec NAME(lane_sums)(const vec *v) {
    vec sums[VL];
    for (int i = 0; i < VL; i++) sums[i] = v[i];
#ifdef __clang__
    vec total;
    for (int i = 0; i < VL; i++) {
        REAL sum = 0;
        for (int k = 0; k < VL; k++) sum += sums[i][k];
        total[i] = sum;
    }
    return total;
#else
#pragma GCC unroll 4
    for (int width = 1; width < VL; width *= 2) {
        ivec own, other; /* lane i stays with the first of two vectors where i & width is 0, and takes its neighbour's */
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++) {
            own[i] = i & width ? VL + i : i;
            other[i] = own[i] ^ width;
        }
#pragma GCC unroll 8
        for (int i = 0; i < VL / 2 / width; i++)
            sums[i] = __builtin_shuffle(sums[2 * i], sums[2 * i + 1], own) + __builtin_shuffle(sums[2 * i], sums[2 * i + 1], other);
    }
    return sums[0];
#endif
}

/* Gradient of a varying B or C: the lanes of each (step, state) summed into this block's own plane. */
INLINE void NAME(store_matrix_grad)(void *gradient, const ssm_scan *s, NAME(unit) unit, int64_t direction,
                                    const NAME(walk) *walk, const vec *sums) {
    int64_t planes = s->directions * s->ngroups, dstate = s->dstate;
    REAL *p = (REAL *)gradient + ((unit.block * s->batch + unit.b) * s->seqlen * planes + unit.g + direction * s->ngroups) * dstate;
    for (int64_t t = 0; t < walk->steps; t++) {
        const vec *row = sums + t * dstate;
        REAL *to = p + walk->at[t] * planes * dstate;
        int64_t n = 0;
        for (; n + VL <= dstate; n += VL) {
            vec total = NAME(lane_sums)(row + n);
            __builtin_memcpy(to + n, &total, sizeof(vec));
        }
        for (; n < dstate; n++) {
            REAL total = 0;
            for (int i = 0; i < VL; i++) total += row[n][i];
            to[n] = total;
        }
    }
}

static int64_t NAME(bwd_scratch)(const ssm_scan *s) {
    int64_t states = s->dstate * sizeof(vec);
    return sizeof(NAME(walk)) + sizeof(NAME(tile)) + sizeof(NAME(dtile)) + (5 * states + 4 * sizeof(vec) + 64) * BLOCK_VECS(s) + 3 * states +
           2 * CHUNK * (s->dstate * sizeof(REAL) + 64) + ((CHUNK + 1) + 3 * CHUNK) * 8 * sizeof(vec) + 2 * CHUNK * states + 2048;
}

static void NAME(bwd_unit)(const ssm_scan *s, NAME(unit) unit, char *arena) {
    int64_t dstate = s->dstate, vecs = (unit.c1 - unit.c0 + VL - 1) / VL, nchunks = (s->seqlen + CHUNK - 1) / CHUNK;
    NAME(walk) *walk = ARENA(arena, NAME(walk), 1);
    NAME(tile) *tile = ARENA(arena, NAME(tile), 1);
    NAME(dtile) *d = ARENA(arena, NAME(dtile), 1);
    vec *A = ARENA(arena, vec, vecs * dstate);
    vec *dA = ARENA(arena, vec, vecs * dstate);
    vec *dh = ARENA(arena, vec, vecs * dstate);
    vec *dBc = ARENA(arena, vec, vecs * dstate);
    vec *dCc = ARENA(arena, vec, vecs * dstate);
    vec *checkpoint = ARENA(arena, vec, dstate);
    vec *Bv = ARENA(arena, vec, dstate);
    vec *Cv = ARENA(arena, vec, dstate);
    REAL *B = ARENA(arena, REAL, CHUNK * dstate);
    REAL *C = ARENA(arena, REAL, CHUNK * dstate);
    vec *h = ARENA(arena, vec, (CHUNK + 1) * 8);
    vec *kept = ARENA(arena, vec, CHUNK * 8 * 3);
    vec *dB = ARENA(arena, vec, CHUNK * dstate);
    vec *dC = ARENA(arena, vec, CHUNK * dstate);
    vec *dD = ARENA(arena, vec, vecs);
    vec *dbias = ARENA(arena, vec, vecs);
    NAME(traits) *traits = ARENA(arena, NAME(traits), vecs);
    int constant = s->B.constant || s->C.constant;
    for (int64_t direction = 0; direction < s->directions; direction++) {
        for (int64_t v = 0; v < vecs; v++) {
            NAME(slot) slot = NAME(slot_at)(s, &unit, direction, v);
            const REAL *dlast = s->dlast_state;
            traits[v] = NAME(load_A)(A + v * dstate, s, slot);
            NAME(load_rows)(dh + v * dstate, dlast ? dlast + slot.out_row * dstate : 0, dstate, slot.lanes);
            dD[v] = dbias[v] = (vec){0};
        }
        __builtin_memset(dA, 0, vecs * dstate * sizeof(vec));
        if (s->B.constant) __builtin_memset(dBc, 0, vecs * dstate * sizeof(vec));
        if (s->C.constant) __builtin_memset(dCc, 0, vecs * dstate * sizeof(vec));
        for (int64_t chunk = nchunks; chunk-- > 0;) {
            int64_t plane = unit.g + direction * s->ngroups;
            NAME(walk_from)(walk, s->seqlen, s->width, direction, chunk * CHUNK);
            int64_t steps = walk->steps;
            if (!s->B.constant) NAME(load_matrix)(B, &s->B, unit.b, plane, walk, dstate);
            if (!s->C.constant) NAME(load_matrix)(C, &s->C, unit.b, plane, walk, dstate);
            __builtin_memset(dB, 0, steps * dstate * sizeof(vec));
            __builtin_memset(dC, 0, steps * dstate * sizeof(vec));
            for (int64_t v = 0; v < vecs; v++) {
                NAME(slot) slot = NAME(slot_at)(s, &unit, direction, v);
                vec D = NAME(lanes_of)(s->D, slot.row, slot.lanes);
                NAME(load_states)(checkpoint, CHECKPOINT(s, unit, direction, chunk, slot), s->dim, dstate, slot.lanes);
                if (s->B.constant) NAME(load_rows)(Bv, (const REAL *)s->B.data + slot.row * dstate, dstate, slot.lanes);
                if (s->C.constant) NAME(load_rows)(Cv, (const REAL *)s->C.data + slot.row * dstate, dstate, slot.lanes);
                int tame = NAME(open_tile)(tile, s, unit.b, direction, slot, walk, traits[v].reach);
                NAME(load_steps)(d->dy, &s->dout, unit.b, direction, slot.c, walk, slot.lanes);
                if (s->z.data) {
                    NAME(load_steps)(tile->z, &s->z, unit.b, direction, slot.c, walk, slot.lanes);
                    for (int64_t t = 0; t < steps; t++) {
                        vec z = tile->z[t], gate = NAME(sigmoid)(z);
                        d->dz[t] = d->dy[t] * gate * (1 + z * (1 - gate)); /* times y, once it is known */
                        d->dy[t] *= z * gate;
                        tile->y[t] = D * tile->u[t];
                    }
                }
                for (int64_t t = 0; t < steps; t++) {
                    d->du[t] = D * d->dy[t];
                    d->ddt[t] = (vec){0};
                }
                NAME(bc) bc = {B, C, s->B.constant ? Bv : 0, s->C.constant ? Cv : 0, dstate};
                NAME(sweep) sweep = {h, kept, dh + v * dstate, dA + v * dstate, s->B.constant ? dBc + v * dstate : dB,
                                     s->C.constant ? dCc + v * dstate : dC, s->z.data != 0};
                NAME(bwd_tile)(s->discretization, tame, traits[v].uniform, constant, tile, d, A + v * dstate, checkpoint, bc, sweep, steps);
                vec sum_D = {0}, sum_bias = {0};
                if (s->delta_softplus) {
                    vec bias = NAME(lanes_of)(s->delta_bias, slot.row, slot.lanes);
                    NAME(load_steps)(tile->dt, &s->delta, unit.b, direction, slot.c, walk, slot.lanes);
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
                NAME(store_steps)(&s->du, unit.b, direction, slot.c, d->du, walk, slot.lanes);
                NAME(store_steps)(&s->ddelta, unit.b, direction, slot.c, d->ddt, walk, slot.lanes);
                if (s->z.data) {
                    for (int64_t t = 0; t < steps; t++) d->dz[t] *= tile->y[t];
                    NAME(store_steps)(&s->dz, unit.b, direction, slot.c, d->dz, walk, slot.lanes);
                }
            }
            if (!s->B.constant) NAME(store_matrix_grad)(s->dB, s, unit, direction, walk, dB);
            if (!s->C.constant) NAME(store_matrix_grad)(s->dC, s, unit, direction, walk, dC);
        }
        for (int64_t v = 0; v < vecs; v++) {
            NAME(slot) slot = NAME(slot_at)(s, &unit, direction, v);
            NAME(store_rows)(s->dA, slot.out_row, dA + v * dstate, dstate, slot.lanes);
            NAME(store_rows)(s->dinitial_state, slot.out_row, dh + v * dstate, dstate, slot.lanes);
            if (s->B.constant) NAME(store_rows)(s->dB, slot.out_row, dBc + v * dstate, dstate, slot.lanes);
            if (s->C.constant) NAME(store_rows)(s->dC, slot.out_row, dCc + v * dstate, dstate, slot.lanes);
            if (s->dD) __builtin_memcpy((REAL *)s->dD + slot.out_row, &dD[v], slot.lanes * sizeof(REAL));
            if (s->ddelta_bias) __builtin_memcpy((REAL *)s->ddelta_bias + slot.out_row, &dbias[v], slot.lanes * sizeof(REAL));
        }
    }
}

/* ---- threads ---- */

static void NAME(fwd_unit_at)(const void *s, int64_t index, char *arena) {
    NAME(fwd_unit)(s, NAME(unit_at)(s, index), arena);
}

static void NAME(bwd_unit_at)(const void *s, int64_t index, char *arena) {
    NAME(bwd_unit)(s, NAME(unit_at)(s, index), arena);
}

INLINE int64_t NAME(units)(const ssm_scan *s) { return s->batch * s->ngroups * NAME(blocks)(s); }

int NAME(ssm_scan_fwd)(const ssm_scan *s) {
    return ssm_run_units(s, NAME(units)(s), s->num_threads, NAME(fwd_scratch)(s), NAME(fwd_unit_at));
}

int NAME(ssm_scan_bwd)(const ssm_scan *s) {
    return ssm_run_units(s, NAME(units)(s), s->num_threads, NAME(bwd_scratch)(s), NAME(bwd_unit_at));
}

#undef A_SCALE
#undef IN_SCALE
#undef KEPT
#undef REACH
#undef WALK
#undef WALK_STATES
#undef BLOCK_VECS
#undef CHECKPOINT
