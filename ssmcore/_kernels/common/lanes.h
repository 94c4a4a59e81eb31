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

/* Of a square of VL vectors, blocks of `width` change places across the diagonal. */
INLINE void NAME(turn_blocks)(const int width, vec *v) {
    if (width >= VL) return;
#if defined(__clang__)
    for (int i = 0; i < VL; i++)
        for (int k = 0; k < VL; k++)
            if (!(i & width) && (k & width)) {
                REAL kept = v[i][k];
                v[i][k] = v[i + width][k - width];
                v[i + width][k - width] = kept;
            }
#else
    ivec low, high;
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) {
        low[i] = i & width ? VL + i - width : i;
        high[i] = i & width ? VL + i : i + width;
    }
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) {
        if (i & width) continue;
        vec a = v[i], b = v[i + width];
        v[i] = __builtin_shuffle(a, b, low);
        v[i + width] = __builtin_shuffle(a, b, high);
    }
#endif
}

/* Rows to columns of VL vectors, in place. Widths are spelt out, so that the compiler knows every shuffle. */
INLINE void NAME(transpose)(vec *v) {
    NAME(turn_blocks)(1, v);
    NAME(turn_blocks)(2, v);
    NAME(turn_blocks)(4, v);
    NAME(turn_blocks)(8, v);
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
        int64_t t = 0;
        for (p += at[0]; t + VL <= steps; t += VL) {
            vec block[VL];
#pragma GCC unroll 16
            for (int d = 0; d < VL; d++) block[d] = d < lanes ? NAME(read)(p + d * dim + t) : (vec){0};
            NAME(transpose)(block);
            for (int k = 0; k < VL; k++) tile[t + k] = block[k];
        }
        for (; t < steps; t++)
            for (int64_t d = 0; d < lanes; d++) flat[t * VL + d] = p[d * dim + t];
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
        int64_t t = 0;
        for (p += at[0]; t + VL <= steps; t += VL) {
            vec block[VL];
            for (int k = 0; k < VL; k++) block[k] = tile[t + k];
            NAME(transpose)(block);
            for (int64_t d = 0; d < lanes; d++) NAME(write)(p + d * dim + t, block[d]);
        }
        for (; t < steps; t++)
            for (int64_t d = 0; d < lanes; d++) p[d * dim + t] = flat[t * VL + d];
        return;
    }
    for (int64_t t = 0; t < steps; t++)
        for (int64_t d = 0; d < lanes; d++) p[at[t] * time + d * dim] = flat[t * VL + d];
}

#if !REAL_IS_DOUBLE
/* ---- float16 and bfloat16 ---- */

typedef uint16_t NAME(hvec) __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef uint16_t NAME(hvec_anywhere) __attribute__((vector_size(VECTOR_BYTES / 2), aligned(2), may_alias));

/* Exact, without subnormal numbers of float32, which a thread may treat as 0. */
INLINE vec NAME(widened)(NAME(hvec) narrow, const int brain) {
    ivec bits = __builtin_convertvector(narrow, ivec);
    if (brain) return (vec)(bits << 16);
    ivec size = bits & 0x7fff, sign = (bits & 0x8000) << 16;
    vec subnormal = __builtin_convertvector(size, vec) * 0x1p-24f;
    vec normal = (vec)((size << 13) + (112 << 23)), special = (vec)((size << 13) + (224 << 23));
    return (vec)((ivec)NAME(select)(size < 0x400, subnormal, NAME(select)(size < 0x7c00, normal, special)) | sign);
}

/* To the nearest, ties to even. */
INLINE NAME(hvec) NAME(narrowed)(vec x, const int brain) {
    ivec bits = (ivec)x, size = bits & 0x7fffffff, sign = bits >> 16 & 0x8000, nan = size > 0x7f800000, found;
    if (brain) {
        found = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        return __builtin_convertvector((nan & (sign | 0x7fc0)) | (~nan & found), NAME(hvec));
    }
    ivec small = size < 0x38800000, large = size >= 0x477ff000; /* below 2^-14; 65520 and more */
    ivec low = (ivec)((vec)size + 0.5f) - 0x3f000000, middle = (size + 0xfff + (size >> 13 & 1) - 0x38000000) >> 13;
    found = (small & low) | (~small & middle);
    found = (large & 0x7c00) | (~large & found);
    return __builtin_convertvector((nan & 0x7e00) | (~nan & found) | sign, NAME(hvec));
}

INLINE vec NAME(read_narrow)(const uint16_t *p, const int brain) { return NAME(widened)(*(const NAME(hvec_anywhere) *)p, brain); }

