/* Selective scans of sequences and of grids. */
#include "api.h"
#include "frame.h"

enum { NARROW = 64, WIDE = 384, UNITS = 8, DIRECTIONS = 4 };

static int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Channels of a unit of work, of `dim` channels that share B and C, where `lots` such sets are to be done: whole vectors, at most WIDE. Blocks
 * shrink to NARROW, in an even number, while there are fewer than `units` units of work.
 *
 * A wide unit costs less: it sums its gradients of B and C over the lanes once for all its channels. Many units keep many threads busy. The
 * gradients' bits depend on the block, so the backward pass uses UNITS on every machine: four units for each of two threads. More threads
 * share what units the shapes give, one for each set and each WIDE channels at least. No bit of the forward pass depends on the block. */
int64_t ssm_scan_block(int64_t dim, int64_t lots, int64_t units) {
    int64_t narrow = larger(ceiling(dim, NARROW), 1);
    if (dim > NARROW / 2) narrow += narrow % 2;
    int64_t blocks = larger(larger(ceiling(dim, WIDE), smaller(narrow, ceiling(units, larger(lots, 1)))), 1);
    return larger(ceiling(ceiling(dim, blocks), 16) * 16, 16);
}

/* Batch entries a unit of work covers: together about a chunk of steps, so that what is done once a unit costs little. */
static int64_t span_of(int64_t batch, int64_t seqlen) { return larger(1, smaller(batch, SSMCORE_CHUNK / larger(seqlen, 1))); }

static void share_out(ssm_scan *scan, int64_t units) {
    scan->span = span_of(scan->batch, scan->seqlen);
    scan->block = ssm_scan_block(scan->dim / scan->ngroups, ceiling(scan->batch, scan->span) * scan->ngroups, units);
}

static int64_t forward_units(const ssm_frame *f) { return larger(UNITS, 4 * (int64_t)f->workers.threads); }

static void begin(ssm_scan *scan, const ssm_frame *f, int discretization, int softplus) {
    *scan = (ssm_scan){0};
    scan->batch = ssm_size(f, "batch");
    scan->dim = ssm_size(f, "dim");
    scan->dstate = ssm_size(f, "dstate");
    scan->ngroups = scan->directions = 1;
    scan->discretization = discretization;
    scan->delta_softplus = softplus != 0;
    scan->workers = &f->workers;
}

static void check_options(ssm_frame *f, int discretization, const ssmcore_array *A) {
    ssm_check_option(f, "discretization", discretization, SSMCORE_ZOH);
    if (A && A->ndim > 0 && A->ndim <= SSMCORE_MAX_NDIM && A->shape[A->ndim - 1] < 1)
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "A: expected a dstate of at least 1, got 0; use a state of one entry and A = 0 for none");
}

/* ---- sequences ---- */

static const char SEQUENCE[] = "batch seqlen dim", SYSTEM[] = "dim dstate", MATRIX[] = "batch seqlen ngroups dstate";
static const char STATE[] = "batch dim dstate", CHECKPOINTS[] = "batch chunks dstate dim";

static const char *axes_of(const ssmcore_array *matrix) { return matrix && matrix->ndim == 2 ? SYSTEM : MATRIX; }

static void take_matrix(ssm_frame *f, const char *name, const ssmcore_array **matrix) {
    ssm_take(f, name, matrix, axes_of(*matrix), *matrix && (*matrix)->ndim == 2 ? SSM_PACKED : SSM_NARROW);
}

static ssm_matrix matrix_of(const ssmcore_array *a) {
    if (a->ndim == 2) return (ssm_matrix){a->data, 0, 0, 0, 0, 1, 0};
    return (ssm_matrix){a->data, a->strides[0], a->strides[1], a->strides[2], a->strides[3], 0, ssm_narrow(a)};
}

