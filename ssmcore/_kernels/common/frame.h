/* What every operation does around its passes: reads the caller's structs, checks and converts arrays, finds memory, adds up parts, reports. */
#ifndef SSMCORE_FRAME_H
#define SSMCORE_FRAME_H
#include "arrays.h"
#include "units.h"

enum { FRAME_SIZES = 16, FRAME_BLOCKS = 64, FRAME_MADE = 40, FRAME_RESULTS = 24 };

typedef struct {
    const char *op;
    int status;
    int type; /* that is computed in: SSMCORE_FLOAT32 or SSMCORE_FLOAT64; -1 before the first array */
    int isa;  /* as the passes number them */
    ssm_workers workers;
    int nsizes, nblocks, nmade, nresults;
    struct {
        const char *axis, *by;
        int64_t length; /* of the axis' name */
        int64_t value;
    } sizes[FRAME_SIZES];
    struct {
        void *start;
        size_t bytes;
    } blocks[FRAME_BLOCKS];
    ssmcore_array made[FRAME_MADE];
    struct {
        const ssmcore_array *to;
        ssmcore_array *from;
        int64_t parts;
    } results[FRAME_RESULTS];
} ssm_frame;

/* How an array may come, and must lie. */
enum {
    SSM_OPTIONAL = 1,
    SSM_PACKED = 2,    /* in one piece, in C order */
    SSM_ADJACENT = 4,  /* the last axis in one piece */
    SSM_POSITIONS = 8, /* axes 1 and 2 can be walked as one */
    SSM_MADE = 16,     /* a result: memory is found where the caller gives none */
    SSM_NARROW = 32,   /* float16 and bfloat16 may stay where float32 is computed */
    SSM_REAL = 64,     /* of a real type, as every array that is taken or given */
    SSM_WRITTEN = 128  /* each element in memory of its own, as in every array that is given */
};

/* Begins a call: takes over the options, and the caller's struct, which may be an older, shorter one, or a newer one without what is new.
 * Returns the status. */
int ssm_open(ssm_frame *f, const char *op, const ssmcore_options *options, const void *given, void *args, size_t bytes);
/* Opens the struct of the forward call inside that of a gradient. */
int ssm_open_forward(ssm_frame *f, const void *given, void *args, size_t bytes);

/* 0, or the narrow type that an array stayed in. */
static inline int ssm_narrow(const ssmcore_array *a) { return a->type == SSMCORE_FLOAT16 || a->type == SSMCORE_BFLOAT16 ? a->type : 0; }

/* Checks an array against named axes, such as "batch seqlen 4 dim". The first array to have an axis gives its size. Then replaces it by
 * one of the type computed in that lies as `how` says, a copy only where need be. Does nothing after an error. */
void ssm_take(ssm_frame *f, const char *name, const ssmcore_array **array, const char *axes, int how);
/* The same for an array that is written. What is put into its place comes back into the caller's when the frame closes. */
void ssm_give(ssm_frame *f, const char *name, const ssmcore_array **array, const char *axes, int how);
/* Memory, packed, for `parts` arrays whose sum is the result; the caller's own for one part, where it serves. NULL after an error. */
void *ssm_give_parts(ssm_frame *f, const char *name, const ssmcore_array *array, const char *axes, int64_t parts);
/* Only the check: of shape, of what `how` asks, and that the type is of numbers. */
void ssm_check(ssm_frame *f, const char *name, const ssmcore_array *array, const char *axes, int how);

int64_t ssm_size(const ssm_frame *f, const char *axis); /* 0 where no array had it */
/* Gives an axis its size, unless it has one. */
void ssm_bind(ssm_frame *f, const char *axis, int64_t size);
/* Fails unless `value` is at least 0 and at most `most`. */
void ssm_check_option(ssm_frame *f, const char *name, int32_t value, int32_t most);
int64_t ssm_count(const ssmcore_array *array);
size_t ssm_bytes(int type); /* of an element */
int ssm_is_double(const ssm_frame *f);
/* Memory until the frame closes, on a cache line; NULL after an error, or an error itself. */
void *ssm_memory(ssm_frame *f, size_t bytes);
/* An unset array in C order. */
ssmcore_array *ssm_make(ssm_frame *f, int type, int ndim, const int64_t *shape);
/* Copies, or adds up `parts` that follow one another in `from`, converting types. Shapes are equal. */
void ssm_copy(ssm_frame *f, const ssmcore_array *to, const ssmcore_array *from, int64_t parts);
/* The same for parts that lie `part` elements apart. */
void ssm_copy_parts(ssm_frame *f, const ssmcore_array *to, const ssmcore_array *from, int64_t parts, int64_t part);
void ssm_zero(const ssmcore_array *array);

void ssm_fail(ssm_frame *f, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Takes over the status of a pass, with words. Returns whether it went well. */
int ssm_ran(ssm_frame *f, int status);
/* Brings results back, frees, and returns the status. */
int ssm_close(ssm_frame *f);

static inline ssm_sequence ssm_sequence_of(const ssmcore_array *a) {
    ssm_sequence view = {0};
    if (a) view = (ssm_sequence){a->data, a->strides[0], a->strides[1], a->strides[2], 0, ssm_narrow(a)};
    return view;
}

static inline ssm_grid ssm_grid_of(const ssmcore_array *a) {
    ssm_grid view = {0};
    if (a) view.data = a->data, view.batch = a->strides[0], view.row = a->strides[1], view.column = a->strides[2], view.dim = a->strides[3];
    return view;
}

static inline void *ssm_start(const ssmcore_array *a) { return a ? a->data : 0; }
#endif