INLINE void NAME(load_narrow)(vec *tile, const uint16_t *p, int64_t time, int64_t dim, const NAME(walk) *walk, int64_t lanes,
                              const int brain) {
    const int64_t *at = walk->at, steps = walk->steps;
    int64_t t = 0;
    if (dim == 1 && lanes == VL) {
        for (; t < steps; t++) tile[t] = NAME(read_narrow)(p + at[t] * time, brain);
        return;
    }
    if (time == 1 && walk->in_order)
        for (; t + VL <= steps; t += VL) {
            vec block[VL];
#pragma GCC unroll 16
            for (int d = 0; d < VL; d++) block[d] = d < lanes ? NAME(read_narrow)(p + at[t] + d * dim, brain) : (vec){0};
            NAME(transpose)(block);
            for (int k = 0; k < VL; k++) tile[t + k] = block[k];
        }
    for (; t < steps; t++) {
        NAME(hvec) row = {0};
        for (int64_t d = 0; d < lanes; d++) row[d] = p[at[t] * time + d * dim];
        tile[t] = NAME(widened)(row, brain);
    }
}

INLINE void NAME(store_narrow)(uint16_t *p, const vec *tile, int64_t time, int64_t dim, const NAME(walk) *walk, int64_t lanes,
                               const int brain) {
    const int64_t *at = walk->at, steps = walk->steps;
    int64_t t = 0;
    if (time == 1 && dim != 1 && walk->in_order)
        for (; t + VL <= steps; t += VL) {
            vec block[VL];
            for (int k = 0; k < VL; k++) block[k] = tile[t + k];
            NAME(transpose)(block);
            for (int64_t d = 0; d < lanes; d++) *(NAME(hvec_anywhere) *)(p + at[t] + d * dim) = NAME(narrowed)(block[d], brain);
        }
    for (; t < steps; t++) {
        NAME(hvec) row = NAME(narrowed)(tile[t], brain);
        if (dim == 1 && lanes == VL)
            *(NAME(hvec_anywhere) *)(p + at[t] * time) = row;
        else
            for (int64_t d = 0; d < lanes; d++) p[at[t] * time + d * dim] = row[d];
    }
}

OUTLINE void NAME(load_f16)(vec *tile, const uint16_t *p, int64_t time, int64_t dim, const NAME(walk) *walk, int64_t lanes) {
    NAME(load_narrow)(tile, p, time, dim, walk, lanes, 0);
}

OUTLINE void NAME(load_bf16)(vec *tile, const uint16_t *p, int64_t time, int64_t dim, const NAME(walk) *walk, int64_t lanes) {
    NAME(load_narrow)(tile, p, time, dim, walk, lanes, 1);
}

OUTLINE void NAME(store_f16)(uint16_t *p, const vec *tile, int64_t time, int64_t dim, const NAME(walk) *walk, int64_t lanes) {
    NAME(store_narrow)(p, tile, time, dim, walk, lanes, 0);
}

OUTLINE void NAME(store_bf16)(uint16_t *p, const vec *tile, int64_t time, int64_t dim, const NAME(walk) *walk, int64_t lanes) {
    NAME(store_narrow)(p, tile, time, dim, walk, lanes, 1);
}
#endif

/* An element, and a tile, of memory of any type a sequence may have; `offset` counts elements. */
INLINE REAL NAME(element)(const void *data, int type, int64_t offset) {
#if !REAL_IS_DOUBLE
    if (type) {
        NAME(hvec) one = {((const uint16_t *)data)[offset]};
        return (type == SSMCORE_BFLOAT16 ? NAME(widened)(one, 1) : NAME(widened)(one, 0))[0];
    }
#endif
    (void)type;
    return ((const REAL *)data)[offset];
}

