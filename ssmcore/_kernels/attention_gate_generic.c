#define IMPLEMENTATION "attention_gate_impl.h"
#include "isa_generic.h"
