/* Runs operations of libssmcore that another process asks for, on standard input and output.
 *
 *   selective_scan 9               an operation and the number of its members, which follow
 *   int discretization 0           also: long, real
 *   array u 0 2 3 5 5 1 60         type, ndim, shape, strides, bytes; a line's end, and that many bytes
 *
 * The answer: a status, the library's words, and the bytes of all arrays in their order. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ssmcore.h"

enum { MOST = 32, NAME = 64 };

typedef struct {
    const char *op, *name;
    size_t place;
} member;

#define M(op, name) {#op, #name, offsetof(ssmcore_##op##_args, name)},
#define OPTION(name) {"options", #name, offsetof(ssmcore_options, name)},
static const member members[] = {
    OPTION(num_threads) OPTION(isa) OPTION(work_per_thread)
    M(discretize, discretization) M(discretize, A) M(discretize, B) M(discretize, delta) M(discretize, A_bar) M(discretize, B_bar)
    M(discretize_vjp, forward) M(discretize_vjp, dA_bar) M(discretize_vjp, dB_bar) M(discretize_vjp, dA) M(discretize_vjp, dB)
    M(discretize_vjp, ddelta)
    M(ssm_recurrence, A_bar) M(ssm_recurrence, B_bar) M(ssm_recurrence, C) M(ssm_recurrence, u) M(ssm_recurrence, initial_state)
    M(ssm_recurrence, y) M(ssm_recurrence, last_state)
    M(selective_scan, discretization) M(selective_scan, delta_softplus) M(selective_scan, u) M(selective_scan, delta) M(selective_scan, A)
    M(selective_scan, B) M(selective_scan, C) M(selective_scan, D) M(selective_scan, z) M(selective_scan, delta_bias)
    M(selective_scan, initial_state) M(selective_scan, out) M(selective_scan, last_state) M(selective_scan, checkpoints)
    M(selective_scan_vjp, forward) M(selective_scan_vjp, dout) M(selective_scan_vjp, dlast_state) M(selective_scan_vjp, du)
    M(selective_scan_vjp, ddelta) M(selective_scan_vjp, dA) M(selective_scan_vjp, dB) M(selective_scan_vjp, dC) M(selective_scan_vjp, dD)
    M(selective_scan_vjp, dz) M(selective_scan_vjp, ddelta_bias) M(selective_scan_vjp, dinitial_state)
    M(ss2d, discretization) M(ss2d, delta_softplus) M(ss2d, x) M(ss2d, delta) M(ss2d, A) M(ss2d, B) M(ss2d, C) M(ss2d, D)
    M(ss2d, delta_bias) M(ss2d, out) M(ss2d, checkpoints)
    M(ss2d_vjp, forward) M(ss2d_vjp, dout) M(ss2d_vjp, dx) M(ss2d_vjp, ddelta) M(ss2d_vjp, dA) M(ss2d_vjp, dB) M(ss2d_vjp, dC)
    M(ss2d_vjp, dD) M(ss2d_vjp, ddelta_bias)
    M(chunk_scan, x) M(chunk_scan, dt) M(chunk_scan, A) M(chunk_scan, B) M(chunk_scan, C) M(chunk_scan, D) M(chunk_scan, initial_state)
    M(chunk_scan, starts) M(chunk_scan, out) M(chunk_scan, last_state) M(chunk_scan, checkpoints)
    M(chunk_scan_vjp, forward) M(chunk_scan_vjp, dout) M(chunk_scan_vjp, dlast_state) M(chunk_scan_vjp, dx) M(chunk_scan_vjp, ddt)
    M(chunk_scan_vjp, dA) M(chunk_scan_vjp, dB) M(chunk_scan_vjp, dC) M(chunk_scan_vjp, dD) M(chunk_scan_vjp, dinitial_state)
    M(causal_conv1d, activation) M(causal_conv1d, x) M(causal_conv1d, weight) M(causal_conv1d, bias) M(causal_conv1d, initial_state)
    M(causal_conv1d, out) M(causal_conv1d, last_state)
    M(causal_conv1d_vjp, forward) M(causal_conv1d_vjp, dout) M(causal_conv1d_vjp, dx) M(causal_conv1d_vjp, dweight)
    M(causal_conv1d_vjp, dbias) M(causal_conv1d_vjp, dinitial_state)
    M(depthwise_conv2d, activation) M(depthwise_conv2d, x) M(depthwise_conv2d, weight) M(depthwise_conv2d, bias) M(depthwise_conv2d, out)
    M(depthwise_conv2d_vjp, forward) M(depthwise_conv2d_vjp, dout) M(depthwise_conv2d_vjp, dx) M(depthwise_conv2d_vjp, dweight)
    M(depthwise_conv2d_vjp, dbias)
    M(attention_gate, eps) M(attention_gate, x) M(attention_gate, theta) M(attention_gate, phi) M(attention_gate, theta_weight)
    M(attention_gate, phi_weight) M(attention_gate, shift) M(attention_gate, psi) M(attention_gate, psi_weight) M(attention_gate, psi_shift)
    M(attention_gate, statistics) M(attention_gate, out) M(attention_gate, q) M(attention_gate, used_statistics)
    M(attention_gate_vjp, forward) M(attention_gate_vjp, dout) M(attention_gate_vjp, dx) M(attention_gate_vjp, dtheta)
    M(attention_gate_vjp, dphi) M(attention_gate_vjp, dtheta_weight) M(attention_gate_vjp, dphi_weight) M(attention_gate_vjp, dshift)
    M(attention_gate_vjp, dpsi) M(attention_gate_vjp, dpsi_weight) M(attention_gate_vjp, dpsi_shift)
    M(gate_crop, g) M(gate_crop, out) M(gate_crop_vjp, dout) M(gate_crop_vjp, dg)
};

static const struct {
    const char *name;
    size_t bytes;
} operations[] = {
#define SIZE(name) {#name, sizeof(ssmcore_##name##_args)},
    SSMCORE_OPERATIONS(SIZE)
};

/* The structs of a call: zeros but for their size. */
typedef struct {
    ssmcore_options options;
    union {
        size_t size;
        char bytes[512];
    } args, forward;
} call;

