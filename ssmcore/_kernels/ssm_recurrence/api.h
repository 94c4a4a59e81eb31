/* What an operation hands to a recurrence kernel. */
#ifndef SSMCORE_SSM_RECURRENCE_H
#define SSMCORE_SSM_RECURRENCE_H
#include "units.h"
#include <stdint.h>

/* Real parts and imaginary parts; the latter NULL where a number is real. */
typedef struct {
    void *real, *imaginary;
} ssm_parts;

/* All arrays are contiguous. A complex system has all its imaginary parts, but for u. */
typedef struct {
    int64_t rows, dstate, seqlen; /* dstate a multiple of SSMCORE_STATES */
    const ssm_workers *workers;
    ssm_parts A, B, C; /* (rows, dstate) */
    ssm_parts state;   /* (rows, dstate), before the first step on entry, after the last on return */
    ssm_parts u, y;    /* (rows, seqlen) */
} ssm_linear;

enum { SSMCORE_STATES = 16 }; /* fill every vector of every instruction set and type */

#define SSMCORE_PASSES(PASS) PASS(ssm_linear_run, ssm_linear)
SSMCORE_PASSES(SSMCORE_DECLARE)
#endif
