/* What the Cython module hands to the discretisation of diagonal systems. All arrays are contiguous. */
#ifndef SSMCORE_DISCRETIZE_H
#define SSMCORE_DISCRETIZE_H
#include "arrays.h"
#include "cpu.h"

typedef struct {
    int64_t size;
    int discretization, num_threads;
    const void *A, *delta;
    void *A_bar, *gain;          /* written by the forward pass: exp(x) or the like, and B_bar / B, x = delta A */
    const void *dA_bar, *dgain;
    void *dA, *ddelta;           /* written by the backward pass */
} ssm_systems;

/* Compiled once, in double precision inside: the same bits for every instruction set, which `isa` does not change. */
#define SSMCORE_PASSES(PASS) PASS(ssmcore_discretize_fwd, ssm_systems) PASS(ssmcore_discretize_bwd, ssm_systems)
SSMCORE_PASSES(SSMCORE_DECLARE)
#endif
