#define IMPLEMENTATION "selective_scan_impl.h"
#include "isa_avx2.h"
