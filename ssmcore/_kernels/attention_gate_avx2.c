#define IMPLEMENTATION "attention_gate_impl.h"
#include "isa_avx2.h"
