/* Selective scan for one instruction set and one type; see ops/selective_scan.md and ops/ss2d.md for the derivation.
 *
 * A unit of work is one group, one block of its channels, in every direction, of one batch entry, or of several short ones.
 * Channels lie in the lanes; lanes beyond the last channel hold zeros. Time goes by tiles of CHUNK steps, which stay in the
 * first-level cache. Within a tile the states go by blocks held in registers. A direction is an order of positions, looked up
 * once for each tile. Directions that write to the same position add up there.
 */
#include "lanes.h"
#include <stdlib.h>
#include "api.h"
#include "units.h"

typedef struct {
    vec u[CHUNK], dt[CHUNK], slope[CHUNK], dtu[CHUNK], z[CHUNK], y[CHUNK]; /* slope: of dt by delta */
} NAME(tile);

#if !REAL_IS_DOUBLE
OUTLINE void NAME(load_narrow_matrix)(REAL *tile, const ssm_matrix *m, int64_t offset, const NAME(walk) *walk, int64_t dstate) {
    const uint16_t *p = (const uint16_t *)m->data + offset;
    int brain = m->type == SSMCORE_BFLOAT16;
    for (int64_t t = 0; t < walk->steps; t++) {
        int64_t row = walk->at[t] * m->time, n = 0;
        if (m->state == 1)
            for (; n + VL <= dstate; n += VL)
                NAME(write)(tile + t * dstate + n, brain ? NAME(read_narrow)(p + row + n, 1) : NAME(read_narrow)(p + row + n, 0));
        for (; n < dstate; n++) tile[t * dstate + n] = NAME(element)(p, m->type, row + n * m->state);
    }
}
#endif

/* B or C of a tile as [step][state]. */
OUTLINE void NAME(load_matrix)(REAL *tile, const ssm_matrix *m, int64_t b, int64_t g, const NAME(walk) *walk,
                              int64_t dstate) {
    const REAL *p = (const REAL *)m->data + b * m->batch + g * m->group;
#if !REAL_IS_DOUBLE
    if (m->type) {
        NAME(load_narrow_matrix)(tile, m, b * m->batch + g * m->group, walk, dstate);
        return;
    }
#endif
    if (m->time == 1 && walk->in_order && dstate % VL == 0 && walk->steps % VL == 0) {
        p += walk->at[0];
        for (int64_t n = 0; n < dstate; n += VL)
            for (int64_t t = 0; t < walk->steps; t += VL) {
                vec block[VL];
                for (int k = 0; k < VL; k++) block[k] = NAME(read)(p + (n + k) * m->state + t);
                NAME(transpose)(block);
                for (int k = 0; k < VL; k++) NAME(write)(tile + (t + k) * dstate + n, block[k]);
            }
        return;
    }
    for (int64_t t = 0; t < walk->steps; t++) {
        const REAL *row = p + walk->at[t] * m->time;
        REAL *to = tile + t * dstate;
        int64_t n = 0;
        if (m->state == 1)
            for (; n + VL <= dstate; n += VL) NAME(write)(to + n, NAME(read)(row + n));
        for (; n < dstate; n++) to[n] = row[n * m->state];
    }
}

/* The states of a checkpoint, (dstate, dim) in memory. */
INLINE void NAME(store_states)(REAL *p, const vec *state, int64_t dim, int64_t dstate, int64_t lanes) {
    for (int64_t n = 0; n < dstate; n++) {
        if (lanes == VL) NAME(write)(p + n * dim, state[n]);
        else __builtin_memcpy(p + n * dim, &state[n], lanes * sizeof(REAL));
    }
}