INLINE void NAME(load_any)(vec *tile, const ssm_sequence *x, int64_t offset, const NAME(walk) *walk, int64_t lanes) {
#if !REAL_IS_DOUBLE
    const uint16_t *narrow = (const uint16_t *)x->data + offset;
    if (x->type == SSMCORE_BFLOAT16) {
        NAME(load_bf16)(tile, narrow, x->time, x->dim, walk, lanes);
        return;
    }
    if (x->type == SSMCORE_FLOAT16) {
        NAME(load_f16)(tile, narrow, x->time, x->dim, walk, lanes);
        return;
    }
#endif
    NAME(load)(tile, (const REAL *)x->data + offset, x->time, x->dim, walk, lanes);
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
INLINE NAME(rows) NAME(rows_of)(vec *tile, const ssm_sequence *x, int64_t b, int64_t direction, int64_t c, const NAME(walk) *walk,
                                int64_t lanes) {
    int64_t offset = b * x->batch + direction * x->direction + c * x->dim;
    if (x->dim == 1 && lanes == VL && !x->type) return (NAME(rows)){(const REAL *)x->data + offset, x->time, walk->at};
    NAME(load_any)(tile, x, offset, walk, lanes);
    return (NAME(rows)){(const REAL *)tile, VL, NAME(in_turn)};
}

INLINE void NAME(load_steps)(vec *tile, const ssm_sequence *x, int64_t b, int64_t direction, int64_t c, const NAME(walk) *walk,
                             int64_t lanes) {
    NAME(load_any)(tile, x, b * x->batch + direction * x->direction + c * x->dim, walk, lanes);
}

INLINE void NAME(store_steps)(const ssm_sequence *x, int64_t b, int64_t direction, int64_t c, const vec *tile,
                              const NAME(walk) *walk, int64_t lanes) {
    int64_t offset = b * x->batch + direction * x->direction + c * x->dim;
#if !REAL_IS_DOUBLE
    uint16_t *narrow = (uint16_t *)x->data + offset; /* of one direction: nobody adds to a rounded sum */
    if (x->type == SSMCORE_BFLOAT16) {
        NAME(store_bf16)(narrow, tile, x->time, x->dim, walk, lanes);
        return;
    }
    if (x->type == SSMCORE_FLOAT16) {
        NAME(store_f16)(narrow, tile, x->time, x->dim, walk, lanes);
        return;
    }
#endif
    NAME(store)((REAL *)x->data + offset, tile, x->time, x->dim, walk, lanes, direction > 0 && x->direction == 0);
}

/* Per-channel rows of (dim, count) arrays as [entry][lane], VL entries at once where all lanes are in use. */
INLINE void NAME(load_rows)(vec *state, const REAL *p, int64_t dstate, int64_t lanes) {
    if (!p || lanes < VL) __builtin_memset(state, 0, dstate * sizeof(vec));
    if (!p) return;
    int64_t done = 0;
    if (lanes == VL)
        for (; done + VL <= dstate; done += VL) {
            vec block[VL];
#pragma GCC unroll 16
            for (int d = 0; d < VL; d++) block[d] = NAME(read)(p + d * dstate + done);
            NAME(transpose)(block);
#pragma GCC unroll 16
            for (int n = 0; n < VL; n++) state[done + n] = block[n];
        }
    REAL *flat = (REAL *)state;
    for (int64_t d = 0; d < lanes; d++)
        for (int64_t n = done; n < dstate; n++) flat[n * VL + d] = p[d * dstate + n];
}

INLINE void NAME(store_rows)(void *rows, int64_t row, const vec *state, int64_t dstate, int64_t lanes) {
    if (!rows) return;
    REAL *p = (REAL *)rows + row * dstate;
    int64_t done = 0;
    if (lanes == VL)
        for (; done + VL <= dstate; done += VL) {
            vec block[VL];
#pragma GCC unroll 16
            for (int n = 0; n < VL; n++) block[n] = state[done + n];
            NAME(transpose)(block);
#pragma GCC unroll 16
            for (int d = 0; d < VL; d++) NAME(write)(p + d * dstate + done, block[d]);
        }
    const REAL *flat = (const REAL *)state;
    for (int64_t d = 0; d < lanes; d++)
        for (int64_t n = done; n < dstate; n++) p[d * dstate + n] = flat[n * VL + d];
}

INLINE vec NAME(lanes_of)(const void *p, int64_t row, int64_t lanes) {
    vec v = {0};
    if (p && lanes == VL) return NAME(read)((const REAL *)p + row);
    if (p) __builtin_memcpy(&v, (const REAL *)p + row, lanes * sizeof(REAL));
    return v;
}

/* Neighbouring lanes of neighbouring vectors are added: 2 VL / width vectors become half as many. */
INLINE void NAME(fold)(const int width, vec *sums) {
    if (width >= VL) return;
#if defined(__clang__)
    for (int i = 0; i < VL / 2 / width; i++) {
        vec total;
        for (int k = 0; k < VL; k++) {
            vec of = k & width ? sums[2 * i + 1] : sums[2 * i];
            total[k] = of[k] + of[k ^ width];
        }
        sums[i] = total;
    }
#else
    ivec own, other; /* lane i stays with the first of two vectors where i & width is 0, and takes its neighbour's */
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) {
        own[i] = i & width ? VL + i : i;
        other[i] = own[i] ^ width;
    }
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++)
        if (2 * i * width < VL)
            sums[i] = __builtin_shuffle(sums[2 * i], sums[2 * i + 1], own) +
                      __builtin_shuffle(sums[2 * i], sums[2 * i + 1], other);
#endif
}

/* Sums over the lanes of VL vectors, that of v[i] in lane i, in a fixed order. Widths are spelt out, so that the compiler knows
 * every shuffle. */
INLINE vec NAME(lane_sums)(const vec *v) {
#ifdef LANE_SUMS
    return LANE_SUMS(v);
#else
    vec sums[VL];
    for (int i = 0; i < VL; i++) sums[i] = v[i];
    NAME(fold)(1, sums);
    NAME(fold)(2, sums);
    NAME(fold)(4, sums);
    NAME(fold)(8, sums);
    return sums[0];
#endif
}

/* Carves the next array out of a unit's scratch memory, aligned for vectors. */
#define ARENA(arena, type, count) \
    (type *)arena;                \
    arena += ((count) * sizeof(type) + 63) / 64 * 64
