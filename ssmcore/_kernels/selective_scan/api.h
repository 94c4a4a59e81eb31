/* What an operation hands to a selective-scan kernel. Strides count elements. Sequences are read and written
 * through (batch, position, direction, dim) strides, so that no layout is transposed and no grid is flipped. */
#ifndef SSMCORE_SELECTIVE_SCAN_H
#define SSMCORE_SELECTIVE_SCAN_H
#include "arrays.h"
#include "units.h"

/* B or C: (batch, seqlen, directions * ngroups, dstate); constant (dim, dstate) when `constant`. */
typedef struct {
    const void *data;
    int64_t batch, time, group, state;
    int constant;
    int type; /* as in ssm_sequence */
} ssm_matrix;

typedef struct {
    int64_t batch, dim, seqlen, dstate, ngroups;
    int64_t directions, width; /* a sequence: 1 and seqlen; a grid: 4 and its width, seqlen being height * width */
    /* Channels and batch entries a unit of work covers; sums depend on them, and not on threads. What is summed over the
     * entries of a unit has a first axis of parts, ceil(batch / span). */
    int64_t block, span;
    int discretization, delta_softplus;
    const ssm_workers *workers;
    ssm_sequence u, delta, z, dout;
    ssm_matrix B, C;
    /* all that follow are contiguous */
    const void *A, *D, *delta_bias; /* (directions, dim, dstate), (directions, dim) twice */
    const void *initial_state;      /* (batch, directions, dim, dstate), may be NULL */
    ssm_sequence out;
    void *last_state;        /* (batch, directions, dim, dstate), may be NULL */
    void *checkpoints;       /* (directions, batch, nchunks, dstate, dim); may be NULL in the forward pass */
    ssm_sequence du, ddelta, dz;
    const void *dlast_state; /* (batch, directions, dim, dstate), may be NULL */
    void *dinitial_state;    /* the same, may be NULL */
    void *dA;                /* (parts, directions, dim, dstate) */
    void *dB, *dC;           /* varying: (nblocks, batch, seqlen, directions * ngroups, dstate); constant: as dA */
    void *dD, *ddelta_bias;  /* (parts, directions, dim), may be NULL */
} ssm_scan;

#define SSMCORE_PASSES(PASS) PASS(ssm_scan_fwd, ssm_scan) PASS(ssm_scan_bwd, ssm_scan)
SSMCORE_PASSES(SSMCORE_DECLARE)
#endif
