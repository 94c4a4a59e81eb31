/* Between strided memory and tiles [step][lane], for one instruction set and one type. */
#include "arrays.h"
#include "vecmath.h"

#define CHUNK SSMCORE_CHUNK

/* Walks a tile's steps by `body(count, t, ...)`, ABREAST at a time. */
#define TILE(steps, body, ...)                                                     \
    do {                                                                           \
        int64_t t = 0;                                                             \
        for (; t + ABREAST <= (steps); t += ABREAST) body(ABREAST, t, ##__VA_ARGS__); \
        for (; t < (steps); t++) body(1, t, ##__VA_ARGS__);                        \
    } while (0)

/* The positions of a tile's steps: along rows, along columns, or either backwards. */
typedef struct {
    int64_t steps;
    int in_order; /* at[t] = at[0] + t */
    int64_t at[CHUNK];
} NAME(walk);

/* From step t0 of a grid's positions, `width` a row; a sequence is a row. */
INLINE void NAME(walk_from)(NAME(walk) *walk, int64_t positions, int64_t width, int64_t direction, int64_t t0) {
    int64_t height = positions / width;
    walk->steps = positions - t0 < CHUNK ? positions - t0 : CHUNK;
    walk->in_order = direction == 0;
    int64_t step = direction & SSMCORE_REVERSED ? -1 : 1, first = step > 0 ? t0 : positions - 1 - t0;
    if (!(direction & SSMCORE_COLUMNS)) {
        for (int64_t t = 0; t < walk->steps; t++) walk->at[t] = first + step * t;
        return;
    }
    int64_t y = first % height, x = first / height;
    for (int64_t t = 0; t < walk->steps; t++) {
        walk->at[t] = y * width + x;
        y += step;
        if (y == height || y < 0) {
            y -= step * height;
            x += step;
        }
    }
}

OUTLINE void NAME(load)(vec *tile, const REAL *p, int64_t time, int64_t dim, const NAME(walk) *walk, int64_t lanes) {
    const int64_t *at = walk->at, steps = walk->steps;
    if (dim == 1 && lanes == VL) {
        for (int64_t t = 0; t < steps; t++) tile[t] = NAME(read)(p + at[t] * time);
        return;
    }
    REAL *flat = (REAL *)tile;
    if (lanes < VL) __builtin_memset(tile, 0, steps * sizeof(vec));
    if (time == 1 && walk->in_order) {
        for (int64_t d = 0; d < lanes; d++)
            for (int64_t t = 0; t < steps; t++) flat[t * VL + d] = p[d * dim + at[0] + t];
        return;
    }
    for (int64_t t = 0; t < steps; t++)
        for (int64_t d = 0; d < lanes; d++) flat[t * VL + d] = p[at[t] * time + d * dim];
}

OUTLINE void NAME(store)(REAL *p, const vec *tile, int64_t time, int64_t dim, const NAME(walk) *walk, int64_t lanes,
                        int add) {
    const int64_t *at = walk->at, steps = walk->steps;
    if (dim == 1 && lanes == VL) {
        for (int64_t t = 0; t < steps; t++) {
            REAL *to = p + at[t] * time;
            NAME(write)(to, add ? NAME(read)(to) + tile[t] : tile[t]);
        }
        return;
    }
    const REAL *flat = (const REAL *)tile;
    if (add) {
        for (int64_t t = 0; t < steps; t++)
            for (int64_t d = 0; d < lanes; d++) p[at[t] * time + d * dim] += flat[t * VL + d];
        return;
    }
    if (time == 1 && walk->in_order) {
        for (int64_t d = 0; d < lanes; d++)
            for (int64_t t = 0; t < steps; t++) p[d * dim + at[0] + t] = flat[t * VL + d];
        return;
    }
    for (int64_t t = 0; t < steps; t++)
        for (int64_t d = 0; d < lanes; d++) p[at[t] * time + d * dim] = flat[t * VL + d];
}

/* What a loop over a tile's steps reads, a vector a step: the caller's memory itself where a vector lies there in one piece,
 * else a tile that it has been brought into. */
typedef struct {
    const REAL *p;
    int64_t step;
    const int64_t *at;
} NAME(rows);

INLINE vec NAME(row)(const NAME(rows) *rows, int64_t t) { return NAME(read)(rows->p + rows->at[t] * rows->step); }

static const int64_t NAME(in_turn)[CHUNK] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                             22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
                                             44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};

/* A sequence of a direction, for the channels from c on. What has no direction's stride is shared: read by all, added to. */
INLINE NAME(rows) NAME(rows_of)(vec *tile, const ssm_in *x, int64_t b, int64_t direction, int64_t c, const NAME(walk) *walk,
                                int64_t lanes) {
    const REAL *p = (const REAL *)x->data + b * x->batch + direction * x->direction + c * x->dim;
    if (x->dim == 1 && lanes == VL) return (NAME(rows)){p, x->time, walk->at};
    NAME(load)(tile, p, x->time, x->dim, walk, lanes);
    return (NAME(rows)){(const REAL *)tile, VL, NAME(in_turn)};
}

INLINE void NAME(load_steps)(vec *tile, const ssm_in *x, int64_t b, int64_t direction, int64_t c, const NAME(walk) *walk,
                             int64_t lanes) {
    NAME(load)(tile, (const REAL *)x->data + b * x->batch + direction * x->direction + c * x->dim, x->time, x->dim, walk,
               lanes);
}

INLINE void NAME(store_steps)(const ssm_out *x, int64_t b, int64_t direction, int64_t c, const vec *tile,
                              const NAME(walk) *walk, int64_t lanes) {
    NAME(store)((REAL *)x->data + b * x->batch + direction * x->direction + c * x->dim, tile, x->time, x->dim, walk, lanes,
                direction > 0 && x->direction == 0);
}

/* Per-channel rows of (dim, count) arrays as [entry][lane]. */
INLINE void NAME(load_rows)(vec *state, const REAL *p, int64_t dstate, int64_t lanes) {
    if (!p || lanes < VL) __builtin_memset(state, 0, dstate * sizeof(vec));
    if (!p) return;
    REAL *flat = (REAL *)state;
    for (int64_t d = 0; d < lanes; d++)
        for (int64_t n = 0; n < dstate; n++) flat[n * VL + d] = p[d * dstate + n];
}

INLINE void NAME(store_rows)(void *rows, int64_t row, const vec *state, int64_t dstate, int64_t lanes) {
    if (!rows) return;
    REAL *p = (REAL *)rows + row * dstate;
    const REAL *flat = (const REAL *)state;
    for (int64_t d = 0; d < lanes; d++)
        for (int64_t n = 0; n < dstate; n++) p[d * dstate + n] = flat[n * VL + d];
}

INLINE vec NAME(lanes_of)(const void *p, int64_t row, int64_t lanes) {
    vec v = {0};
    if (p && lanes == VL) return NAME(read)((const REAL *)p + row);
    if (p) __builtin_memcpy(&v, (const REAL *)p + row, lanes * sizeof(REAL));
    return v;
}

/* Sums over the lanes of VL vectors, that of v[i] in lane i, in a fixed order. */
INLINE vec NAME(lane_sums)(const vec *v) {
#ifdef LANE_SUMS
    return LANE_SUMS(v);
#elif defined(__clang__)
    vec total;
    for (int i = 0; i < VL; i++) {
        REAL sum = 0;
        for (int k = 0; k < VL; k++) sum += v[i][k];
        total[i] = sum;
    }
    return total;
#else
    vec sums[VL];
    for (int i = 0; i < VL; i++) sums[i] = v[i];
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

/* Carves the next array out of a unit's scratch memory, aligned for vectors. */
#define ARENA(arena, type, count) \
    (type *)arena;                \
    arena += ((count) * sizeof(type) + 63) / 64 * 64
