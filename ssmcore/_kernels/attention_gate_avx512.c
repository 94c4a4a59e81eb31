#define IMPLEMENTATION "attention_gate_impl.h"
#include "isa_avx512.h"
