/* What discretize.c hands to its passes. All arrays are contiguous. */
#ifndef SSMCORE_DISCRETIZE_H
#define SSMCORE_DISCRETIZE_H
#include "arrays.h"
#include "units.h"

typedef struct {
    int64_t size;
    int discretization;
    const void *A, *delta;
    void *A_bar, *gain;          /* written by the forward pass: exp(x) or the like, and B_bar / B, x = delta A */
    const void *dA_bar, *dgain;
    void *dA, *ddelta;           /* written by the backward pass */
} ssm_systems;

/* Its passes are compiled once, in double precision inside: the same bits for every instruction set. */
#endif
