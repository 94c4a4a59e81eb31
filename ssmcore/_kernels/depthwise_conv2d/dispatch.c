/* Picks the instruction set. */
#include "api.h"

SSMCORE_DECLARE(ssm_dwconv_fwd, const ssm_dwconv *);
SSMCORE_DECLARE(ssm_dwconv_bwd, const ssm_dwconv *);

int ssm_dwconv_fwd(const ssm_dwconv *conv, int isa, int is_double) { SSMCORE_DISPATCH(ssm_dwconv_fwd, conv, isa, is_double); }
int ssm_dwconv_bwd(const ssm_dwconv *conv, int isa, int is_double) { SSMCORE_DISPATCH(ssm_dwconv_bwd, conv, isa, is_double); }
