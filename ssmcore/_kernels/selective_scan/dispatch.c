/* Picks the instruction set. */
#ifdef _OPENMP
#include <omp.h>
#endif
#include "api.h"

SSMCORE_DECLARE(ssm_scan_fwd, const ssm_scan *);
SSMCORE_DECLARE(ssm_scan_bwd, const ssm_scan *);

int ssm_best_isa(void) { return ssm_widest_isa(); }

int ssm_openmp_threads(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 0;
#endif
}

int ssm_scan_fwd(const ssm_scan *scan, int isa, int is_double) { SSMCORE_DISPATCH(ssm_scan_fwd, scan, isa, is_double); }
int ssm_scan_bwd(const ssm_scan *scan, int isa, int is_double) { SSMCORE_DISPATCH(ssm_scan_bwd, scan, isa, is_double); }
