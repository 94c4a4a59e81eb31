/* What the Cython module hands to a selective-scan kernel. Strides count elements. Sequences are read and written
 * through (batch, position, direction, dim) strides, so that no layout is transposed and no grid is flipped. */
#ifndef SSMCORE_SELECTIVE_SCAN_H
#define SSMCORE_SELECTIVE_SCAN_H
#include <stdint.h>

enum { SSMCORE_MAMBA = 0, SSMCORE_BILINEAR = 1, SSMCORE_ZOH = 2 };
enum { SSMCORE_CHUNK = 64 }; /* steps between two kept states */

/* A direction's number tells how it walks a grid: 0 along rows, 1 along columns, 2 and 3 the same backwards. */
enum { SSMCORE_COLUMNS = 1, SSMCORE_REVERSED = 2 };

/* Where `direction` is 0, all directions read the same values, or add up what they write. */
typedef struct {
    const void *data; /* NULL: absent */
    int64_t batch, time, dim, direction;
} ssm_in;
typedef struct {
    void *data;
    int64_t batch, time, dim, direction;
} ssm_out;
/* B or C: (batch, seqlen, directions * ngroups, dstate); constant (dim, dstate) when `constant`. */
typedef struct {
    const void *data;
    int64_t batch, time, group, state;
    int constant;
} ssm_matrix;

typedef struct {
    int64_t batch, dim, seqlen, dstate, ngroups;
    int64_t directions, width; /* a sequence: 1 and seqlen; a grid: 4 and its width, seqlen being height * width */
    int64_t block;             /* channels a unit of work covers; sums over channels depend on it, and not on threads */
    int discretization, delta_softplus, num_threads;
    ssm_in u, delta, z, dout;
    ssm_matrix B, C;
    /* all that follow are contiguous */
    const void *A, *D, *delta_bias; /* (directions, dim, dstate), (directions, dim) twice */
    const void *initial_state;      /* (batch, directions, dim, dstate), may be NULL */
    ssm_out out;
    void *last_state;        /* (batch, directions, dim, dstate), may be NULL */
    void *checkpoints;       /* (directions, batch, nchunks, dstate, dim); may be NULL in the forward pass */
    ssm_out du, ddelta, dz;
    const void *dlast_state; /* (batch, directions, dim, dstate), may be NULL */
    void *dinitial_state;    /* the same, may be NULL */
    void *dA;                /* (batch, directions, dim, dstate): partial sums over time, per batch entry */
    void *dB, *dC;           /* varying: (nblocks, batch, seqlen, directions * ngroups, dstate); constant: as dA */
    void *dD, *ddelta_bias;  /* (batch, directions, dim), may be NULL */
} ssm_scan;

enum { SSMCORE_GENERIC = 0, SSMCORE_AVX2 = 1, SSMCORE_AVX512 = 2 };
enum { SSMCORE_NO_MEMORY = -1, SSMCORE_NO_ISA = -2 };

/* The widest instruction set compiled in that this processor runs. */
int ssm_best_isa(void);
int ssm_has_openmp(void);
/* 0, SSMCORE_NO_MEMORY, or SSMCORE_NO_ISA where `isa` is not compiled in or not run by this processor. */
int ssm_scan_fwd(const ssm_scan *scan, int isa, int is_double);
int ssm_scan_bwd(const ssm_scan *scan, int isa, int is_double);
#endif
