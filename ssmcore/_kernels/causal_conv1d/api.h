/* What an operation hands to a causal-convolution kernel. */
#ifndef SSMCORE_CAUSAL_CONV1D_H
#define SSMCORE_CAUSAL_CONV1D_H
#include "arrays.h"
#include "units.h"

typedef struct {
    int64_t batch, dim, seqlen, taps;
    int64_t kept; /* steps of an initial state, at least taps - 1: the last ones are read */
    int silu;
    const ssm_workers *workers;
    ssm_sequence x, dout;
    /* all that follow are contiguous */
    const void *weight, *bias, *initial; /* (dim, taps); (dim,) and (batch, dim, kept), may be NULL */
    ssm_sequence out, dx;
    void *dweight, *dbias, *dinitial;    /* (batch, dim, taps): sums over time, per batch entry; (batch, dim), (batch, dim, taps - 1) */
} ssm_conv;

#define SSMCORE_PASSES(PASS) PASS(ssm_conv_fwd, ssm_conv) PASS(ssm_conv_bwd, ssm_conv)
SSMCORE_PASSES(SSMCORE_DECLARE)
#endif
