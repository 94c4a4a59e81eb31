/* Causal convolutions of sequences, each channel by itself. */
#include "api.h"
#include "frame.h"
#include <string.h>

static const char SEQUENCE[] = "batch seqlen dim", WEIGHT[] = "dim taps", STATE[] = "batch dim past";

/* Returns whether there is work. */
static int take(ssm_frame *f, ssmcore_causal_conv1d_args *a, ssm_conv *conv) {
    ssm_check_option(f, "activation", a->activation, SSMCORE_SILU);
    ssm_take(f, "x", &a->x, SEQUENCE, SSM_NARROW);
    ssm_take(f, "weight", &a->weight, WEIGHT, SSM_PACKED);
    ssm_take(f, "bias", &a->bias, "dim", SSM_OPTIONAL | SSM_PACKED);
    if (f->status) return 0;
    if (ssm_size(f, "taps") < 1) {
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "weight: expected at least one tap, got 0; pass (dim, taps)");
        return 0;
    }
    ssm_take(f, "initial_state", &a->initial_state, STATE, SSM_OPTIONAL | SSM_PACKED);
    ssm_check(f, "last_state", a->last_state, STATE, SSM_OPTIONAL);
    ssm_bind(f, "past", ssm_size(f, "taps") - 1);
    if (f->status) return 0;
    if (ssm_size(f, "past") < ssm_size(f, "taps") - 1) {
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected at least %lld steps, one fewer than taps, got %lld; keep that many",
                 a->initial_state ? "initial_state" : "last_state", (long long)ssm_size(f, "taps") - 1, (long long)ssm_size(f, "past"));
        return 0;
    }
    *conv = (ssm_conv){0};
    conv->batch = ssm_size(f, "batch");
    conv->seqlen = ssm_size(f, "seqlen");
    conv->dim = ssm_size(f, "dim");
    conv->taps = ssm_size(f, "taps");
    conv->kept = ssm_size(f, "past");
    conv->silu = a->activation == SSMCORE_SILU;
    conv->workers = &f->workers;
    conv->x = ssm_sequence_of(a->x);
    conv->weight = a->weight->data;
    conv->bias = ssm_start(a->bias);
    conv->initial = conv->taps > 1 ? ssm_start(a->initial_state) : NULL;
    return conv->batch * conv->seqlen * conv->dim > 0;
}

/* The last steps of what came before and of x, into memory that may be that of what came before. */
static void keep(ssm_frame *f, const ssmcore_causal_conv1d_args *a) {
    const ssmcore_array *before = a->initial_state, *after = a->last_state;
    int64_t past = ssm_size(f, "past"), seqlen = ssm_size(f, "seqlen"), fresh = past < seqlen ? past : seqlen, old = past - fresh;
    size_t bytes = ssm_bytes(f->type);
    for (int64_t row = 0; row < after->shape[0] * after->shape[1]; row++) {
        char *kept = (char *)after->data + (size_t)(row * past) * bytes;
        const char *from = before ? (const char *)before->data + (size_t)(row * past + fresh) * bytes : NULL;
        if (!from)
            memset(kept, 0, (size_t)old * bytes);
        else if (old > 16)
            memmove(kept, from, (size_t)old * bytes);
        else if (bytes == 4) /* some moves, in less time than a call */
            for (int64_t i = 0; i < old; i++) memmove(kept + 4 * i, from + 4 * i, 4);
        else
            for (int64_t i = 0; i < old; i++) memmove(kept + 8 * i, from + 8 * i, 8);
    }
    ssmcore_array from = *a->x, to = *a->x;
    from.shape[1] = to.shape[1] = fresh;
    from.data = (char *)from.data + (seqlen - fresh) * from.strides[1] * (int64_t)ssm_bytes(from.type);
    to.type = f->type;
    to.data = (char *)after->data + (size_t)old * bytes;
    to.strides[0] = to.shape[2] * past;
    to.strides[1] = 1;
    to.strides[2] = past;
    ssm_copy(f, &to, &from, 1);
}

int ssmcore_causal_conv1d(const ssmcore_causal_conv1d_args *args, const ssmcore_options *options) {
    ssmcore_causal_conv1d_args a;
    ssm_frame f;
    ssm_conv conv;
    if (ssm_open(&f, "causal_conv1d", options, args, &a, sizeof a)) return f.status;
    int work = take(&f, &a, &conv);
    ssm_give(&f, "out", &a.out, SEQUENCE, SSM_NARROW);
    ssm_give(&f, "last_state", &a.last_state, STATE, SSM_OPTIONAL | SSM_PACKED);
    if (work && !f.status) {
        conv.out = ssm_sequence_of(a.out);
        ssm_ran(&f, ssm_conv_fwd(&conv, f.isa, ssm_is_double(&f)));
    }
    if (a.last_state && !f.status) keep(&f, &a);
    return ssm_close(&f);
}

int ssmcore_causal_conv1d_vjp(const ssmcore_causal_conv1d_vjp_args *args, const ssmcore_options *options) {
    ssmcore_causal_conv1d_vjp_args g;
    ssmcore_causal_conv1d_args a;
    ssm_frame f;
    ssm_conv conv;
    if (ssm_open(&f, "causal_conv1d_vjp", options, args, &g, sizeof g) || ssm_open_forward(&f, g.forward, &a, sizeof a)) return f.status;
    int work = take(&f, &a, &conv);
    ssm_take(&f, "dout", &g.dout, SEQUENCE, SSM_NARROW);
    if (!f.status && ssm_size(&f, "past") != ssm_size(&f, "taps") - 1)
        ssm_fail(&f, SSMCORE_ERROR_ARGUMENT, "initial_state: expected taps - 1 steps, got %lld; a gradient has no more",
                 (long long)ssm_size(&f, "past"));
    if (f.status) return ssm_close(&f);
    int64_t parts = work ? conv.batch : 0;
    ssm_give(&f, "dx", &g.dx, SEQUENCE, SSM_NARROW | SSM_MADE);
    conv.dweight = ssm_give_parts(&f, "dweight", g.dweight, WEIGHT, parts);
    if (a.bias) conv.dbias = ssm_give_parts(&f, "dbias", g.dbias, "dim", parts);
    ssm_give(&f, "dinitial_state", &g.dinitial_state, STATE, SSM_PACKED | SSM_MADE);
    if (work && !f.status) {
        conv.dout = ssm_sequence_of(g.dout);
        conv.dx = ssm_sequence_of(g.dx);
        if (conv.taps > 1) conv.dinitial = g.dinitial_state->data;
        ssm_ran(&f, ssm_conv_bwd(&conv, f.isa, ssm_is_double(&f)));
    } else if (!f.status) {
        ssm_zero(g.dinitial_state);
    }
    return ssm_close(&f);
}
