/* Picks the instruction set. */
#include "api.h"

SSMCORE_DECLARE(ssm_linear_run, const ssm_linear *);

int ssm_linear_run(const ssm_linear *system, int isa, int is_double) { SSMCORE_DISPATCH(ssm_linear_run, system, isa, is_double); }
