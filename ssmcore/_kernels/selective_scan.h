/* What the Cython module hands to a selective-scan kernel. Strides count elements. All arrays are read and written
 * through (batch, seqlen, dim) strides, so that both layouts run without a transposed copy. */
#ifndef SSMCORE_SELECTIVE_SCAN_H
#define SSMCORE_SELECTIVE_SCAN_H
#include <stdint.h>

enum { SSMCORE_MAMBA = 0, SSMCORE_BILINEAR = 1, SSMCORE_ZOH = 2 };
enum { SSMCORE_CHUNK = 64 }; /* steps between two kept states */

typedef struct {
    const void *data; /* NULL: absent */
    int64_t batch, time, dim;
} ssm_in;
typedef struct {
    void *data;
    int64_t batch, time, dim;
} ssm_out;
/* B or C: (batch, seqlen, ngroups, dstate); constant (dim, dstate) when `constant`. */
typedef struct {
    const void *data;
    int64_t batch, time, group, state;
    int constant;
} ssm_matrix;

typedef struct {
    int64_t batch, dim, seqlen, dstate, ngroups;
    int discretization, delta_softplus, num_threads;
    ssm_in u, delta, z, dout;
    ssm_matrix B, C;
    const void *A, *D, *delta_bias; /* (dim, dstate), (dim,), (dim,) contiguous */
    const void *initial_state;      /* (batch, dim, dstate) contiguous */
    ssm_out out;
    void *last_state;        /* (batch, dim, dstate) contiguous */
    void *checkpoints;       /* (batch, nchunks, dstate, dim) contiguous; may be NULL in the forward pass */
    ssm_out du, ddelta, dz;
    const void *dlast_state; /* (batch, dim, dstate), may be NULL */
    void *dinitial_state;    /* (batch, dim, dstate) */
    void *dA;                /* (batch, dim, dstate): partial sums over time, per batch entry */
    void *dB, *dC;           /* varying: (nblocks, batch, seqlen, ngroups, dstate); constant: (batch, dim, dstate) */
    void *dD, *ddelta_bias;  /* (batch, dim), may be NULL */
} ssm_scan;

/* Channels a unit of work covers. Fixed, so that sums over channels do not depend on the number of threads. */
enum { SSMCORE_BLOCK = 128 };

enum { SSMCORE_GENERIC = 0, SSMCORE_AVX2 = 1, SSMCORE_AVX512 = 2 };
enum { SSMCORE_NO_MEMORY = -1, SSMCORE_NO_ISA = -2 };

/* The widest instruction set compiled in that this processor runs. */
int ssm_best_isa(void);
int ssm_has_openmp(void);
/* 0, SSMCORE_NO_MEMORY, or SSMCORE_NO_ISA where `isa` is not compiled in or not run by this processor. */
int ssm_scan_fwd(const ssm_scan *scan, int isa, int is_double);
int ssm_scan_bwd(const ssm_scan *scan, int isa, int is_double);
#endif
