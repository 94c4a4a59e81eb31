/* IMPLEMENTATION in both types, for one instruction set. The including file sets IMPLEMENTATION, ISA and VECTOR_BYTES. */
#include <stdint.h>

#define JOIN3(a, b, c) a##b##c
#define NAMED(x, type, isa) JOIN3(x, type, isa)

#define REAL float
#define INT int32_t
#define REAL_IS_DOUBLE 0
#define VL (VECTOR_BYTES / 4)
#define NAME(x) NAMED(x, _f32_, ISA)
#ifdef SCALE2_F32
#define SCALE2(p, k_real, k_int) SCALE2_F32(p, k_real)
#define ROUND(x) ROUND_F32(x)
#define RECIPROCAL(x) RECIPROCAL_F32(x)
#define RECIPROCAL_INSIDE(x) RECIPROCAL_INSIDE_F32(x)
#endif
#ifdef LANE_SUMS_F32
#define LANE_SUMS(v) LANE_SUMS_F32(v)
#endif
#ifdef SELECT_F32
#define SELECT(mask, yes, no) SELECT_F32(mask, yes, no)
#define LARGER(low, x) LARGER_F32(low, x)
#endif
#include IMPLEMENTATION
#include "vecmath_end.h"

#define REAL double
#define INT int64_t
#define REAL_IS_DOUBLE 1
#define VL (VECTOR_BYTES / 8)
#define NAME(x) NAMED(x, _f64_, ISA)
#ifdef SCALE2_F64
#define SCALE2(p, k_real, k_int) SCALE2_F64(p, k_real)
#define ROUND(x) ROUND_F64(x)
#endif
#ifdef LANE_SUMS_F64
#define LANE_SUMS(v) LANE_SUMS_F64(v)
#endif
#ifdef SELECT_F64
#define SELECT(mask, yes, no) SELECT_F64(mask, yes, no)
#define LARGER(low, x) LARGER_F64(low, x)
#endif
#include IMPLEMENTATION
#include "vecmath_end.h"
