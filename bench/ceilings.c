/* What this processor can do at most: multiply-adds, the exponential, and the scan's own instruction mix on one tile in the
 * first-level cache. bench/ceilings.py compiles it once for each instruction set, whose header is ISA_FILE. */
#include ISA_FILE
#include <time.h>

#define PASTE(a, b) a##b
#define NAMED2(x, isa) PASTE(x, isa)
#define F32(x) NAMED2(x##_f32_, ISA)
typedef F32(vec) lanes;
enum { LANES = sizeof(lanes) / sizeof(float) };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* Nanoseconds a float multiply-add, ten independent chains: variables, since an array would be kept in memory. */
double fma_ns(int64_t rounds) {
    lanes a = (lanes){0} + 0.999f, b = (lanes){0} + 1e-3f;
    lanes x0 = a, x1 = a, x2 = a, x3 = a, x4 = a, x5 = a, x6 = a, x7 = a, x8 = a, x9 = a;
#define STEP(x)    \
    x = x * a + b; \
    __asm__ volatile("" : "+v"(x))
    double start = now();
    for (int64_t k = 0; k < rounds; k++) {
        STEP(x0);
        STEP(x1);
        STEP(x2);
        STEP(x3);
        STEP(x4);
        STEP(x5);
        STEP(x6);
        STEP(x7);
        STEP(x8);
        STEP(x9);
    }
    return (now() - start) * 1e9 / ((double)rounds * 10 * LANES);
}

/* Nanoseconds an exponential in the range a scan has, 512 vectors in cache. */
double exp2_ns(int64_t rounds) {
    static lanes x[512], y[512];
    for (int i = 0; i < 512; i++) x[i] = (lanes){0} - (float)i / 64;
    double start = now();
    for (int64_t k = 0; k < rounds; k++) {
        for (int i = 0; i < 512; i += 2) {
            lanes both[2] = {x[i], x[i + 1]};
            F32(exp2_inside)(2, both);
            y[i] = both[0];
            y[i + 1] = both[1];
        }
        __asm__ volatile("" : : "r"(y) : "memory");
    }
    return (now() - start) * 1e9 / ((double)rounds * 512 * LANES);
}

/* Nanoseconds an element of the forward recurrence on one tile: everything but the way from and to memory. */
double forward_tile_ns(int discretization, int64_t dstate, int64_t rounds) {
    static F32(tile) tile;
    static F32(ahead) nothing;
    static lanes A[256], state[256];
    static float B[SSMCORE_CHUNK * 256], C[SSMCORE_CHUNK * 256];
    for (int64_t n = 0; n < dstate; n++) A[n] = (lanes){0} - 0.1f * (float)(n + 1);
    for (int64_t t = 0; t < SSMCORE_CHUNK; t++) {
        tile.dt[t] = (lanes){0} + 0.05f;
        tile.dtu[t] = (lanes){0} + 0.01f;
        for (int64_t n = 0; n < dstate; n++) B[t * dstate + n] = C[t * dstate + n] = 0.5f;
    }
    F32(bc) bc = {B, C, 0, 0, dstate};
    double start = now();
    for (int64_t k = 0; k < rounds; k++) {
        F32(fwd_tile)(discretization, 1, 0, 0, &tile, A, state, bc, SSMCORE_CHUNK, F32(own)(&tile), &nothing);
        __asm__ volatile("" : : "r"(&tile) : "memory");
    }
    return (now() - start) * 1e9 / ((double)rounds * SSMCORE_CHUNK * dstate * LANES);
}

/* The same for the backward sweep of one tile, which recomputes the states first. */
double backward_tile_ns(int discretization, int64_t dstate, int64_t rounds) {
    static F32(tile) tile;
    static F32(dtile) d;
    static F32(ahead) nothing;
    static lanes A[256], checkpoint[256], dh[256], dA[256], h[(SSMCORE_CHUNK + 1) * 8], kept[SSMCORE_CHUNK * 8 * 3];
    static lanes dB[SSMCORE_CHUNK * 64], dC[SSMCORE_CHUNK * 64];
    static float B[SSMCORE_CHUNK * 64], C[SSMCORE_CHUNK * 64];
    for (int64_t n = 0; n < dstate; n++) A[n] = (lanes){0} - 0.1f * (float)(n + 1);
    for (int64_t t = 0; t < SSMCORE_CHUNK; t++) {
        tile.dt[t] = (lanes){0} + 0.05f;
        tile.dtu[t] = d.dy[t] = tile.u[t] = (lanes){0} + 0.01f;
        for (int64_t n = 0; n < dstate; n++) B[t * dstate + n] = C[t * dstate + n] = 0.5f;
    }
    F32(bc) bc = {B, C, 0, 0, dstate};
    F32(sweep) sweep = {h, kept, dh, dA, dB, dC, 0};
    double start = now();
    for (int64_t k = 0; k < rounds; k++) {
        for (int64_t n = 0; n < dstate; n++) dh[n] = (lanes){0};
        F32(bwd_tile)(discretization, 1, 0, 0, &tile, &d, A, checkpoint, bc, sweep, SSMCORE_CHUNK, &nothing, &nothing);
        __asm__ volatile("" : : "r"(&d) : "memory");
    }
    return (now() - start) * 1e9 / ((double)rounds * SSMCORE_CHUNK * dstate * LANES);
}