static void stop(const char *why, const char *what) {
    fprintf(stderr, "%s: %s\n", why, what);
    exit(2);
}

static size_t bytes_of(const char *op) {
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        if (!strcmp(operations[i].name, op)) return operations[i].bytes;
    return 0;
}

static void *find(const char *op, const char *name, void *start) {
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        if (!strcmp(members[i].op, op) && !strcmp(members[i].name, name)) return (char *)start + members[i].place;
    return NULL;
}

static void *place(call *c, const char *op, const char *forward, const char *name) {
    void *found = find("options", name, &c->options);
    if (!found) found = find(op, name, c->args.bytes);
    if (!found) found = find(forward, name, c->forward.bytes);
    if (!found) stop("unknown member", name);
    return found;
}

static int run(const char *op, const call *c) {
#define RUN(name) \
    if (!strcmp(op, #name)) return ssmcore_##name((const ssmcore_##name##_args *)c->args.bytes, &c->options);
    SSMCORE_OPERATIONS(RUN)
    return SSMCORE_ERROR_ARGUMENT;
}

int main(void) {
    char op[NAME], forward[NAME], kind[NAME], name[NAME];
    for (int count; scanf("%63s %d", op, &count) == 2; fflush(stdout)) {
        call c;
        ssmcore_array arrays[MOST];
        size_t bytes[MOST];
        int used = 0;
        memset(&c, 0, sizeof c);
        strcpy(forward, op);
        if (strstr(forward, "_vjp")) *strstr(forward, "_vjp") = 0;
        c.options.size = sizeof c.options;
        c.args.size = bytes_of(op);
        c.forward.size = bytes_of(forward);
        if (!c.args.size || count > MOST) stop("no such call", op);
        const void **inner = find(op, "forward", c.args.bytes);
        if (inner) *inner = c.forward.bytes;
        while (count--) {
            if (scanf("%63s %63s", kind, name) != 2) stop("broken call", op);
            void *to = place(&c, op, forward, name);
            if (!strcmp(kind, "int")) {
                if (scanf("%d", (int *)to) != 1) stop("broken int", name);
            } else if (!strcmp(kind, "long")) {
                long long value;
                if (scanf("%lld", &value) != 1) stop("broken long", name);
                *(int64_t *)to = value;
            } else if (!strcmp(kind, "real")) {
                if (scanf("%lf", (double *)to) != 1) stop("broken real", name);
            } else {
                ssmcore_array *a = &arrays[used];
                long long value;
                if (scanf("%d %d", &a->type, &a->ndim) != 2) stop("broken array", name);
                for (int i = 0; i < 2 * a->ndim; i++) {
                    if (scanf("%lld", &value) != 1) stop("broken shape", name);
                    *(i < a->ndim ? &a->shape[i] : &a->strides[i - a->ndim]) = value;
                }
                if (scanf("%zu", &bytes[used]) != 1 || getchar() != '\n') stop("broken size", name);
                a->data = malloc(bytes[used] + 1);
                if (!a->data || fread(a->data, 1, bytes[used], stdin) != bytes[used]) stop("broken data", name);
                *(const ssmcore_array **)to = &arrays[used++];
            }
        }
        int status = run(op, &c);
        printf("%d %s\n", status, status ? ssmcore_error() : "");
        for (int i = 0; i < used; i++) {
            fwrite(arrays[i].data, 1, bytes[i], stdout);
            free(arrays[i].data);
        }
    }
    return 0;
}
