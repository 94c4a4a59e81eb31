/* Picks the instruction set. */
#include "api.h"

#define PASS(name)                                                           \
    SSMCORE_DECLARE(name, const ssm_gate *);                                 \
    int name(const ssm_gate *gate, int isa, int is_double) {                 \
        /* a comparison of few channels would leave half of a wide vector empty */ \
        int narrow = gate->dim <= 8 && isa == SSMCORE_AVX512 && !is_double;  \
        SSMCORE_DISPATCH(name, gate, narrow ? SSMCORE_AVX2 : isa, is_double); \
    }

PASS(ssm_gate_moments)
PASS(ssm_gate_compare)
PASS(ssm_gate_apply)
PASS(ssm_gate_retract)
PASS(ssm_gate_sums)
PASS(ssm_gate_spread)
