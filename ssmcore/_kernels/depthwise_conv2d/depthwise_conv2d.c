/* 3x3 convolutions of grids, each channel by itself. */
#include "api.h"
#include "frame.h"

static const char GRID[] = "batch height width dim", WEIGHT[] = "dim 3 3";

/* Returns whether there is work. */
static int take(ssm_frame *f, ssmcore_depthwise_conv2d_args *a, ssm_dwconv *conv) {
    ssm_check_option(f, "activation", a->activation, SSMCORE_SILU);
    ssm_take(f, "x", &a->x, GRID, 0);
    ssm_take(f, "weight", &a->weight, WEIGHT, SSM_PACKED);
    ssm_take(f, "bias", &a->bias, "dim", SSM_OPTIONAL | SSM_PACKED);
    if (f->status) return 0;
    *conv = (ssm_dwconv){0};
    conv->batch = ssm_size(f, "batch");
    conv->height = ssm_size(f, "height");
    conv->width = ssm_size(f, "width");
    conv->dim = ssm_size(f, "dim");
    conv->silu = a->activation == SSMCORE_SILU;
    conv->workers = &f->workers;
    conv->x = ssm_grid_of(a->x);
    conv->weight = a->weight->data;
    conv->bias = ssm_start(a->bias);
    return ssm_count(a->x) > 0;
}

int ssmcore_depthwise_conv2d(const ssmcore_depthwise_conv2d_args *args, const ssmcore_options *options) {
    ssmcore_depthwise_conv2d_args a;
    ssm_frame f;
    ssm_dwconv conv;
    if (ssm_open(&f, "depthwise_conv2d", options, args, &a, sizeof a)) return f.status;
    int work = take(&f, &a, &conv);
    ssm_give(&f, "out", &a.out, GRID, 0);
    if (work && !f.status) {
        conv.out = ssm_grid_of(a.out);
        ssm_ran(&f, ssm_dwconv_fwd(&conv, f.isa, ssm_is_double(&f)));
    }
    return ssm_close(&f);
}

int ssmcore_depthwise_conv2d_vjp(const ssmcore_depthwise_conv2d_vjp_args *args, const ssmcore_options *options) {
    ssmcore_depthwise_conv2d_vjp_args g;
    ssmcore_depthwise_conv2d_args a;
    ssm_frame f;
    ssm_dwconv conv;
    if (ssm_open(&f, "depthwise_conv2d_vjp", options, args, &g, sizeof g) || ssm_open_forward(&f, g.forward, &a, sizeof a)) return f.status;
    int work = take(&f, &a, &conv);
    ssm_take(&f, "dout", &g.dout, GRID, 0);
    if (f.status) return ssm_close(&f);
    ssm_give(&f, "dx", &g.dx, GRID, SSM_MADE);
    conv.dweight = ssm_give_parts(&f, "dweight", g.dweight, WEIGHT, work ? conv.batch : 0);
    if (a.bias) conv.dbias = ssm_give_parts(&f, "dbias", g.dbias, "dim", work ? conv.batch : 0);
    if (work && !f.status) {
        conv.dout = ssm_grid_of(g.dout);
        conv.dx = ssm_grid_of(g.dx);
        ssm_ran(&f, ssm_dwconv_bwd(&conv, f.isa, ssm_is_double(&f)));
    }
    return ssm_close(&f);
}
