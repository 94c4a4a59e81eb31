/* Picks the instruction set. */
#include "api.h"

SSMCORE_DECLARE(ssm_chunks_fwd, const ssm_chunks *);
SSMCORE_DECLARE(ssm_chunks_bwd, const ssm_chunks *);

int ssm_chunks_fwd(const ssm_chunks *chunks, int isa, int is_double) { SSMCORE_DISPATCH(ssm_chunks_fwd, chunks, isa, is_double); }
int ssm_chunks_bwd(const ssm_chunks *chunks, int isa, int is_double) { SSMCORE_DISPATCH(ssm_chunks_bwd, chunks, isa, is_double); }