/* Returns whether there is work. */
static int take_sequences(ssm_frame *f, ssmcore_selective_scan_args *a, ssm_scan *scan) {
    check_options(f, a->discretization, a->A);
    ssm_take(f, "u", &a->u, SEQUENCE, SSM_NARROW);
    ssm_take(f, "delta", &a->delta, SEQUENCE, SSM_NARROW);
    ssm_take(f, "A", &a->A, SYSTEM, SSM_PACKED);
    take_matrix(f, "B", &a->B);
    take_matrix(f, "C", &a->C);
    ssm_take(f, "D", &a->D, "dim", SSM_OPTIONAL | SSM_PACKED);
    ssm_take(f, "z", &a->z, SEQUENCE, SSM_OPTIONAL | SSM_NARROW);
    ssm_take(f, "delta_bias", &a->delta_bias, "dim", SSM_OPTIONAL | SSM_PACKED);
    ssm_take(f, "initial_state", &a->initial_state, STATE, SSM_OPTIONAL | SSM_PACKED);
    if (f->status) return 0;
    ssm_bind(f, "ngroups", 1);
    begin(scan, f, a->discretization, a->delta_softplus);
    scan->ngroups = ssm_size(f, "ngroups");
    scan->seqlen = scan->width = ssm_size(f, "seqlen");
    ssm_bind(f, "chunks", ceiling(scan->seqlen, SSMCORE_CHUNK));
    if (scan->ngroups < 1 || scan->dim % scan->ngroups) {
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected a number of groups that divides dim = %lld, got %lld; channel d reads group d / "
                 "(dim / ngroups)", a->B->ndim == 4 ? "B" : "C", (long long)scan->dim, (long long)scan->ngroups);
        return 0;
    }
    scan->u = ssm_sequence_of(a->u);
    scan->delta = ssm_sequence_of(a->delta);
    scan->z = ssm_sequence_of(a->z);
    scan->B = matrix_of(a->B);
    scan->C = matrix_of(a->C);
    scan->A = a->A->data;
    scan->D = ssm_start(a->D);
    scan->delta_bias = ssm_start(a->delta_bias);
    return scan->batch * scan->dim > 0;
}

int ssmcore_selective_scan(const ssmcore_selective_scan_args *args, const ssmcore_options *options) {
    ssmcore_selective_scan_args a;
    ssm_frame f;
    ssm_scan scan;
    if (ssm_open(&f, "selective_scan", options, args, &a, sizeof a)) return f.status;
    int work = take_sequences(&f, &a, &scan);
    ssm_give(&f, "out", &a.out, SEQUENCE, SSM_NARROW);
    ssm_give(&f, "last_state", &a.last_state, STATE, SSM_OPTIONAL | SSM_PACKED);
    ssm_give(&f, "checkpoints", &a.checkpoints, CHECKPOINTS, SSM_OPTIONAL | SSM_PACKED);
    if (work && !f.status) {
        share_out(&scan, forward_units(&f));
        scan.out = ssm_sequence_of(a.out);
        scan.initial_state = ssm_start(a.initial_state);
        scan.last_state = ssm_start(a.last_state);
        scan.checkpoints = ssm_start(a.checkpoints);
        ssm_ran(&f, ssm_scan_fwd(&scan, f.isa, ssm_is_double(&f)));
    }
    return ssm_close(&f);
}

