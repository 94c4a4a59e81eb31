/* What every operation does around its passes. See frame.h. */
#include "frame.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { TEXT = 400, MOST_BYTES = 1 << 16 /* of a caller's struct: more is no size */ };

#define MOST_ELEMENTS (INT64_C(1) << 48) /* of an array: more have no addresses, and sizes made of them stay within int64_t */

static __thread char text[TEXT];

const char *ssmcore_error(void) { return text; }

uint32_t ssmcore_abi(void) { return SSMCORE_ABI; }

const char *ssmcore_version(void) { return SSMCORE_VERSION; }

int32_t ssmcore_widest_isa(void) { return ssm_widest_isa() + SSMCORE_ISA_GENERIC; }

#define ENTRY(name) ssmcore_##name,
static const ssmcore_functions table = {
    sizeof table, SSMCORE_ABI, 0, ssmcore_version, ssmcore_error, ssmcore_widest_isa, ssmcore_has_threads, SSMCORE_OPERATIONS(ENTRY)};
#undef ENTRY

const ssmcore_functions *ssmcore_table(void) { return &table; }

void ssm_fail(ssm_frame *f, int status, const char *format, ...) {
    va_list given;
    if (f->status) return; /* the first error is the one that counts */
    f->status = status;
    int used = snprintf(text, TEXT, "%s: ", f->op);
    va_start(given, format);
    vsnprintf(text + used, TEXT - used, format, given);
    va_end(given);
}

/* ---- structs that grow ---- */

/* Copies a caller's struct, which begins with its size, onto zeros. */
static void open_struct(ssm_frame *f, const char *what, const void *given, void *whole, size_t bytes) {
    memset(whole, 0, bytes);
    if (!given) {
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected a struct, got NULL; pass its address", what);
        return;
    }
    size_t size;
    memcpy(&size, given, sizeof size);
    if (size < sizeof size || size > MOST_BYTES) {
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected size to be the struct's sizeof, at most %d, got %zu; set it first", what,
                 MOST_BYTES, size);
        return;
    }
    for (size_t i = bytes; i < size; i++)
        if (((const char *)given)[i]) {
            ssm_fail(f, SSMCORE_ERROR_VERSION, "%s: expected %zu bytes, all that version %s knows, got more that are not 0; install a newer "
                     "library, or leave what it does not know", what, bytes, SSMCORE_VERSION);
            return;
        }
    memcpy(whole, given, size < bytes ? size : bytes);
}

int ssm_open(ssm_frame *f, const char *op, const ssmcore_options *options, const void *given, void *args, size_t bytes) {
    static const ssmcore_options nothing = {.size = sizeof nothing};
    ssmcore_options o;
    f->op = op;
    f->status = f->nsizes = f->nblocks = f->nmade = f->nresults = 0;
    f->type = -1;
    open_struct(f, "args", given, args, bytes);
    open_struct(f, "options", options ? options : &nothing, &o, sizeof o);
    if (f->status) return f->status;
    if (o.num_threads < 0 || o.work_per_thread < 0)
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "options: expected num_threads and work_per_thread of at least 0, got %d and %lld; pass 0 for "
                 "the default", (int)o.num_threads, (long long)o.work_per_thread);
    if (!o.allocate != !o.release)
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "options: expected allocate and release together, got one of them; pass both or none");
    if (o.isa < 0 || o.isa > ssmcore_widest_isa())
        ssm_fail(f, SSMCORE_ERROR_ISA, "options: isa: expected at most %d, which this processor runs, got %d; pass 0 for the widest",
                 (int)ssmcore_widest_isa(), (int)o.isa);
    f->isa = o.isa ? o.isa - SSMCORE_ISA_GENERIC : ssm_widest_isa();
    f->workers.threads = o.num_threads ? o.num_threads : 1;
    f->workers.work_per_thread = o.work_per_thread ? o.work_per_thread : 1 << 20;
    f->workers.parallel_for = o.parallel_for;
    f->workers.pool = o.pool;
    f->workers.allocate = o.allocate;
    f->workers.release = o.release;
    f->workers.memory = o.memory;
    return f->status;
}

