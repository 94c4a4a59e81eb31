/* IMPLEMENTATION for any processor with 128-bit vectors (SSE2, NEON) or none. */
#define ISA generic
#define VECTOR_BYTES 16
#include "types.h"
