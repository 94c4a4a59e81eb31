/* What an operation hands to a chunk-scan kernel. Strides count elements. */
#ifndef SSMCORE_CHUNK_SCAN_H
#define SSMCORE_CHUNK_SCAN_H
#include "arrays.h"
#include "units.h"

/* (batch, seqlen, heads or groups, entries); the entries lie next to each other. */
typedef struct {
    void *data; /* NULL: absent */
    int64_t batch, time, head;
} ssm_rows;

typedef struct {
    int64_t batch, seqlen, nheads, ngroups, headdim, dstate;
    int64_t block; /* heads of one group that a unit of work covers; sums depend on it, and not on threads */
    const ssm_workers *workers;
    ssm_rows x, B, C, dout;
    /* all that follow are contiguous */
    const void *dt, *A, *D;       /* (batch, seqlen, nheads), (nheads), (nheads, headdim); D may be NULL */
    const void *initial;          /* (batch, nheads, headdim, dstate), may be NULL */
    const unsigned char *starts;  /* (batch, seqlen), 1 where a sequence starts that knows nothing of the steps before; may be NULL */
    void *out, *last;             /* (batch, seqlen, nheads, headdim), (batch, nheads, headdim, dstate) */
    void *kept;                   /* (batch, nchunks, nheads, dstate, headdim): states before every chunk; may be NULL in the forward pass */
    const void *dlast;            /* as last, may be NULL */
    void *dx, *ddt, *dinitial;    /* as x, dt, initial */
    void *dA, *dD;                /* (batch, nheads), (batch, nheads, headdim), the latter NULL where D is */
    void *dB, *dC;                /* (nblocks, batch, seqlen, ngroups, dstate), nblocks blocks of heads to a group */
} ssm_chunks;

/* A left factor's shape: what lies above, or below, the diagonal counts as 0. */
enum { SSMCORE_FULL, SSMCORE_LOWER, SSMCORE_UPPER };

#define SSMCORE_PASSES(PASS) PASS(ssm_chunks_fwd, ssm_chunks) PASS(ssm_chunks_bwd, ssm_chunks)
SSMCORE_PASSES(SSMCORE_DECLARE)
#endif