int ssm_open_forward(ssm_frame *f, const void *given, void *args, size_t bytes) {
    open_struct(f, "forward", given, args, bytes);
    return f->status;
}

/* ---- memory ---- */

void *ssm_memory(ssm_frame *f, size_t bytes) {
    if (f->status) return NULL;
    bytes += 64;
    void *start = f->nblocks < FRAME_BLOCKS ? ssm_allocate(&f->workers, bytes) : NULL;
    if (!start) {
        ssm_fail(f, SSMCORE_ERROR_MEMORY, "no memory for %zu bytes of workspace; use fewer threads or a smaller batch", bytes);
        return NULL;
    }
    f->blocks[f->nblocks].start = start;
    f->blocks[f->nblocks++].bytes = bytes;
    return (void *)(((uintptr_t)start + 63) / 64 * 64);
}

size_t ssm_bytes(int type) {
    switch (type) {
    case SSMCORE_UINT8: return 1;
    case SSMCORE_FLOAT16:
    case SSMCORE_BFLOAT16: return 2;
    case SSMCORE_FLOAT32: return 4;
    case SSMCORE_COMPLEX128: return 16;
    default: return 8;
    }
}

int64_t ssm_count(const ssmcore_array *array) {
    int64_t count = 1;
    for (int i = 0; i < array->ndim; i++) count *= array->shape[i];
    return count;
}

/* The first of `parts` arrays, one behind the other. */
static ssmcore_array *make(ssm_frame *f, int type, int ndim, const int64_t *shape, int64_t parts) {
    if (f->status) return NULL;
    if (f->nmade == FRAME_MADE) {
        ssm_fail(f, SSMCORE_ERROR_MEMORY, "too many arrays to convert");
        return NULL;
    }
    ssmcore_array *made = &f->made[f->nmade++];
    int64_t stride = 1;
    size_t bytes = (size_t)parts * ssm_bytes(type);
    made->type = type;
    made->ndim = ndim;
    for (int i = ndim; i-- > 0;) {
        made->shape[i] = shape[i];
        made->strides[i] = stride;
        if (__builtin_mul_overflow(stride, shape[i], &stride)) bytes = SIZE_MAX;
    }
    if (__builtin_mul_overflow(bytes, (size_t)stride, &bytes) || bytes > PTRDIFF_MAX / 2) {
        ssm_fail(f, SSMCORE_ERROR_MEMORY, "no memory for more bytes of workspace than there are addresses; use a smaller batch");
        return NULL;
    }
    made->data = ssm_memory(f, bytes);
    return made->data ? made : NULL;
}

ssmcore_array *ssm_make(ssm_frame *f, int type, int ndim, const int64_t *shape) { return make(f, type, ndim, shape, 1); }

/* ---- copies ---- */

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Conversions without branches, which compilers make vectors of. */

/* Without subnormal numbers of float32, which a thread may treat as 0. */
static inline float from_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, size = half & 0x7fff;
    uint32_t subnormal = bits_of((float)(int32_t)size * 0x1p-24f), normal = (size << 13) + (112u << 23), special = (size << 13) + (224u << 23);
    uint32_t found = size < 0x7c00 ? normal : special;
    return float_of(sign | (size < 0x400 ? subnormal : found));
}

/* To the nearest, ties to even. */
static inline uint16_t to_half(float x) {
    uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    uint32_t subnormal = bits_of(float_of(size) + 0.5f) - 0x3f000000, normal = (size + 0xfff + (size >> 13 & 1) - 0x38000000) >> 13;
    uint32_t found = size < 0x38800000 ? subnormal : normal; /* 2^-14 */
    found = size >= 0x477ff000 ? 0x7c00 : found;             /* 65520 and more */
    return (uint16_t)(sign | (size > 0x7f800000 ? 0x7e00 : found));
}

static inline uint16_t to_brain(float x) {
    uint32_t bits = bits_of(x), nan = (bits >> 16 & 0x8000) | 0x7fc0, found = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? nan : found);
}

static float same32(float x) { return x; }
static float from_brain(uint16_t x) { return float_of((uint32_t)x << 16); }

