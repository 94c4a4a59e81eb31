#define IMPLEMENTATION "chunk_scan_impl.h"
#include "isa_avx512.h"
