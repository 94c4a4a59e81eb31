/* Arrays as the passes read them. Strides count elements. */
#ifndef SSMCORE_ARRAYS_H
#define SSMCORE_ARRAYS_H
#include <stdint.h>
#include "ssmcore.h"

/* (batch, time, direction, dim). Where the stride `direction` is 0, all directions read the same values, or add up what they write. */
typedef struct {
    void *data; /* NULL: absent */
    int64_t batch, time, dim, direction;
    int type; /* 0: as computed in; SSMCORE_FLOAT16 or SSMCORE_BFLOAT16: converted by kernels of float32 as they read and write */
} ssm_sequence;

/* (batch, height, width, dim). */
typedef struct {
    void *data;
    int64_t batch, row, column, dim;
} ssm_grid;

/* A direction's number tells how it walks a grid: 0 along rows, 1 along columns, 2 and 3 the same backwards. */
enum { SSMCORE_COLUMNS = 1, SSMCORE_REVERSED = 2 };
#endif
