#define IMPLEMENTATION "ssm_recurrence_impl.h"
#include "isa_generic.h"
