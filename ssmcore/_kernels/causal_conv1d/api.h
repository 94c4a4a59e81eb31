/* What the Cython module hands to a causal-convolution kernel. */
#ifndef SSMCORE_CAUSAL_CONV1D_H
#define SSMCORE_CAUSAL_CONV1D_H
#include "arrays.h"
#include "cpu.h"

typedef struct {
    int64_t batch, dim, seqlen, taps;
    int silu, num_threads;
    ssm_in x, dout;
    /* all that follow are contiguous */
    const void *weight, *bias, *initial; /* (dim, taps); (dim,) and (batch, dim, taps - 1), may be NULL */
    ssm_out out, dx;
    void *dweight, *dbias, *dinitial;    /* (batch, dim, taps): sums over time, per batch entry; (batch, dim), (batch, dim, taps - 1) */
} ssm_conv;

/* 0, SSMCORE_NO_MEMORY, or SSMCORE_NO_ISA where `isa` is not compiled in or not run by this processor. */
int ssm_conv_fwd(const ssm_conv *conv, int isa, int is_double);
int ssm_conv_bwd(const ssm_conv *conv, int isa, int is_double);
#endif