#define LOAD(type, convert)                                                                     \
    {                                                                                           \
        const type *x = from;                                                                   \
        if (add && stride == 1)                                                                 \
            for (int64_t i = 0; i < count; i++) row[i] += convert(x[i]);                        \
        else if (add)                                                                           \
            for (int64_t i = 0; i < count; i++) row[i] += convert(x[i * stride]);               \
        else if (stride == 1)                                                                   \
            for (int64_t i = 0; i < count; i++) row[i] = convert(x[i]);                         \
        else                                                                                    \
            for (int64_t i = 0; i < count; i++) row[i] = convert(x[i * stride]);                \
        break;                                                                                  \
    }
#define STORE(type, convert)                                                                    \
    {                                                                                           \
        type *x = to;                                                                           \
        if (stride == 1)                                                                        \
            for (int64_t i = 0; i < count; i++) x[i] = (type)convert(row[i]);                   \
        else                                                                                    \
            for (int64_t i = 0; i < count; i++) x[i * stride] = (type)convert(row[i]);          \
        break;                                                                                  \
    }
#define ROWS(real, name)                                                                                          \
    static void load_##name(real *row, const void *from, int type, int64_t stride, int64_t count, int add) {      \
        switch (type) {                                                                                           \
        case SSMCORE_FLOAT64: LOAD(double, (real))                                                                \
        case SSMCORE_FLOAT16: LOAD(uint16_t, from_half)                                                           \
        case SSMCORE_BFLOAT16: LOAD(uint16_t, from_brain)                                                         \
        case SSMCORE_UINT8: LOAD(uint8_t, (real))                                                                 \
        default: LOAD(float, same32)                                                                              \
        }                                                                                                         \
    }                                                                                                             \
    static void store_##name(const real *row, void *to, int type, int64_t stride, int64_t count) {                \
        switch (type) {                                                                                           \
        case SSMCORE_FLOAT64: STORE(double, (double))                                                             \
        case SSMCORE_FLOAT16: STORE(uint16_t, to_half)                                                            \
        case SSMCORE_BFLOAT16: STORE(uint16_t, to_brain)                                                          \
        case SSMCORE_UINT8: STORE(uint8_t, (uint8_t))                                                             \
        default: STORE(float, (float))                                                                            \
        }                                                                                                         \
    }
ROWS(float, f32)
ROWS(double, f64)

enum { ROW = 256, UNIT = 1 << 15 /* elements of a unit of work */ };

typedef struct {
    ssmcore_array to, from;
    int64_t parts, part;    /* how many to add up, and elements from one to the next */
    int64_t rows, per_unit, pieces; /* along the last axis: a unit has some rows, or a piece of UNIT elements of one */
} copying;

static void copy_bytes(char *to, const char *from, int64_t to_step, int64_t from_step, int64_t count, size_t bytes) {
    if (to_step == (int64_t)bytes && from_step == to_step)
        memcpy(to, from, (size_t)count * bytes);
    else if (bytes == 4) /* a size that the compiler knows is one move */
        for (int64_t i = 0; i < count; i++) memcpy(to + i * to_step, from + i * from_step, 4);
    else if (bytes == 8)
        for (int64_t i = 0; i < count; i++) memcpy(to + i * to_step, from + i * from_step, 8);
    else
        for (int64_t i = 0; i < count; i++) memcpy(to + i * to_step, from + i * from_step, bytes);
}

static void copy_row(const copying *c, char *to, const char *from, int64_t count, int64_t to_stride, int64_t from_stride) {
    int to_type = c->to.type, from_type = c->from.type;
    int64_t part = c->part * (int64_t)ssm_bytes(from_type);
    if (to_type == SSMCORE_FLOAT64 || from_type == SSMCORE_FLOAT64) {
        double row[ROW];
        for (int64_t i = 0; i < c->parts; i++) load_f64(row, from + i * part, from_type, from_stride, count, i > 0);
        store_f64(row, to, to_type, to_stride, count);
    } else {
        float row[ROW];
        for (int64_t i = 0; i < c->parts; i++) load_f32(row, from + i * part, from_type, from_stride, count, i > 0);
        store_f32(row, to, to_type, to_stride, count);
    }
}

