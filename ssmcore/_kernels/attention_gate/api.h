/* What the Cython module hands to the passes of an attention gate; see ops/attention_gate.md. Channels are adjacent. */
#ifndef SSMCORE_ATTENTION_GATE_H
#define SSMCORE_ATTENTION_GATE_H
#include "arrays.h"
#include "cpu.h"

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
    int64_t batch, height, width, dim, channels;
    int64_t rows; /* of the grid that a unit of work covers */
    int num_threads;
    double gain, offset;             /* rate = sigmoid(gain q + offset) */
    ssm_grid theta, phi, x, dout;    /* read */
    ssm_grid out, dx, dtheta, dphi;  /* written */
    /* all that follow are contiguous */
    const void *coefficients; /* (GATE_COEFFICIENTS, dim) */
    void *q, *dq;             /* (batch, height, width) */
    void *partial;            /* (units, 4, dim) */
} ssm_gate;

/* 0, SSMCORE_NO_MEMORY, or SSMCORE_NO_ISA where `isa` is not compiled in or not run by this processor. */
int ssm_gate_moments(const ssm_gate *gate, int isa, int is_double); /* partial: mean and sum of squares about it, of theta and phi */
int ssm_gate_compare(const ssm_gate *gate, int isa, int is_double); /* q = sum psi relu(a) */
int ssm_gate_apply(const ssm_gate *gate, int isa, int is_double);   /* out = rate x */
int ssm_gate_retract(const ssm_gate *gate, int isa, int is_double); /* dx = rate dout; dq: gradient of gain q + offset */
int ssm_gate_sums(const ssm_gate *gate, int isa, int is_double);    /* partial: da, da (theta - mean), da (phi - mean), dq relu(a) */
int ssm_gate_spread(const ssm_gate *gate, int isa, int is_double);  /* dtheta and dphi */
#endif
