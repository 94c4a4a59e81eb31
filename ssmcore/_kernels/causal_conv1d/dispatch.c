/* Picks the instruction set. */
#include "api.h"

SSMCORE_DECLARE(ssm_conv_fwd, const ssm_conv *);
SSMCORE_DECLARE(ssm_conv_bwd, const ssm_conv *);

int ssm_conv_fwd(const ssm_conv *conv, int isa, int is_double) { SSMCORE_DISPATCH(ssm_conv_fwd, conv, isa, is_double); }
int ssm_conv_bwd(const ssm_conv *conv, int isa, int is_double) { SSMCORE_DISPATCH(ssm_conv_bwd, conv, isa, is_double); }
