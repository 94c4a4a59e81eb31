#define IMPLEMENTATION "depthwise_conv2d_impl.h"
#include "isa_avx2.h"
