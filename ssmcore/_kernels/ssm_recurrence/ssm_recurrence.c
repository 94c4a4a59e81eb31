/* Time-invariant diagonal systems, real or complex. */
#include "api.h"
#include "frame.h"

static int is_complex(const ssmcore_array *a) { return a && (a->type == SSMCORE_COMPLEX64 || a->type == SSMCORE_COMPLEX128); }

static int is_wide(const ssmcore_array *a) { return a && (a->type == SSMCORE_FLOAT64 || a->type == SSMCORE_COMPLEX128); }

/* The real or the imaginary parts. */
static ssmcore_array part_of(const ssmcore_array *a, int imaginary) {
    ssmcore_array part = *a;
    if (!is_complex(a)) return part;
    part.type = a->type == SSMCORE_COMPLEX64 ? SSMCORE_FLOAT32 : SSMCORE_FLOAT64;
    for (int i = 0; i < a->ndim; i++) part.strides[i] *= 2;
    part.data = (char *)a->data + (imaginary ? ssm_bytes(part.type) : 0);
    return part;
}

/* (rows, width) of the real or the imaginary parts, with zeros after what there is. */
static ssmcore_array *widened(ssm_frame *f, const ssmcore_array *a, int64_t rows, int64_t width, int imaginary) {
    const int64_t shape[] = {rows, width};
    ssmcore_array *wide = ssm_make(f, f->type, 2, shape);
    if (!wide) return NULL;
    if (!a || width > a->shape[1] || (imaginary && !is_complex(a))) ssm_zero(wide);
    if (!a || (imaginary && !is_complex(a))) return wide;
    ssmcore_array part = part_of(a, imaginary), window = *wide;
    window.shape[1] = a->shape[1];
    ssm_copy(f, &window, &part, 1);
    return wide;
}

static ssm_parts parts_of(ssm_frame *f, const ssmcore_array *a, int64_t rows, int64_t width, int complex) {
    ssmcore_array *real = widened(f, a, rows, width, 0), *imaginary = complex ? widened(f, a, rows, width, 1) : NULL;
    return (ssm_parts){ssm_start(real), ssm_start(imaginary)};
}

/* Brings (rows, width) back. */
static void bring_back(ssm_frame *f, const ssmcore_array *to, ssm_parts parts, int64_t width) {
    if (!to || f->status) return;
    for (int imaginary = 0; imaginary <= is_complex(to); imaginary++) {
        ssmcore_array part = part_of(to, imaginary), from = part;
        from.data = imaginary ? parts.imaginary : parts.real;
        from.type = f->type;
        from.strides[0] = width;
        from.strides[1] = 1;
        ssm_copy(f, &part, &from, 1);
    }
}

int ssmcore_ssm_recurrence(const ssmcore_ssm_recurrence_args *args, const ssmcore_options *options) {
    static const char SYSTEM[] = "rows dstate", SEQUENCE[] = "rows seqlen";
    ssmcore_ssm_recurrence_args a;
    ssm_frame f;
    if (ssm_open(&f, "ssm_recurrence", options, args, &a, sizeof a)) return f.status;
    ssm_check(&f, "A_bar", a.A_bar, SYSTEM, 0);
    ssm_check(&f, "B_bar", a.B_bar, SYSTEM, 0);
    ssm_check(&f, "C", a.C, SYSTEM, 0);
    ssm_check(&f, "u", a.u, SEQUENCE, 0);
    ssm_check(&f, "initial_state", a.initial_state, SYSTEM, SSM_OPTIONAL);
    ssm_check(&f, "y", a.y, SEQUENCE, SSM_WRITTEN);
    ssm_check(&f, "last_state", a.last_state, SYSTEM, SSM_OPTIONAL | SSM_WRITTEN);
    const ssmcore_array *read[] = {a.A_bar, a.B_bar, a.C, a.u, a.initial_state, a.y, a.last_state};
    static const char *const names[] = {"A_bar", "B_bar", "C", "u", "initial_state", "y", "last_state"};
    for (int i = 0; i < 7; i++)
        if (read[i] && read[i]->type == SSMCORE_UINT8)
            ssm_fail(&f, SSMCORE_ERROR_ARGUMENT, "%s: expected a real or complex type, got SSMCORE_UINT8; convert it", names[i]);
    if (f.status) return ssm_close(&f);
    int complex = 0, wide = 0;
    for (int i = 0; i < 5; i++) {
        complex |= is_complex(read[i]);
        wide |= is_wide(read[i]);
    }
    if (complex && (!is_complex(a.y) || (a.last_state && !is_complex(a.last_state))))
        ssm_fail(&f, SSMCORE_ERROR_ARGUMENT, "y: expected complex results of a complex system, got type %d; pass SSMCORE_COMPLEX64 or 128",
                 (int)(is_complex(a.y) ? a.last_state->type : a.y->type));
    else if (!complex && (is_complex(a.y) || is_complex(a.last_state)))
        ssm_fail(&f, SSMCORE_ERROR_ARGUMENT, "y: expected real results of a real system, got complex ones; pass SSMCORE_FLOAT32 or 64");
    f.type = wide ? SSMCORE_FLOAT64 : SSMCORE_FLOAT32;
    int64_t rows = ssm_size(&f, "rows"), seqlen = ssm_size(&f, "seqlen"), dstate = ssm_size(&f, "dstate");
    int64_t width = (dstate + SSMCORE_STATES - 1) / SSMCORE_STATES * SSMCORE_STATES;
    ssm_linear system = {.rows = rows, .dstate = width, .seqlen = seqlen, .workers = &f.workers};
    system.A = parts_of(&f, a.A_bar, rows, width, complex);
    system.B = parts_of(&f, a.B_bar, rows, width, complex);
    system.C = parts_of(&f, a.C, rows, width, complex);
    system.state = parts_of(&f, a.initial_state, rows, width, complex);
    system.u = parts_of(&f, a.u, rows, seqlen, is_complex(a.u));
    system.y = parts_of(&f, NULL, rows, seqlen, complex);
    if (rows && seqlen && !f.status) ssm_ran(&f, ssm_linear_run(&system, f.isa, ssm_is_double(&f)));
    bring_back(&f, a.y, system.y, seqlen);
    bring_back(&f, a.last_state, system.state, width);
    return ssm_close(&f);
}