int ssmcore_selective_scan_vjp(const ssmcore_selective_scan_vjp_args *args, const ssmcore_options *options) {
    ssmcore_selective_scan_vjp_args g;
    ssmcore_selective_scan_args a;
    ssm_frame f;
    ssm_scan scan;
    if (ssm_open(&f, "selective_scan_vjp", options, args, &g, sizeof g) || ssm_open_forward(&f, g.forward, &a, sizeof a)) return f.status;
    int work = take_sequences(&f, &a, &scan);
    ssm_take(&f, "checkpoints", &a.checkpoints, CHECKPOINTS, SSM_PACKED);
    ssm_take(&f, "dout", &g.dout, SEQUENCE, SSM_NARROW);
    ssm_take(&f, "dlast_state", &g.dlast_state, STATE, SSM_OPTIONAL | SSM_PACKED);
    if (f.status) return ssm_close(&f);
    share_out(&scan, UNITS);
    int64_t parts = ceiling(scan.batch, scan.span), nblocks = ceiling(scan.dim / scan.ngroups, scan.block);
    ssm_give(&f, "du", &g.du, SEQUENCE, SSM_NARROW | SSM_MADE);
    ssm_give(&f, "ddelta", &g.ddelta, SEQUENCE, SSM_NARROW | SSM_MADE);
    scan.dA = ssm_give_parts(&f, "dA", g.dA, SYSTEM, parts);
    scan.dB = ssm_give_parts(&f, "dB", g.dB, axes_of(a.B), scan.B.constant ? parts : nblocks);
    scan.dC = ssm_give_parts(&f, "dC", g.dC, axes_of(a.C), scan.C.constant ? parts : nblocks);
    if (a.D) scan.dD = ssm_give_parts(&f, "dD", g.dD, "dim", parts);
    if (a.z) ssm_give(&f, "dz", &g.dz, SEQUENCE, SSM_NARROW | SSM_MADE);
    if (a.delta_bias) scan.ddelta_bias = ssm_give_parts(&f, "ddelta_bias", g.ddelta_bias, "dim", parts);
    ssm_give(&f, "dinitial_state", &g.dinitial_state, STATE, SSM_PACKED | SSM_MADE);
    if (work && !f.status) {
        scan.checkpoints = a.checkpoints->data;
        scan.dout = ssm_sequence_of(g.dout);
        scan.dlast_state = ssm_start(g.dlast_state);
        scan.du = ssm_sequence_of(g.du);
        scan.ddelta = ssm_sequence_of(g.ddelta);
        if (a.z) scan.dz = ssm_sequence_of(g.dz);
        scan.dinitial_state = g.dinitial_state->data;
        ssm_ran(&f, ssm_scan_bwd(&scan, f.isa, ssm_is_double(&f)));
    }
    return ssm_close(&f);
}

/* ---- grids ---- */

static const char GRID[] = "batch height width dim", GRIDS[] = "batch height width 4 dim", SYSTEMS[] = "4 dim dstate";
static const char MATRICES[] = "batch height width 4 dstate", GRID_CHECKPOINTS[] = "4 batch chunks dstate dim";

static int64_t position_of(const ssmcore_array *a) { return a->shape[2] > 1 ? a->strides[2] : a->strides[1]; }

static ssm_sequence positions(const ssmcore_array *a) {
    int last = a->ndim - 1;
    return (ssm_sequence){a->data, a->strides[0], position_of(a), a->strides[last], last == 4 ? a->strides[3] : 0, ssm_narrow(a)};
}

static ssm_matrix matrices(const ssmcore_array *a) {
    return (ssm_matrix){a->data, a->strides[0], position_of(a), a->strides[3], a->strides[4], 0, ssm_narrow(a)};
}

static int take_grids(ssm_frame *f, ssmcore_ss2d_args *a, ssm_scan *scan) {
    check_options(f, a->discretization, a->A);
    ssm_take(f, "x", &a->x, GRID, SSM_POSITIONS | SSM_NARROW);
    ssm_take(f, "delta", &a->delta, GRIDS, SSM_POSITIONS | SSM_NARROW);
    ssm_take(f, "A", &a->A, SYSTEMS, SSM_PACKED);
    ssm_take(f, "B", &a->B, MATRICES, SSM_POSITIONS | SSM_NARROW);
    ssm_take(f, "C", &a->C, MATRICES, SSM_POSITIONS | SSM_NARROW);
    ssm_take(f, "D", &a->D, "4 dim", SSM_OPTIONAL | SSM_PACKED);
    ssm_take(f, "delta_bias", &a->delta_bias, "4 dim", SSM_OPTIONAL | SSM_PACKED);
    if (f->status) return 0;
    begin(scan, f, a->discretization, a->delta_softplus);
    scan->directions = DIRECTIONS;
    scan->width = ssm_size(f, "width");
    scan->seqlen = ssm_size(f, "height") * scan->width;
    ssm_bind(f, "chunks", ceiling(scan->seqlen, SSMCORE_CHUNK));
    scan->u = positions(a->x);
    scan->delta = positions(a->delta);
    scan->B = matrices(a->B);
    scan->C = matrices(a->C);
    scan->A = a->A->data;
    scan->D = ssm_start(a->D);
    scan->delta_bias = ssm_start(a->delta_bias);
    return scan->batch * scan->seqlen * scan->dim > 0;
}

