/* Microseconds of the smallest call of each operation from C: the best of many rounds. Built and run by latency.py. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "ssmcore.h"

enum { ROUNDS = 40, CALLS = 500 };

static float memory[64][4096];
static ssmcore_array views[64];
static int used;

/* An array of ones in C order; axes of length 0 end the list. */
static const ssmcore_array *ones(int64_t a, int64_t b, int64_t c, int64_t d, int64_t e) {
    const int64_t shape[] = {a, b, c, d, e};
    ssmcore_array *view = &views[used];
    view->data = memory[used++];
    for (int i = 0; i < 4096; i++) ((float *)view->data)[i] = 1;
    for (view->ndim = 0; view->ndim < 5 && shape[view->ndim]; view->ndim++) view->shape[view->ndim] = shape[view->ndim];
    for (int64_t i = view->ndim, stride = 1; i-- > 0; stride *= view->shape[i]) view->strides[i] = stride;
    return view;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

#define TIME(name, args)                                                                      \
    do {                                                                                      \
        double best = 1e9;                                                                    \
        for (int round = 0; round < ROUNDS; round++) {                                        \
            double start = now();                                                             \
            for (int i = 0; i < CALLS; i++)                                                   \
                if (ssmcore_##name(&args, NULL)) return puts(ssmcore_error()), 1;             \
            double each = (now() - start) / CALLS;                                            \
            if (each < best) best = each;                                                     \
        }                                                                                     \
        printf("%s %.3f\n", #name, best);                                                     \
    } while (0)

int main(void) {
    const ssmcore_array *sequence = ones(1, 4, 8, 0, 0), *matrix = ones(1, 4, 1, 4, 0), *system = ones(8, 4, 0, 0, 0);
    const ssmcore_array *grid = ones(1, 2, 2, 8, 0), *channels = ones(8, 0, 0, 0, 0), *one = ones(1, 0, 0, 0, 0);
    ssmcore_selective_scan_args scan = {sizeof scan, SSMCORE_MAMBA, 0, sequence, sequence, system, matrix, matrix, 0, 0, 0, 0,
                                        ones(1, 4, 8, 0, 0), ones(1, 8, 4, 0, 0), 0};
    ssmcore_ss2d_args ss2d = {sizeof ss2d, SSMCORE_MAMBA, 0, grid, ones(1, 2, 2, 4, 8), ones(4, 8, 4, 0, 0), ones(1, 2, 2, 4, 4),
                              ones(1, 2, 2, 4, 4), 0, 0, ones(1, 2, 2, 8, 0), 0};
    ssmcore_chunk_scan_args chunks = {sizeof chunks, ones(1, 4, 2, 8, 0), ones(1, 4, 2, 0, 0), ones(2, 0, 0, 0, 0), matrix, matrix, 0, 0, 0,
                                      ones(1, 4, 2, 8, 0), 0, 0};
    ssmcore_causal_conv1d_args causal = {sizeof causal, SSMCORE_SILU, 0, sequence, system, channels, 0, ones(1, 4, 8, 0, 0), 0};
    ssmcore_depthwise_conv2d_args depthwise = {sizeof depthwise, SSMCORE_SILU, 0, grid, ones(8, 3, 3, 0, 0), channels, ones(1, 2, 2, 8, 0)};
    ssmcore_attention_gate_args gate = {sizeof gate, 1e-5, grid, grid, grid, channels, channels, channels, channels, one, one, 0,
                                        ones(1, 2, 2, 8, 0), 0, 0};
    ssmcore_gate_crop_args crop = {sizeof crop, ones(1, 4, 4, 0, 0), ones(1, 2, 2, 0, 0)};
    ssmcore_discretize_args systems = {sizeof systems, SSMCORE_MAMBA, 0, system, system, channels, ones(8, 4, 0, 0, 0), ones(8, 4, 0, 0, 0)};
    ssmcore_ssm_recurrence_args recurrence = {sizeof recurrence, system, system, system, ones(8, 5, 0, 0, 0), 0, ones(8, 5, 0, 0, 0), 0};
    TIME(selective_scan, scan);
    TIME(ss2d, ss2d);
    TIME(chunk_scan, chunks);
    TIME(causal_conv1d, causal);
    TIME(depthwise_conv2d, depthwise);
    TIME(attention_gate, gate);
    TIME(gate_crop, crop);
    TIME(discretize, systems);
    TIME(ssm_recurrence, recurrence);
    return 0;
}
