#define IMPLEMENTATION "causal_conv1d_impl.h"
#include "isa_generic.h"
