/* What attention_gate.c hands to the passes of an attention gate; see ops/attention_gate.md. Channels are adjacent. */
#ifndef SSMCORE_ATTENTION_GATE_H
#define SSMCORE_ATTENTION_GATE_H
#include "arrays.h"
#include "units.h"

/* Rows of `coefficients`, each (dim): a = scale_theta theta + scale_phi phi + shift; the last six for gradients alone. */
enum {
    GATE_SCALE_THETA,
    GATE_SCALE_PHI,
    GATE_SHIFT,
    GATE_PSI,
    GATE_MEAN_THETA,
    GATE_MEAN_PHI,
    GATE_CONSTANT_THETA, /* dtheta = scale_theta da + constant_theta + slope_theta (theta - mean_theta) */
    GATE_SLOPE_THETA,
    GATE_CONSTANT_PHI,
    GATE_SLOPE_PHI,
    GATE_COEFFICIENTS
};

typedef struct {
    int64_t batch, height, width, dim; /* of theta and phi, or of x */
    int64_t rows; /* of the grid that a unit of work covers */
    const ssm_workers *workers;
    double gain, offset;             /* rate = sigmoid(gain q + offset) */
    ssm_grid theta, phi, x, dout;    /* read */
    ssm_grid out, dx, dtheta, dphi;  /* written */
    /* all that follow are contiguous */
    const void *coefficients; /* (GATE_COEFFICIENTS, dim) */
    void *q, *dq;             /* (batch, height, width) */
    void *partial;            /* (units, 4, dim) */
} ssm_gate;

/* moments: into `partial`, mean and sum of squares about it, of theta and phi. compare: q = sum psi relu(a). apply: out = rate x.
 * retract: dx = rate dout, and dq, the gradient of gain q + offset. sums: into `partial`, da, da (theta - mean), da (phi - mean) and
 * dq relu(a). spread: dtheta and dphi. */
#define SSMCORE_PASSES(PASS)                                                                         \
    PASS(ssm_gate_moments, ssm_gate) PASS(ssm_gate_compare, ssm_gate) PASS(ssm_gate_apply, ssm_gate) \
    PASS(ssm_gate_retract, ssm_gate) PASS(ssm_gate_sums, ssm_gate) PASS(ssm_gate_spread, ssm_gate)
SSMCORE_PASSES(SSMCORE_DECLARE)

/* A comparison of few channels would leave half of a wide vector empty. */
#define SSMCORE_CHOOSE(gate, isa, is_double) \
    ((gate)->dim <= 8 && (isa) == SSMCORE_AVX512 && !(is_double) ? SSMCORE_AVX2 : (isa))
#endif
