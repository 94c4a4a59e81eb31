/* What an operation hands to a depthwise 3x3 convolution. */
#ifndef SSMCORE_DEPTHWISE_CONV2D_H
#define SSMCORE_DEPTHWISE_CONV2D_H
#include "arrays.h"
#include "units.h"

typedef struct {
    int64_t batch, height, width, dim;
    int silu;
    const ssm_workers *workers;
    ssm_grid x, dout; /* read */
    ssm_grid out, dx; /* written */
    /* all that follow are contiguous */
    const void *weight, *bias; /* (dim, 3, 3); (dim,), may be NULL */
    void *dweight, *dbias;     /* (batch, dim, 3, 3), (batch, dim): sums over positions, per batch entry; dbias may be NULL */
} ssm_dwconv;

#define SSMCORE_PASSES(PASS) PASS(ssm_dwconv_fwd, ssm_dwconv) PASS(ssm_dwconv_bwd, ssm_dwconv)
SSMCORE_PASSES(SSMCORE_DECLARE)
#endif
