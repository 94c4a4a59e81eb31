#define IMPLEMENTATION "selective_scan_impl.h"
#include "isa_generic.h"
