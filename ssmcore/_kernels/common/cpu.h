/* What this processor offers, and the passes of an operation. */
#ifndef SSMCORE_CPU_H
#define SSMCORE_CPU_H
#include "ssmcore.h"

enum { SSMCORE_GENERIC = 0, SSMCORE_AVX2 = 1, SSMCORE_AVX512 = 2 };

/* The widest instruction set compiled in that this processor runs. */
int ssm_widest_isa(void);

/* A pass of an operation returns 0, SSMCORE_ERROR_MEMORY, or SSMCORE_ERROR_ISA where `isa` is not compiled in or not run by this processor.
 * SSMCORE_PASSES of an api.h lists them, for declarations here and definitions in dispatch.h. */
#define SSMCORE_DECLARE(name, type) int name(const type *task, int isa, int is_double);
#endif