static void copy_rows(const void *task, int64_t unit, char *scratch) {
    const copying *c = task;
    const ssmcore_array *to = &c->to, *from = &c->from;
    int last = to->ndim - 1, alike = to->type == from->type && c->parts == 1;
    int64_t to_bytes = (int64_t)ssm_bytes(to->type), from_bytes = (int64_t)ssm_bytes(from->type);
    int64_t to_stride = to->strides[last], from_stride = from->strides[last], begin = unit % c->pieces * UNIT;
    int64_t length = to->shape[last] - begin, row = unit / c->pieces * c->per_unit;
    int64_t end = row + c->per_unit < c->rows ? row + c->per_unit : c->rows;
    if (length > UNIT && c->pieces > 1) length = UNIT;
    (void)scratch;
    for (; row < end; row++) {
        int64_t there = begin * to_stride, here = begin * from_stride, rest = row;
        for (int i = last; i-- > 0;) {
            int64_t at = rest % to->shape[i];
            rest /= to->shape[i];
            there += at * to->strides[i];
            here += at * from->strides[i];
        }
        char *target = (char *)to->data + there * to_bytes;
        const char *source = (const char *)from->data + here * from_bytes;
        if (alike)
            copy_bytes(target, source, to_stride * to_bytes, from_stride * to_bytes, length, (size_t)to_bytes);
        else
            for (int64_t i = 0; i < length; i += ROW)
                copy_row(c, target + i * to_stride * to_bytes, source + i * from_stride * from_bytes,
                         length - i < ROW ? length - i : ROW, to_stride, from_stride);
    }
}

static int64_t step_of(const ssmcore_array *a, int axis) { return a->strides[axis] < 0 ? -a->strides[axis] : a->strides[axis]; }

/* The axis along which memory is walked in the smallest steps. */
static int finest(const ssmcore_array *a) {
    int best = a->ndim - 1;
    for (int i = a->ndim; i-- > 0;)
        if (a->shape[i] > 1 && (a->shape[best] < 2 || step_of(a, i) < step_of(a, best))) best = i;
    return best;
}

static void exchange(ssmcore_array *a, int i, int j) {
    int64_t shape = a->shape[i], stride = a->strides[i];
    a->shape[i] = a->shape[j], a->strides[i] = a->strides[j];
    a->shape[j] = shape, a->strides[j] = stride;
}

/* Makes one axis of two that follow one another in both arrays. */
static void join_axes(ssmcore_array *to, ssmcore_array *from) {
    int kept = 0;
    for (int i = 1; i < to->ndim; i++) {
        int64_t shape = to->shape[i];
        if (to->strides[kept] == shape * to->strides[i] && from->strides[kept] == shape * from->strides[i]) {
            to->shape[kept] *= shape;
        } else {
            to->shape[++kept] = shape;
        }
        to->strides[kept] = to->strides[i];
        from->strides[kept] = from->strides[i];
    }
    for (int i = 0; i <= kept; i++) from->shape[i] = to->shape[i];
    to->ndim = from->ndim = kept + 1;
}

void ssm_copy(ssm_frame *f, const ssmcore_array *to, const ssmcore_array *from, int64_t parts) {
    if (to) ssm_copy_parts(f, to, from, parts, ssm_count(to));
}

void ssm_copy_parts(ssm_frame *f, const ssmcore_array *to, const ssmcore_array *from, int64_t parts, int64_t part) {
    if (f->status || !to || !from) return;
    int64_t count = ssm_count(to);
    if (count == 0) return;
    if (parts == 0) { /* the sum over none */
        ssm_zero(to);
        return;
    }
    copying c = {.to = *to, .from = *from, .parts = parts, .part = part};
    if (to->ndim == 0)
        for (ssmcore_array *a = &c.to; a; a = a == &c.to ? &c.from : NULL) a->ndim = 1, a->shape[0] = 1, a->strides[0] = 1;
    join_axes(&c.to, &c.from);
    int last = c.to.ndim - 1, fine = finest(&c.to);
    exchange(&c.to, fine, last);
    exchange(&c.from, fine, last);
    int64_t length = c.to.shape[last];
    c.rows = count / length;
    c.per_unit = length < UNIT ? UNIT / length : 1;
    c.pieces = (length + UNIT - 1) / UNIT;
    ssm_ran(f, ssm_run_units(&c, (c.rows + c.per_unit - 1) / c.per_unit * c.pieces, &f->workers, 4 * parts * count, 0, copy_rows));
}

