#define IMPLEMENTATION "ssm_recurrence_impl.h"
#include "isa_avx512.h"