INLINE void NAME(load_states)(vec *state, const REAL *p, int64_t dim, int64_t dstate, int64_t lanes) {
    for (int64_t n = 0; n < dstate; n++) state[n] = NAME(lanes_of)(p, n * dim, lanes);
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

INLINE void NAME(coefficients)(const int disc, const int tame, const int count, vec dt, const vec *a, vec (*kept)[3]) {
    if (disc == SSMCORE_MAMBA && tame) {
        vec x[2];
        EACH x[i] = dt * a[i];
        NAME(exp2_inside)(count, x);
        EACH kept[i][0] = x[i];
    } else if (disc == SSMCORE_MAMBA) {
        EACH kept[i][0] = NAME(exp2)(dt * a[i]);
    } else if (disc == SSMCORE_BILINEAR) {
        vec denominator[2];
        EACH denominator[i] = (REAL)0.5 - dt * a[i];
        EACH kept[i][0] = tame ? RECIPROCAL_INSIDE(denominator[i]) : RECIPROCAL(denominator[i]);
    } else {
        EACH NAME(exp_phi)(dt * a[i], &kept[i][0], &kept[i][1], &kept[i][2]);
    }
}

INLINE vec NAME(advance)(const int disc, const int tame, const vec *kept, vec h, vec dtu, vec B) {
    if (disc == SSMCORE_MAMBA) return kept[0] * h + dtu * B;
    if (disc == SSMCORE_BILINEAR) return tame ? kept[0] * (h + dtu * B) - h : (kept[0] - 1) * h + kept[0] * (dtu * B);
    return kept[0] * h + kept[1] * (dtu * B);
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

/* ---- the memory ahead ---- */

/* The rows of the tile to come. A row is far from the next, which no hardware guesses, and requests in a burst wait for each
 * other; so each step of the tile at hand asks for one row of each. */
enum { NAME(STREAMS) = 4 };
typedef struct {
    int64_t steps;
    const int64_t *at;
    int streams;
    const char *row[NAME(STREAMS)];
    int64_t size[NAME(STREAMS)], time[NAME(STREAMS)], dim[NAME(STREAMS)]; /* of an element, a step and a channel, in bytes */
} NAME(ahead);

INLINE void NAME(expect)(NAME(ahead) *ahead, const ssm_sequence *x, int64_t offset) {
    if (!x->data) return;
    int64_t size = x->type ? 2 : sizeof(REAL);
    ahead->row[ahead->streams] = (const char *)x->data + offset * size;
    ahead->size[ahead->streams] = size;
    ahead->time[ahead->streams] = x->time * size;
    ahead->dim[ahead->streams++] = x->dim * size;
}
#define EXPECT(ahead, x) NAME(expect)(ahead, &(x), b * (x).batch + direction * (x).direction + c * (x).dim)

/* What the t-th step asks for: the row of its like, whose vector may straddle two lines, or, where steps are adjacent and
 * channels are rows, a line of a channel. */
INLINE void NAME(fetch)(const NAME(ahead) *ahead, int64_t t) {
    const int64_t line = 64 / sizeof(REAL);
    if (t >= ahead->steps) return;
#pragma GCC unroll 4
    for (int i = 0; i < NAME(STREAMS); i++) {
        if (i >= ahead->streams) break;
        int64_t offset = ahead->at[t] * ahead->time[i], size = ahead->size[i];
        if (ahead->time[i] == size) offset = (ahead->at[0] + t / VL * line % CHUNK) * size + t % VL * ahead->dim[i];
        __builtin_prefetch(ahead->row[i] + offset);
        if (ahead->dim[i] == size) __builtin_prefetch(ahead->row[i] + offset + (VL - 1) * size);
    }
}

/* ---- forward ---- */

/* Where the sum over the last block of states goes: the tile or, where nothing is left to do to it, home. */
typedef struct {
    REAL *p;
    int64_t step;
    const int64_t *at;
} NAME(target);

INLINE NAME(target) NAME(own)(NAME(tile) *tile) { return (NAME(target)){(REAL *)tile->y, VL, NAME(in_turn)}; }

/* `uniform`: one set of coefficients serves all states of a step. */
INLINE void NAME(fwd_states)(const int disc, const int tame, const int uniform, const int constant, const int nb,
                             const NAME(tile) *tile, const vec *A, vec *state, NAME(bc) bc, int64_t steps, NAME(target) out,
                             const NAME(ahead) *ahead) {
    vec h[8];
#pragma GCC unroll 8
    for (int n = 0; n < nb; n++) h[n] = state[n];
    for (int64_t t = 0; t < steps; t++) {
        NAME(fetch)(ahead, t);
        vec dt = tile->dt[t], dtu = tile->dtu[t], y = tile->y[t];
        const REAL *B = bc.B + t * bc.dstate, *C = bc.C + t * bc.dstate;
        vec kept[2][3];
        const int count = nb < 2 ? 1 : 2;
#pragma GCC unroll 8
        for (int n = 0; n < nb; n += count) {
            if (uniform && n == 0) NAME(coefficients)(disc, tame, 1, dt, A, kept);
            if (!uniform) NAME(coefficients)(disc, tame, count, dt, A + n, kept);
#pragma GCC unroll 2
            for (int i = 0; i < count; i++)
                h[n + i] = NAME(advance)(disc, tame, kept[uniform ? 0 : i], h[n + i], dtu,
                                         constant && bc.Bv ? bc.Bv[n + i] : NAME(splat)(B[n + i]));
            vec first = constant && bc.Cv ? bc.Cv[n] * h[n] : C[n] * h[n];
            if (count == 1) y += first;
            else y += first + (constant && bc.Cv ? bc.Cv[n + 1] * h[n + 1] : C[n + 1] * h[n + 1]);
        }
        NAME(write)(out.p + out.at[t] * out.step, y);
    }
#pragma GCC unroll 8
    for (int n = 0; n < nb; n++) state[n] = h[n];
}

/* Walks the states in blocks held in registers, by eights, then by fours and ones. Each combination that is worth it
 * is given to the compiler with constants; constant B or C, with which nobody trains, goes by single states. */
#define WALK(states, disc, tame, uniform)                                  \
    do {                                                                   \
        int64_t n = 0;                                                     \
        for (; n + 8 <= dstate; n += 8) states(disc, tame, uniform, 0, 8); \
        for (; n + 4 <= dstate; n += 4) states(disc, tame, uniform, 0, 4); \
        for (; n < dstate; n++) states(disc, tame, uniform, 0, 1);         \
    } while (0)
#define WALK_STATES(states)                                                                     \
    do {                                                                                        \
        if (constant) {                                                                         \
            for (int64_t n = 0; n < dstate; n++) states(disc, 0, 0, 1, 1);                      \
        } else if (disc == SSMCORE_MAMBA && tame && uniform) WALK(states, SSMCORE_MAMBA, 1, 1); \
        else if (disc == SSMCORE_MAMBA && tame) WALK(states, SSMCORE_MAMBA, 1, 0);              \
        else if (disc == SSMCORE_MAMBA) WALK(states, SSMCORE_MAMBA, 0, 0);                      \
        else if (disc == SSMCORE_BILINEAR && tame) WALK(states, SSMCORE_BILINEAR, 1, 0);        \
        else if (disc == SSMCORE_BILINEAR) WALK(states, SSMCORE_BILINEAR, 0, 0);                \
        else WALK(states, SSMCORE_ZOH, 0, 0);                                                   \
    } while (0)

static void NAME(fwd_tile)(int disc, int tame, int uniform, int constant, NAME(tile) *tile, const vec *A, vec *state,
                           NAME(bc) all, int64_t steps, NAME(target) out, const NAME(ahead) *ahead) {
    int64_t dstate = all.dstate;
    const NAME(target) own = NAME(own)(tile);
    static const NAME(ahead) nothing = {0};
#define FWD(disc, tame, uniform, constant, nb)                                                                   \
    NAME(fwd_states)(disc, tame, uniform, constant, nb, tile, A + n, state + n, NAME(from_state)(all, n), steps, \
                     n + (nb) < dstate ? own : out, n == 0 ? ahead : &nothing)
    WALK_STATES(FWD);
#undef FWD
}

typedef struct {
    int64_t part, b0, b1, g, c0, c1, block; /* batch entries [b0, b1), the part-th lot of them; channels [c0, c1) */
} NAME(unit);

INLINE int64_t NAME(blocks)(const ssm_scan *s) { return (s->dim / s->ngroups + s->block - 1) / s->block; }

INLINE NAME(unit) NAME(unit_at)(const ssm_scan *s, int64_t index) {
    int64_t per_group = s->dim / s->ngroups, nblocks = NAME(blocks)(s);
    NAME(unit) unit;
    unit.block = index % nblocks;
    unit.g = index / nblocks % s->ngroups;
    unit.part = index / nblocks / s->ngroups;
    unit.b0 = unit.part * s->span;
    unit.b1 = unit.b0 + s->span < s->batch ? unit.b0 + s->span : s->batch;
    unit.c0 = unit.g * per_group + unit.block * s->block;
    int64_t end = (unit.g + 1) * per_group;
    unit.c1 = unit.c0 + s->block < end ? unit.c0 + s->block : end;
    return unit;
}

#define BLOCK_VECS(s) (((s)->block + VL - 1) / VL)

/* One vector of channels of a unit in one direction: where its parameters and partial sums stand. */
typedef struct {
    int64_t c, lanes; /* first channel */
    int64_t row;      /* of c in (directions, dim) */
    int64_t sum_row;  /* of c in (parts, directions, dim) */
    int64_t index;    /* of the vector in (directions, ngroups, blocks, vectors of a block) */
} NAME(slot);

INLINE NAME(slot) NAME(slot_at)(const ssm_scan *s, const NAME(unit) *unit, int64_t direction, int64_t v) {
    NAME(slot) slot;
    slot.c = unit->c0 + v * VL;
    slot.lanes = unit->c1 - slot.c < VL ? unit->c1 - slot.c : VL;
    slot.row = direction * s->dim + slot.c;
    slot.sum_row = (unit->part * s->directions + direction) * s->dim + slot.c;
    slot.index = ((direction * s->ngroups + unit->g) * NAME(blocks)(s) + unit->block) * BLOCK_VECS(s) + v;
    return slot;
}

/* Row of a slot's first channel in (batch, directions, dim). */
INLINE int64_t NAME(state_row)(const ssm_scan *s, NAME(slot) slot, int64_t b) { return b * s->directions * s->dim + slot.row; }

/* A call: A of every slot as [state][lane], scaled as the kernel wants it, and its traits. */
typedef struct {
    const ssm_scan *s;
    vec *A;
    NAME(traits) *traits;
} NAME(job);

INLINE int64_t NAME(slots)(const ssm_scan *s) { return s->directions * s->ngroups * NAME(blocks)(s) * BLOCK_VECS(s); }

INLINE size_t NAME(job_bytes)(const ssm_scan *s) { return NAME(slots)(s) * (s->dstate * sizeof(vec) + sizeof(NAME(traits))) + 64; }

/* Fills `job`, whose arrays lie in `raw`. */
static void NAME(open_job)(NAME(job) *job, const ssm_scan *s, char *raw) {
    int64_t units = s->ngroups * NAME(blocks)(s), slots = NAME(slots)(s);
    job->s = s;
    job->A = (vec *)(((uintptr_t)raw + 63) / 64 * 64);
    job->traits = (NAME(traits) *)(job->A + slots * s->dstate);
    for (int64_t direction = 0; direction < s->directions; direction++)
        for (int64_t i = 0; i < units; i++) {
            NAME(unit) unit = NAME(unit_at)(s, i);
            for (int64_t v = 0; unit.c0 + v * VL < unit.c1; v++) {
                NAME(slot) slot = NAME(slot_at)(s, &unit, direction, v);
                vec *A = job->A + slot.index * s->dstate;
                NAME(load_rows)(A, (const REAL *)s->A + slot.row * s->dstate, s->dstate, slot.lanes);
                for (int64_t n = 0; n < s->dstate; n++) A[n] *= A_SCALE(s->discretization);
                job->traits[slot.index] = NAME(traits_of)(A, s->dstate);
            }
        }
}

/* Steps t to t + count of a tile; whether they are tame: >= 0, and dt a within REACH. */
INLINE ivec NAME(open_steps)(const int count, int64_t t, NAME(tile) *tile, const NAME(rows) *u_rows,
                             const NAME(rows) *delta_rows, const ssm_scan *s, vec bias, vec D, vec reach, const int softplus,
                             const int slopes) {
    vec limit = NAME(splat)(REACH(s->discretization)), dt[ABREAST], slope[ABREAST];
    ivec ok = ~(ivec){0};
    EACH dt[i] = NAME(row)(delta_rows, t + i) + bias;
    EACH slope[i] = NAME(splat)(1);
    if (softplus) NAME(softplus)(count, dt, slopes ? slope : 0);
    EACH {
        vec u = NAME(row)(u_rows, t + i);
        ok &= (dt[i] >= 0) & (dt[i] * reach <= limit);
        if (slopes) { /* the backward pass wants both again */
            tile->slope[t + i] = slope[i];
            tile->u[t + i] = u;
        }
        tile->dt[t + i] = dt[i];
        tile->dtu[t + i] = dt[i] * u * IN_SCALE(s->discretization);
        tile->y[t + i] = s->D ? D * u : (vec){0};
    }
    return ok;
}

/* Reads u and delta, applies bias and softplus, starts y; whether the tile is tame. */
OUTLINE int NAME(open_tile)(NAME(tile) *tile, const ssm_scan *s, int64_t b, int64_t direction, NAME(slot) slot,
                            const NAME(walk) *walk, vec reach, int slopes) {
    vec bias = NAME(lanes_of)(s->delta_bias, slot.row, slot.lanes), D = NAME(lanes_of)(s->D, slot.row, slot.lanes);
    NAME(rows) u_rows = NAME(rows_of)(tile->u, &s->u, b, direction, slot.c, walk, slot.lanes);
    NAME(rows) delta_rows = NAME(rows_of)(tile->dt, &s->delta, b, direction, slot.c, walk, slot.lanes);
    ivec ok = ~(ivec){0};
#define STEPS(count, t, softplus, slopes) \
    ok &= NAME(open_steps)(count, t, tile, &u_rows, &delta_rows, s, bias, D, reach, softplus, slopes)
    if (s->delta_softplus && slopes) TILE(walk->steps, STEPS, 1, 1);
    else if (s->delta_softplus) TILE(walk->steps, STEPS, 1, 0);
    else TILE(walk->steps, STEPS, 0, slopes);
#undef STEPS
    return NAME(all_lanes)(ok);
}

INLINE void NAME(gate_steps)(const int count, int64_t t, NAME(tile) *tile, const NAME(rows) *z_rows) {
    vec gate[ABREAST];
    EACH gate[i] = NAME(row)(z_rows, t + i);
    NAME(sigmoid)(count, gate);
    EACH tile->y[t + i] *= NAME(row)(z_rows, t + i) * gate[i];
}

/* Whether the last sum over states may go straight home: vectors lie there in one piece, ungated, and nobody adds to them. */
INLINE int NAME(direct)(const ssm_scan *s, int64_t direction, int64_t lanes) {
    return s->out.dim == 1 && lanes == VL && !s->out.type && !s->z.data && !(direction > 0 && s->out.direction == 0);
}

/* Gates y and brings it home. */
OUTLINE void NAME(close_tile)(NAME(tile) *tile, const ssm_scan *s, int64_t b, int64_t direction, NAME(slot) slot,
                              const NAME(walk) *walk) {
    if (s->z.data) {
        NAME(rows) z_rows = NAME(rows_of)(tile->z, &s->z, b, direction, slot.c, walk, slot.lanes);
#define STEPS(count, t) NAME(gate_steps)(count, t, tile, &z_rows)
        TILE(walk->steps, STEPS);
#undef STEPS
    }
    NAME(store_steps)(&s->out, b, direction, slot.c, tile->y, walk, slot.lanes);
}

#define CHECKPOINT(s, b, direction, chunk, slot) \
    ((REAL *)(s)->checkpoints + ((((direction) * (s)->batch + (b)) * nchunks + (chunk)) * (s)->dstate) * (s)->dim + (slot).c)

static int64_t NAME(fwd_scratch)(const ssm_scan *s) {
    return 2 * sizeof(NAME(walk)) + sizeof(NAME(tile)) + 3 * s->dstate * sizeof(vec) * BLOCK_VECS(s) + s->dstate * sizeof(vec) +
           2 * CHUNK * (s->dstate * sizeof(REAL) + 64) + 1024;
}

static void NAME(fwd_entry)(const NAME(job) *job, const NAME(unit) *unit, int64_t b, int64_t direction, char *arena) {
    const ssm_scan *s = job->s;
    int64_t dstate = s->dstate, vecs = (unit->c1 - unit->c0 + VL - 1) / VL, nchunks = (s->seqlen + CHUNK - 1) / CHUNK;
    NAME(walk) *walk = ARENA(arena, NAME(walk), 1);
    NAME(walk) *next = ARENA(arena, NAME(walk), 1);
    NAME(tile) *tile = ARENA(arena, NAME(tile), 1);
    vec *state = ARENA(arena, vec, vecs * dstate);
    vec *Bv = ARENA(arena, vec, vecs * dstate);
    vec *Cv = ARENA(arena, vec, vecs * dstate);
    vec *before = ARENA(arena, vec, dstate);
    REAL *B = ARENA(arena, REAL, CHUNK * dstate);
    REAL *C = ARENA(arena, REAL, CHUNK * dstate);
    int constant = s->B.constant || s->C.constant;
    int64_t plane = unit->g + direction * s->ngroups;
    for (int64_t v = 0; v < vecs; v++) {
        NAME(slot) slot = NAME(slot_at)(s, unit, direction, v);
        const REAL *h0 = s->initial_state;
        NAME(load_rows)(state + v * dstate, h0 ? h0 + NAME(state_row)(s, slot, b) * dstate : 0, dstate, slot.lanes);
        if (s->B.constant) NAME(load_rows)(Bv + v * dstate, (const REAL *)s->B.data + slot.row * dstate, dstate, slot.lanes);
        if (s->C.constant) NAME(load_rows)(Cv + v * dstate, (const REAL *)s->C.data + slot.row * dstate, dstate, slot.lanes);
    }
    NAME(walk_from)(next, s->seqlen, s->width, direction, 0);
    for (int64_t t0 = 0; t0 < s->seqlen; t0 += CHUNK) {
        NAME(walk) *spent = walk;
        walk = next;
        next = spent;
        next->steps = 0;
        if (t0 + CHUNK < s->seqlen) NAME(walk_from)(next, s->seqlen, s->width, direction, t0 + CHUNK);
        int64_t steps = walk->steps;
        if (!s->B.constant) NAME(load_matrix)(B, &s->B, b, plane, walk, dstate);
        if (!s->C.constant) NAME(load_matrix)(C, &s->C, b, plane, walk, dstate);
        for (int64_t v = 0; v < vecs; v++) {
            NAME(slot) slot = NAME(slot_at)(s, unit, direction, v);
            const vec *A = job->A + slot.index * dstate;
            NAME(traits) traits = job->traits[slot.index];
            vec *h = state + v * dstate;
            if (s->checkpoints)
                NAME(store_states)(CHECKPOINT(s, b, direction, t0 / CHUNK, slot), h, s->dim, dstate, slot.lanes);
            int tame = NAME(open_tile)(tile, s, b, direction, slot, walk, traits.reach, 0);
            NAME(bc) bc = {B, C, s->B.constant ? Bv + v * dstate : 0, s->C.constant ? Cv + v * dstate : 0, dstate};
            const NAME(walk) *then = v + 1 < vecs ? walk : next;
            int64_t c = v + 1 < vecs ? slot.c + VL : unit->c0;
            NAME(ahead) ahead = {then->steps, then->at, 0};
            EXPECT(&ahead, s->u);
            EXPECT(&ahead, s->delta);
            EXPECT(&ahead, s->z);
            EXPECT(&ahead, s->out);
            int direct = NAME(direct)(s, direction, slot.lanes);
            NAME(target) out = NAME(own)(tile);
            if (direct) {
                int64_t first = b * s->out.batch + direction * s->out.direction + slot.c;
                out = (NAME(target)){(REAL *)s->out.data + first, s->out.time, walk->at};
            }
            if (tame && !constant) {
                __builtin_memcpy(before, h, dstate * sizeof(vec));
                NAME(fwd_tile)(s->discretization, 1, traits.uniform, 0, tile, A, h, bc, steps, out, &ahead);
                tame = s->discretization == SSMCORE_MAMBA || NAME(finite)(h, dstate);
                if (!tame) {
                    __builtin_memcpy(h, before, dstate * sizeof(vec));
                    NAME(open_tile)(tile, s, b, direction, slot, walk, traits.reach, 0);
                }
            }
            if (!tame || constant) {
                NAME(fwd_tile)(s->discretization, 0, 0, constant, tile, A, h, bc, steps, out, &ahead);
            }
            if (!direct) NAME(close_tile)(tile, s, b, direction, slot, walk);
        }
    }
    for (int64_t v = 0; v < vecs; v++) {
        NAME(slot) slot = NAME(slot_at)(s, unit, direction, v);
        NAME(store_rows)(s->last_state, NAME(state_row)(s, slot, b), state + v * dstate, dstate, slot.lanes);
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

/* Takes the gate off dy, starts the gradient of z and the output before the gate. */
INLINE void NAME(ungate_steps)(const int count, int64_t t, NAME(tile) *tile, NAME(dtile) *d, const NAME(rows) *z_rows, vec D) {
    vec z[ABREAST], gate[ABREAST];
    EACH gate[i] = z[i] = NAME(row)(z_rows, t + i);
    NAME(sigmoid)(count, gate);
    EACH {
        d->dz[t + i] = d->dy[t + i] * gate[i] * (1 + z[i] * (1 - gate[i])); /* times y, once it is known */
        d->dy[t + i] *= z[i] * gate[i];
        tile->y[t + i] = D * tile->u[t + i];
    }
}

/* 0, and nothing written but scratch, where a tame tile turns out not to be. */
INLINE int NAME(bwd_states)(const int disc, const int tame, const int uniform, const int constant, const int nb,
                            NAME(tile) *tile,
                             NAME(dtile) *d, const vec *A, const vec *checkpoint, NAME(bc) bc, NAME(sweep) w, int64_t steps,
                            const NAME(ahead) *reads, const NAME(ahead) *writes) {
    const int nk = KEPT(disc), count = nb < 2 ? 1 : 2;
    vec now[2][3];
    vec h[8], dh[8], dA[8];
#pragma GCC unroll 8
    for (int n = 0; n < nb; n++) h[n] = w.h[n] = checkpoint[n];
    for (int64_t t = 0; t < steps; t++) {
        NAME(fetch)(reads, t);
        vec dt = tile->dt[t], dtu = tile->dtu[t];
        const REAL *B = bc.B + t * bc.dstate;
#pragma GCC unroll 8
        for (int n = 0; n < nb; n += count) {
            if (uniform && n == 0) NAME(coefficients)(disc, tame, 1, dt, A, now);
            if (!uniform) NAME(coefficients)(disc, tame, count, dt, A + n, now);
#pragma GCC unroll 2
            for (int i = 0; i < count; i++) {
                if (!uniform || n + i == 0)
                    for (int k = 0; k < nk; k++) w.kept[(t * nb + n + i) * nk + k] = now[i][k];
                h[n + i] = NAME(advance)(disc, tame, now[uniform ? 0 : i], h[n + i], dtu,
                                         constant && bc.Bv ? bc.Bv[n + i] : NAME(splat)(B[n + i]));
                w.h[(t + 1) * nb + n + i] = h[n + i];
            }
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
        NAME(fetch)(writes, t);
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
                dh[n] = tame ? g * kept[0] - g : g * (kept[0] - 1); /* equal, while finite */
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
                           const vec *checkpoint, NAME(bc) all, NAME(sweep) w, int64_t steps,
                           const NAME(ahead) *reads, const NAME(ahead) *writes) {
    int64_t dstate = all.dstate;
    static const NAME(ahead) nothing = {0};
#define SWEEP(disc, tame, uniform, constant, nb, n)                                                                           \
    NAME(bwd_states)(disc, tame, uniform, constant, nb, tile, d, A + (n), checkpoint + (n), NAME(from_state)(all, n),         \
                     (NAME(sweep)){w.h, w.kept, w.dstate + (n), w.dA + (n), w.dB + (n), w.dC + (n), w.read_out}, steps,                                  \
                     (n) == 0 ? reads : &nothing, (n) == 0 ? writes : &nothing)
#define BWD(disc, tame, uniform, constant, nb)                                        \
    if (!SWEEP(disc, tame, uniform, constant, nb, n))                                 \
        for (int64_t k = n; k < n + (nb); k++) SWEEP(disc, 0, 0, constant, 1, k)
    WALK_STATES(BWD);
#undef BWD
#undef SWEEP
}

/* Gradient of a varying B or C: the lanes of each (step, state) summed into this block's own plane. */
INLINE void NAME(store_matrix_grad)(void *gradient, const ssm_scan *s, const NAME(unit) *unit, int64_t b, int64_t direction,
                                    const NAME(walk) *walk, const vec *sums) {
    int64_t planes = s->directions * s->ngroups, dstate = s->dstate;
    REAL *p = (REAL *)gradient + ((unit->block * s->batch + b) * s->seqlen * planes + unit->g + direction * s->ngroups) * dstate;
    for (int64_t t = 0; t < walk->steps; t++) {
        const vec *row = sums + t * dstate;
        REAL *to = p + walk->at[t] * planes * dstate;
        int64_t n = 0;
        for (; n + VL <= dstate; n += VL) {
            NAME(write)(to + n, NAME(lane_sums)(row + n));
        }
        for (; n < dstate; n++) {
            REAL total = 0;
            for (int i = 0; i < VL; i++) total += row[n][i];
            to[n] = total;
        }
    }
}

/* Per vector of channels, what a unit sums over its batch entries. */
typedef struct {
    vec *dA, *dB, *dC; /* [dstate]; dB and dC where constant */
    vec *dD, *dbias;   /* one each */
} NAME(sums);

static int64_t NAME(bwd_scratch)(const ssm_scan *s) {
    int64_t states = s->dstate * sizeof(vec);
    return 2 * sizeof(NAME(walk)) + sizeof(NAME(tile)) + sizeof(NAME(dtile)) + (4 * states + 2 * sizeof(vec)) * BLOCK_VECS(s) +
           3 * states + 2 * CHUNK * (s->dstate * sizeof(REAL) + 64) + ((CHUNK + 1) + 3 * CHUNK) * 8 * sizeof(vec) +
           2 * CHUNK * states + 2048;
}

static void NAME(bwd_entry)(const NAME(job) *job, const NAME(unit) *unit, int64_t b, int64_t direction, NAME(sums) sums,
                            char *arena) {
    const ssm_scan *s = job->s;
    int64_t dstate = s->dstate, vecs = (unit->c1 - unit->c0 + VL - 1) / VL, nchunks = (s->seqlen + CHUNK - 1) / CHUNK;
    NAME(walk) *walk = ARENA(arena, NAME(walk), 1);
    NAME(walk) *next = ARENA(arena, NAME(walk), 1);
    NAME(tile) *tile = ARENA(arena, NAME(tile), 1);
    NAME(dtile) *d = ARENA(arena, NAME(dtile), 1);
    vec *dh = ARENA(arena, vec, vecs * dstate);
    vec *checkpoint = ARENA(arena, vec, dstate);
    vec *Bv = ARENA(arena, vec, dstate);
    vec *Cv = ARENA(arena, vec, dstate);
    REAL *B = ARENA(arena, REAL, CHUNK * dstate);
    REAL *C = ARENA(arena, REAL, CHUNK * dstate);
    vec *h = ARENA(arena, vec, (CHUNK + 1) * 8);
    vec *kept = ARENA(arena, vec, CHUNK * 8 * 3);
    vec *dB = ARENA(arena, vec, CHUNK * dstate);
    vec *dC = ARENA(arena, vec, CHUNK * dstate);
    int constant = s->B.constant || s->C.constant;
    int64_t plane = unit->g + direction * s->ngroups;
    for (int64_t v = 0; v < vecs; v++) {
        NAME(slot) slot = NAME(slot_at)(s, unit, direction, v);
        const REAL *dlast = s->dlast_state;
        NAME(load_rows)(dh + v * dstate, dlast ? dlast + NAME(state_row)(s, slot, b) * dstate : 0, dstate, slot.lanes);
    }
    NAME(walk_from)(next, s->seqlen, s->width, direction, (nchunks - 1) * CHUNK);
    for (int64_t chunk = nchunks; chunk-- > 0;) {
        NAME(walk) *spent = walk;
        walk = next;
        next = spent;
        next->steps = 0;
        if (chunk > 0) NAME(walk_from)(next, s->seqlen, s->width, direction, (chunk - 1) * CHUNK);
        int64_t steps = walk->steps;
        if (!s->B.constant) NAME(load_matrix)(B, &s->B, b, plane, walk, dstate);
        if (!s->C.constant) NAME(load_matrix)(C, &s->C, b, plane, walk, dstate);
        __builtin_memset(dB, 0, steps * dstate * sizeof(vec));
        __builtin_memset(dC, 0, steps * dstate * sizeof(vec));
        for (int64_t v = 0; v < vecs; v++) {
            NAME(slot) slot = NAME(slot_at)(s, unit, direction, v);
            NAME(traits) traits = job->traits[slot.index];
            vec D = NAME(lanes_of)(s->D, slot.row, slot.lanes);
            NAME(load_states)(checkpoint, CHECKPOINT(s, b, direction, chunk, slot), s->dim, dstate, slot.lanes);
            if (s->B.constant) NAME(load_rows)(Bv, (const REAL *)s->B.data + slot.row * dstate, dstate, slot.lanes);
            if (s->C.constant) NAME(load_rows)(Cv, (const REAL *)s->C.data + slot.row * dstate, dstate, slot.lanes);
            int tame = NAME(open_tile)(tile, s, b, direction, slot, walk, traits.reach, 1);
            NAME(load_steps)(d->dy, &s->dout, b, direction, slot.c, walk, slot.lanes);
            if (s->z.data) {
                NAME(rows) z_rows = NAME(rows_of)(tile->z, &s->z, b, direction, slot.c, walk, slot.lanes);
#define STEPS(count, t) NAME(ungate_steps)(count, t, tile, d, &z_rows, D)
                TILE(steps, STEPS);
#undef STEPS
            }
            for (int64_t t = 0; t < steps; t++) {
                d->du[t] = D * d->dy[t];
                d->ddt[t] = (vec){0};
            }
            NAME(bc) bc = {B, C, s->B.constant ? Bv : 0, s->C.constant ? Cv : 0, dstate};
            NAME(sweep) sweep = {h, kept, dh + v * dstate, sums.dA + v * dstate, s->B.constant ? sums.dB + v * dstate : dB,
                                 s->C.constant ? sums.dC + v * dstate : dC, s->z.data != 0};
            const NAME(walk) *then = v + 1 < vecs ? walk : next;
            int64_t c = v + 1 < vecs ? slot.c + VL : unit->c0;
            NAME(ahead) reads = {then->steps, then->at, 0}, writes = reads;
            EXPECT(&reads, s->u);
            EXPECT(&reads, s->delta);
            EXPECT(&reads, s->z);
            EXPECT(&reads, s->dout);
            EXPECT(&writes, s->du);
            EXPECT(&writes, s->ddelta);
            EXPECT(&writes, s->dz);
            NAME(bwd_tile)(s->discretization, tame, traits.uniform, constant, tile, d, job->A + slot.index * dstate, checkpoint,
                           bc, sweep, steps, &reads, &writes);
            vec sum_D = {0}, sum_bias = {0};
            for (int64_t t = 0; t < steps; t++) {
                d->ddt[t] *= tile->slope[t];
                sum_D += d->dy[t] * tile->u[t];
                sum_bias += d->ddt[t];
            }
            sums.dD[v] += sum_D;
            sums.dbias[v] += sum_bias;
            NAME(store_steps)(&s->du, b, direction, slot.c, d->du, walk, slot.lanes);
            NAME(store_steps)(&s->ddelta, b, direction, slot.c, d->ddt, walk, slot.lanes);
            if (s->z.data) {
                for (int64_t t = 0; t < steps; t++) d->dz[t] *= tile->y[t];
                NAME(store_steps)(&s->dz, b, direction, slot.c, d->dz, walk, slot.lanes);
            }
        }
        if (!s->B.constant) NAME(store_matrix_grad)(s->dB, s, unit, b, direction, walk, dB);
        if (!s->C.constant) NAME(store_matrix_grad)(s->dC, s, unit, b, direction, walk, dC);
    }
    for (int64_t v = 0; v < vecs; v++) {
        NAME(slot) slot = NAME(slot_at)(s, unit, direction, v);
        NAME(store_rows)(s->dinitial_state, NAME(state_row)(s, slot, b), dh + v * dstate, dstate, slot.lanes);
    }
}

static void NAME(bwd_direction)(const NAME(job) *job, const NAME(unit) *unit, int64_t direction, char *arena) {
    const ssm_scan *s = job->s;
    int64_t dstate = s->dstate, vecs = (unit->c1 - unit->c0 + VL - 1) / VL;
    vec *first = ARENA(arena, vec, (3 * dstate + 2) * vecs);
    NAME(sums) sums = {first, first + dstate * vecs, first + 2 * dstate * vecs, first + 3 * dstate * vecs,
                       first + (3 * dstate + 1) * vecs};
    __builtin_memset(first, 0, (3 * dstate + 2) * vecs * sizeof(vec));
    for (int64_t b = unit->b0; b < unit->b1; b++) NAME(bwd_entry)(job, unit, b, direction, sums, arena);
    for (int64_t v = 0; v < vecs; v++) {
        NAME(slot) slot = NAME(slot_at)(s, unit, direction, v);
        NAME(store_rows)(s->dA, slot.sum_row, sums.dA + v * dstate, dstate, slot.lanes);
        if (s->B.constant) NAME(store_rows)(s->dB, slot.sum_row, sums.dB + v * dstate, dstate, slot.lanes);
        if (s->C.constant) NAME(store_rows)(s->dC, slot.sum_row, sums.dC + v * dstate, dstate, slot.lanes);
        if (s->dD) __builtin_memcpy((REAL *)s->dD + slot.sum_row, &sums.dD[v], slot.lanes * sizeof(REAL));
        if (s->ddelta_bias) __builtin_memcpy((REAL *)s->ddelta_bias + slot.sum_row, &sums.dbias[v], slot.lanes * sizeof(REAL));
    }
}

/* ---- threads ---- */

static void NAME(fwd_unit)(const void *task, int64_t index, char *arena) {
    const NAME(job) *job = task;
    NAME(unit) unit = NAME(unit_at)(job->s, index);
    for (int64_t b = unit.b0; b < unit.b1; b++)
        for (int64_t direction = 0; direction < job->s->directions; direction++)
            NAME(fwd_entry)(job, &unit, b, direction, arena);
}

static void NAME(bwd_unit)(const void *task, int64_t index, char *arena) {
    const NAME(job) *job = task;
    NAME(unit) unit = NAME(unit_at)(job->s, index);
    for (int64_t direction = 0; direction < job->s->directions; direction++) NAME(bwd_direction)(job, &unit, direction, arena);
}

static int NAME(run)(const ssm_scan *s, int64_t per_element, int64_t scratch, void (*unit)(const void *, int64_t, char *)) {
    NAME(job) job;
    char *raw = ssm_allocate(s->workers, NAME(job_bytes)(s));
    if (!raw) return SSMCORE_ERROR_MEMORY;
    NAME(open_job)(&job, s, raw);
    int64_t parts = (s->batch + s->span - 1) / s->span;
    int64_t units = parts * s->ngroups * NAME(blocks)(s);
    int64_t cost = per_element * s->batch * s->directions * s->seqlen * s->dim * s->dstate;
    int status = ssm_run_units(&job, units, s->workers, cost, scratch, unit);
    ssm_release(s->workers, raw, NAME(job_bytes)(s));
    return status;
}

int NAME(ssm_scan_fwd)(const ssm_scan *s) { return NAME(run)(s, 10, NAME(fwd_scratch)(s), NAME(fwd_unit)); }

int NAME(ssm_scan_bwd)(const ssm_scan *s) { return NAME(run)(s, 30, NAME(bwd_scratch)(s), NAME(bwd_unit)); }

#undef EXPECT
#undef A_SCALE
#undef IN_SCALE
#undef KEPT
#undef REACH
#undef WALK
#undef WALK_STATES
#undef BLOCK_VECS
#undef CHECKPOINT