void ssm_zero(const ssmcore_array *array) {
    if (!array || ssm_count(array) == 0) return;
    size_t bytes = ssm_bytes(array->type);
    int last = array->ndim - 1;
    int64_t length = array->ndim ? array->shape[last] : 1, step = array->ndim ? array->strides[last] : 1;
    int64_t rows = ssm_count(array) / length;
    for (int64_t row = 0; row < rows; row++) {
        int64_t at = 0, rest = row;
        for (int i = last; i-- > 0;) {
            at += rest % array->shape[i] * array->strides[i];
            rest /= array->shape[i];
        }
        char *start = (char *)array->data + at * (int64_t)bytes;
        if (step == 1)
            memset(start, 0, (size_t)length * bytes);
        else
            for (int64_t i = 0; i < length; i++) memset(start + i * step * (int64_t)bytes, 0, bytes);
    }
}

static int is_packed(const ssmcore_array *a) {
    int64_t stride = 1;
    for (int i = a->ndim; i-- > 0;) {
        if (a->shape[i] > 1 && a->strides[i] != stride) return 0;
        stride *= a->shape[i];
    }
    return 1;
}

static int is_adjacent(const ssmcore_array *a) { return a->ndim == 0 || a->shape[a->ndim - 1] < 2 || a->strides[a->ndim - 1] == 1; }

static int has_positions(const ssmcore_array *a) { return a->shape[1] < 2 || a->shape[2] < 2 || a->strides[1] == a->shape[2] * a->strides[2]; }

static int lies(const ssmcore_array *a, int how) {
    return (!(how & SSM_PACKED) || is_packed(a)) && (!(how & SSM_ADJACENT) || is_adjacent(a)) &&
           (!(how & SSM_POSITIONS) || has_positions(a));
}

/* ---- arrays that come in and go out ---- */

static int64_t *size_at(ssm_frame *f, const char *axis, int64_t length, const char *by) {
    for (int i = 0; i < f->nsizes; i++)
        if (f->sizes[i].length == length && !memcmp(f->sizes[i].axis, axis, (size_t)length)) return &f->sizes[i].value;
    if (!by || f->nsizes == FRAME_SIZES) return NULL;
    f->sizes[f->nsizes].axis = axis;
    f->sizes[f->nsizes].length = length;
    f->sizes[f->nsizes].by = by;
    return &f->sizes[f->nsizes++].value;
}

int64_t ssm_size(const ssm_frame *f, const char *axis) {
    const int64_t *size = size_at((ssm_frame *)f, axis, (int64_t)strlen(axis), NULL);
    return size ? *size : 0;
}

void ssm_bind(ssm_frame *f, const char *axis, int64_t size) {
    int known = f->nsizes;
    int64_t *found = size_at(f, axis, (int64_t)strlen(axis), axis);
    if (found && f->nsizes > known) *found = size;
}

void ssm_check_option(ssm_frame *f, const char *name, int32_t value, int32_t most) {
    if (value < 0 || value > most)
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected a number of 0 to %d, got %d; take one that ssmcore.h names", name, (int)most,
                 (int)value);
}

int ssm_is_double(const ssm_frame *f) { return f->type == SSMCORE_FLOAT64; }

/* The next word of `axes`, or NULL. */
static const char *next_axis(const char *axes, int64_t *length) {
    while (*axes == ' ') axes++;
    *length = (int64_t)strcspn(axes, " ");
    return *length ? axes : NULL;
}

/* Fills `shape`; returns its length. */
static int shape_of(ssm_frame *f, const char *axes, int64_t *shape) {
    int ndim = 0;
    int64_t length;
    for (const char *axis = axes; (axis = next_axis(axis, &length)); axis += length) {
        const int64_t *size = size_at(f, axis, length, NULL);
        shape[ndim++] = size ? *size : *axis - '0';
    }
    return ndim;
}