int ssmcore_ss2d(const ssmcore_ss2d_args *args, const ssmcore_options *options) {
    ssmcore_ss2d_args a;
    ssm_frame f;
    ssm_scan scan;
    if (ssm_open(&f, "ss2d", options, args, &a, sizeof a)) return f.status;
    int work = take_grids(&f, &a, &scan);
    ssm_give(&f, "out", &a.out, GRID, SSM_POSITIONS); /* directions add to it: it is rounded once they all have */
    ssm_give(&f, "checkpoints", &a.checkpoints, GRID_CHECKPOINTS, SSM_OPTIONAL | SSM_PACKED);
    if (work && !f.status) {
        share_out(&scan, forward_units(&f));
        scan.out = positions(a.out);
        scan.checkpoints = ssm_start(a.checkpoints);
        ssm_ran(&f, ssm_scan_fwd(&scan, f.isa, ssm_is_double(&f)));
    }
    return ssm_close(&f);
}

int ssmcore_ss2d_vjp(const ssmcore_ss2d_vjp_args *args, const ssmcore_options *options) {
    ssmcore_ss2d_vjp_args g;
    ssmcore_ss2d_args a;
    ssm_frame f;
    ssm_scan scan;
    if (ssm_open(&f, "ss2d_vjp", options, args, &g, sizeof g) || ssm_open_forward(&f, g.forward, &a, sizeof a)) return f.status;
    int work = take_grids(&f, &a, &scan);
    ssm_take(&f, "checkpoints", &a.checkpoints, GRID_CHECKPOINTS, SSM_PACKED);
    ssm_take(&f, "dout", &g.dout, GRID, SSM_POSITIONS | SSM_NARROW);
    if (f.status) return ssm_close(&f);
    share_out(&scan, UNITS);
    int64_t parts = work ? ceiling(scan.batch, scan.span) : 0, nblocks = work ? ceiling(scan.dim, scan.block) : 0;
    ssm_give(&f, "dx", &g.dx, GRID, SSM_POSITIONS | SSM_MADE);
    ssm_give(&f, "ddelta", &g.ddelta, GRIDS, SSM_POSITIONS | SSM_NARROW | SSM_MADE);
    scan.dA = ssm_give_parts(&f, "dA", g.dA, SYSTEMS, parts);
    scan.dB = ssm_give_parts(&f, "dB", g.dB, MATRICES, nblocks);
    scan.dC = ssm_give_parts(&f, "dC", g.dC, MATRICES, nblocks);
    if (a.D) scan.dD = ssm_give_parts(&f, "dD", g.dD, "4 dim", parts);
    if (a.delta_bias) scan.ddelta_bias = ssm_give_parts(&f, "ddelta_bias", g.ddelta_bias, "4 dim", parts);
    if (work && !f.status) {
        scan.checkpoints = a.checkpoints->data;
        scan.dout = positions(g.dout);
        scan.du = positions(g.dx);
        scan.ddelta = positions(g.ddelta);
        ssm_ran(&f, ssm_scan_bwd(&scan, f.isa, ssm_is_double(&f)));
    }
    return ssm_close(&f);
}
