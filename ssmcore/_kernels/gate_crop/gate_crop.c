/* The window in an array's middle, and its adjoint. */
#include "frame.h"

/* The view of `larger` that `part` has the shape of. */
static ssmcore_array window(ssm_frame *f, const char *name, const ssmcore_array *larger, const ssmcore_array *part, size_t bytes) {
    ssmcore_array view = *larger;
    int64_t offset = 0;
    for (int i = 0; i < part->ndim; i++) {
        if (larger->shape[i] < part->shape[i])
            ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected an axis %d of at least %lld, got %lld; a window is not larger than the whole",
                     name, i, (long long)part->shape[i], (long long)larger->shape[i]);
        offset += (larger->shape[i] - part->shape[i]) / 2 * larger->strides[i];
        view.shape[i] = part->shape[i];
    }
    view.data = (char *)larger->data + offset * (int64_t)bytes;
    return view;
}

static const char *const AXES[] = {"", "a", "a b", "a b c", "a b c d", "a b c d e", "a b c d e f"};
static const char *const OTHERS[] = {"", "A", "A B", "A B C", "A B C D", "A B C D E", "A B C D E F"};

static int check(ssm_frame *f, const char *name, const ssmcore_array *a, const char *other_name, const ssmcore_array *b) {
    int ndim = a && a->ndim >= 0 && a->ndim <= SSMCORE_MAX_NDIM ? a->ndim : 0;
    ssm_check(f, name, a, AXES[ndim], 0);
    ssm_check(f, other_name, b, OTHERS[ndim], SSM_WRITTEN);
    if (!f->status && a->type != b->type)
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected the type of %s, %d, got %d; convert one of them", other_name, name, (int)a->type,
                 (int)b->type);
    return f->status == 0;
}

int ssmcore_gate_crop(const ssmcore_gate_crop_args *args, const ssmcore_options *options) {
    ssmcore_gate_crop_args a;
    ssm_frame f;
    if (ssm_open(&f, "gate_crop", options, args, &a, sizeof a)) return f.status;
    if (check(&f, "g", a.g, "out", a.out)) {
        ssmcore_array view = window(&f, "g", a.g, a.out, ssm_bytes(a.g->type));
        ssm_copy(&f, a.out, &view, 1);
    }
    return ssm_close(&f);
}

int ssmcore_gate_crop_vjp(const ssmcore_gate_crop_vjp_args *args, const ssmcore_options *options) {
    ssmcore_gate_crop_vjp_args g;
    ssm_frame f;
    if (ssm_open(&f, "gate_crop_vjp", options, args, &g, sizeof g)) return f.status;
    if (check(&f, "dout", g.dout, "dg", g.dg)) {
        ssmcore_array view = window(&f, "dg", g.dg, g.dout, ssm_bytes(g.dg->type));
        if (!f.status) ssm_zero(g.dg);
        ssm_copy(&f, &view, g.dout, 1);
    }
    return ssm_close(&f);
}