static void wrong_shape(ssm_frame *f, const char *name, const ssmcore_array *a, const char *axes) {
    char expected[TEXT / 4] = "", got[TEXT / 4] = "", names[TEXT / 4] = "";
    size_t used = 0, named = 0;
    const char *by = NULL;
    int64_t length;
    for (const char *axis = axes; (axis = next_axis(axis, &length)); axis += length) {
        int64_t *size = size_at(f, axis, length, NULL);
        for (int i = 0; i < f->nsizes && !by; i++)
            if (size == &f->sizes[i].value) by = f->sizes[i].by;
        if (size)
            used += (size_t)snprintf(expected + used, sizeof expected - used, used ? ", %lld" : "%lld", (long long)*size);
        else
            used += (size_t)snprintf(expected + used, sizeof expected - used, used ? ", %.*s" : "%.*s", (int)length, axis);
        named += (size_t)snprintf(names + named, sizeof names - named, named ? ", %.*s" : "%.*s", (int)length, axis);
        if (used >= sizeof expected || named >= sizeof names) break;
    }
    used = 0;
    for (int i = 0; i < a->ndim && used < sizeof got; i++)
        used += (size_t)snprintf(got + used, sizeof got - used, i ? ", %lld" : "%lld", (long long)a->shape[i]);
    ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected shape (%s)%s%s, got (%s); its axes are (%s)", name, expected,
             by && strcmp(by, name) ? " like " : "", by && strcmp(by, name) ? by : "", got, names);
}

static void check_real(ssm_frame *f, const char *name, const ssmcore_array *a) {
    if (a->type > SSMCORE_BFLOAT16)
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected a type of SSMCORE_FLOAT32 to SSMCORE_BFLOAT16, got %d; convert it", name,
                 (int)a->type);
}

/* Threads would write one element at once, and the last one would win. */
static void check_apart(ssm_frame *f, const char *name, const ssmcore_array *a) {
    for (int i = 0; i < a->ndim; i++)
        if (a->shape[i] > 1 && a->strides[i] == 0 && ssm_count(a))
            ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected elements apart, for it is written, got a stride of 0 along axis %d; pass "
                     "memory for every element", name, i);
}

static void check_count(ssm_frame *f, const char *name, const ssmcore_array *a) {
    int64_t count = 1;
    for (int i = 0; i < a->ndim; i++)
        if (a->shape[i] == 0) return;
    for (int i = 0; i < a->ndim; i++)
        if (__builtin_mul_overflow(count, a->shape[i], &count) || count > MOST_ELEMENTS) {
            ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected at most 2^48 elements, got an axis %d of %lld; set shape", name, i,
                     (long long)a->shape[i]);
            return;
        }
}

void ssm_check(ssm_frame *f, const char *name, const ssmcore_array *a, const char *axes, int how) {
    if (f->status) return;
    if (!a) {
        if (!(how & SSM_OPTIONAL)) ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected an array, got NULL; it is not optional", name);
        return;
    }
    if (a->ndim < 0 || a->ndim > SSMCORE_MAX_NDIM) {
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected at most %d axes, got %d; set ndim", name, SSMCORE_MAX_NDIM, (int)a->ndim);
        return;
    }
    if (a->type < SSMCORE_FLOAT32 || a->type > SSMCORE_UINT8) {
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected a type of SSMCORE_FLOAT32 to SSMCORE_UINT8, got %d; set type", name, (int)a->type);
        return;
    }
    int at = 0;
    int64_t length;
    for (const char *axis = axes; (axis = next_axis(axis, &length)); axis += length, at++) {
        if (at == a->ndim || a->shape[at] < 0) {
            wrong_shape(f, name, a, axes);
            return;
        }
        if (*axis >= '0' && *axis <= '9') {
            if (a->shape[at] != *axis - '0') wrong_shape(f, name, a, axes);
        } else {
            int known = f->nsizes;
            int64_t *size = size_at(f, axis, length, name);
            if (f->nsizes > known) *size = a->shape[at];
            if (*size != a->shape[at]) wrong_shape(f, name, a, axes);
        }
        if (f->status) return;
    }
    if (at < a->ndim) wrong_shape(f, name, a, axes);
    check_count(f, name, a);
    if (f->status) return;
    if (!a->data && ssm_count(a))
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected memory, got NULL; pass no array where it is absent", name);
    else if ((uintptr_t)a->data % (ssm_bytes(a->type) < 8 ? ssm_bytes(a->type) : 8))
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected data at a multiple of its type's size, got %p; copy it", name, a->data);
    if (how & SSM_REAL) check_real(f, name, a);
    if (how & SSM_WRITTEN) check_apart(f, name, a);
}

/* An unset array of the type computed in, in C order, or where the caller has another order and it may stay, in that. */
static ssmcore_array *make_like(ssm_frame *f, const ssmcore_array *a, int how) {
    ssmcore_array turned = *a;
    int last = a->ndim - 1, fine = a->ndim ? finest(a) : 0;
    if (how & (SSM_PACKED | SSM_ADJACENT | SSM_POSITIONS) || a->ndim == 0) fine = last;
    if (fine != last) exchange(&turned, fine, last);
    ssmcore_array *made = ssm_make(f, f->type, a->ndim, turned.shape);
    if (made && fine != last) exchange(made, fine, last);
    return made;
}

static int serves(const ssm_frame *f, const ssmcore_array *a, int how) {
    int narrow = how & SSM_NARROW && f->type == SSMCORE_FLOAT32 && ssm_narrow(a);
    return (narrow || a->type == f->type) && lies(a, how);
}

void ssm_take(ssm_frame *f, const char *name, const ssmcore_array **array, const char *axes, int how) {
    const ssmcore_array *a = *array;
    ssm_check(f, name, a, axes, how | SSM_REAL);
    if (f->status || !a) return;
    if (f->type < 0) f->type = a->type == SSMCORE_FLOAT64 ? SSMCORE_FLOAT64 : SSMCORE_FLOAT32;
    if (serves(f, a, how)) return;
    ssmcore_array *made = make_like(f, a, how);
    ssm_copy(f, made, a, 1);
    *array = made;
}

void ssm_give(ssm_frame *f, const char *name, const ssmcore_array **array, const char *axes, int how) {
    const ssmcore_array *a = *array;
    ssm_check(f, name, a, axes, (how & SSM_MADE ? how | SSM_OPTIONAL : how) | SSM_REAL | SSM_WRITTEN);
    if (f->status || (!a && !(how & SSM_MADE))) return;
    if (a && serves(f, a, how)) return;
    ssmcore_array *made;
    if (a) {
        made = make_like(f, a, how);
    } else {
        int64_t shape[SSMCORE_MAX_NDIM];
        made = ssm_make(f, f->type, shape_of(f, axes, shape), shape);
    }
    *array = made;
    if (!made || !a) return;
    f->results[f->nresults].to = a;
    f->results[f->nresults].from = made;
    f->results[f->nresults++].parts = 1;
}

void *ssm_give_parts(ssm_frame *f, const char *name, const ssmcore_array *array, const char *axes, int64_t parts) {
    const ssmcore_array *written = array;
    if (parts == 1) {
        ssm_give(f, name, &written, axes, SSM_PACKED | SSM_MADE);
        return f->status ? NULL : written->data;
    }
    ssm_check(f, name, array, axes, SSM_OPTIONAL | SSM_REAL | SSM_WRITTEN);
    if (f->status) return NULL;
    int64_t shape[SSMCORE_MAX_NDIM];
    ssmcore_array *made = make(f, f->type, shape_of(f, axes, shape), shape, parts);
    if (!made) return NULL;
    if (array) {
        f->results[f->nresults].to = array;
        f->results[f->nresults].from = made;
        f->results[f->nresults++].parts = parts;
    }
    return made->data;
}

int ssm_ran(ssm_frame *f, int status) {
    if (status == SSMCORE_ERROR_MEMORY)
        ssm_fail(f, status, "no memory for the kernel's scratch; use fewer threads");
    else if (status)
        ssm_fail(f, status, "this processor does not run the instruction set asked for");
    return f->status == 0;
}

int ssm_close(ssm_frame *f) {
    for (int i = 0; i < f->nresults; i++) ssm_copy(f, f->results[i].to, f->results[i].from, f->results[i].parts);
    while (f->nblocks > 0) {
        f->nblocks--;
        ssm_release(&f->workers, f->blocks[f->nblocks].start, f->blocks[f->nblocks].bytes);
    }
    return f->status;
}
