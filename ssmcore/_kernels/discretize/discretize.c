/* Discretisation of diagonal systems, element by element, in double precision inside. */
#include <math.h>
#include "api.h"
#include "frame.h"

enum { PIECE = 4096 }; /* elements of a unit of work */

/* (e^x - phi)/x, whose terms cancel near 0: there its series, sum of x^k (k + 1)/(k + 2)! */
static double slope_of_phi(double x, double exp_x, double phi) {
    if (fabs(x) > 0.5) return (exp_x - phi) / x;
    double term = 0.5, total = 0.5;
    for (int k = 1; k < 14; k++) {
        term *= x * (k + 1) / (k * (k + 2.0));
        total += term;
    }
    return total;
}

static double phi_of(double x) { return x != 0.0 ? expm1(x) / x : 1.0; }

static int64_t end_of(const ssm_systems *s, int64_t piece) { return (piece + 1) * PIECE < s->size ? (piece + 1) * PIECE : s->size; }

#define REAL float
#define NAME(x) x##_f32
#include "elements.h"
#undef REAL
#undef NAME
#define REAL double
#define NAME(x) x##_f64
#include "elements.h"

/* Some 50 multiply-adds an element. */
static void run(ssm_frame *f, ssm_systems *s, int backward) {
    static ssm_unit *const units[2][2] = {{forward_f32, forward_f64}, {backward_f32, backward_f64}};
    if (f->status || s->size == 0) return;
    int64_t pieces = (s->size + PIECE - 1) / PIECE;
    ssm_ran(f, ssm_run_units(s, pieces, &f->workers, 50 * s->size, 0, units[backward][ssm_is_double(f)]));
}

/* Axes of the systems, whose last is dstate, by their number. */
static const char *const SYSTEMS[] = {NULL, "n", "a n", "a b n", "a b c n", "a b c d n", "a b c d e n"};
static const char *const STEPS[] = {NULL, "", "a", "a b", "a b c", "a b c d", "a b c d e"};

static int ndim_of(ssm_frame *f, const char *name, const ssmcore_array *a) {
    if (a && (a->ndim < 1 || a->ndim > SSMCORE_MAX_NDIM))
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "%s: expected 1 to %d axes, the last one dstate, got %d; set ndim", name, SSMCORE_MAX_NDIM,
                 (int)a->ndim);
    return a && !f->status ? a->ndim : 1;
}

/* A step is every state's: an axis more, of stride 0. */
static ssmcore_array for_every_state(const ssmcore_array *delta, int64_t dstate) {
    ssmcore_array view = *delta;
    view.shape[view.ndim] = dstate;
    view.strides[view.ndim++] = 0;
    return view;
}

typedef struct {
    ssm_systems systems;
    int ndim;
    const ssmcore_array *B;
} discretize_call;

static void take(ssm_frame *f, ssmcore_discretize_args *a, discretize_call *c) {
    c->systems = (ssm_systems){.discretization = a->discretization};
    c->ndim = ndim_of(f, "A", a->A);
    ssm_check_option(f, "discretization", a->discretization, SSMCORE_ZOH);
    ssm_take(f, "A", &a->A, SYSTEMS[c->ndim], SSM_PACKED);
    ssm_take(f, "B", &a->B, SYSTEMS[c->ndim], SSM_PACKED);
    ssm_check(f, "delta", a->delta, STEPS[c->ndim], SSM_REAL);
    if (f->status) return;
    ssmcore_array every = for_every_state(a->delta, ssm_size(f, "n"));
    const ssmcore_array *delta = &every;
    ssm_take(f, "delta", &delta, SYSTEMS[c->ndim], SSM_PACKED);
    if (f->status) return;
    c->systems.size = ssm_count(a->A);
    c->systems.A = a->A->data;
    c->systems.delta = delta->data;
    c->B = a->B;
    c->systems.A_bar = ssm_memory(f, (size_t)c->systems.size * sizeof(double));
    c->systems.gain = ssm_memory(f, (size_t)c->systems.size * sizeof(double));
}

/* to = x y, element by element; all packed and of the type computed in. */
static void multiply(const ssm_frame *f, void *to, const void *x, const void *y, int64_t count) {
    if (ssm_is_double(f))
        for (int64_t i = 0; i < count; i++) ((double *)to)[i] = ((const double *)x)[i] * ((const double *)y)[i];
    else
        for (int64_t i = 0; i < count; i++) ((float *)to)[i] = ((const float *)x)[i] * ((const float *)y)[i];
}

int ssmcore_discretize(const ssmcore_discretize_args *args, const ssmcore_options *options) {
    ssmcore_discretize_args a;
    ssm_frame f;
    discretize_call c;
    if (ssm_open(&f, "discretize", options, args, &a, sizeof a)) return f.status;
    take(&f, &a, &c);
    ssm_give(&f, "A_bar", &a.A_bar, SYSTEMS[c.ndim], SSM_PACKED);
    ssm_give(&f, "B_bar", &a.B_bar, SYSTEMS[c.ndim], SSM_PACKED);
    if (f.status) return ssm_close(&f);
    c.systems.A_bar = a.A_bar->data;
    c.systems.gain = a.B_bar->data;
    run(&f, &c.systems, 0);
    if (!f.status) multiply(&f, a.B_bar->data, a.B_bar->data, c.B->data, c.systems.size);
    return ssm_close(&f);
}

int ssmcore_discretize_vjp(const ssmcore_discretize_vjp_args *args, const ssmcore_options *options) {
    ssmcore_discretize_vjp_args g;
    ssmcore_discretize_args a;
    ssm_frame f;
    discretize_call c;
    if (ssm_open(&f, "discretize_vjp", options, args, &g, sizeof g) || ssm_open_forward(&f, g.forward, &a, sizeof a)) return f.status;
    take(&f, &a, &c);
    const char *axes = SYSTEMS[c.ndim];
    ssm_take(&f, "dA_bar", &g.dA_bar, axes, SSM_PACKED);
    ssm_take(&f, "dB_bar", &g.dB_bar, axes, SSM_PACKED);
    ssm_give(&f, "dA", &g.dA, axes, SSM_PACKED | SSM_MADE);
    ssm_give(&f, "dB", &g.dB, axes, SSM_PACKED | SSM_MADE);
    ssm_check(&f, "ddelta", g.ddelta, STEPS[c.ndim], SSM_OPTIONAL | SSM_REAL | SSM_WRITTEN);
    ssmcore_array *ddelta = f.status ? NULL : ssm_make(&f, f.type, c.ndim, a.A->shape);
    if (f.status) return ssm_close(&f);
    /* the gain by the forward pass, dB by it, then the gradient of the gain in its place */
    c.systems.ddelta = ddelta->data;
    c.systems.dA = g.dA->data;
    run(&f, &c.systems, 0);
    if (!f.status) multiply(&f, g.dB->data, g.dB_bar->data, c.systems.gain, c.systems.size);
    if (!f.status) multiply(&f, c.systems.gain, g.dB_bar->data, c.B->data, c.systems.size);
    c.systems.dA_bar = g.dA_bar->data;
    c.systems.dgain = c.systems.gain;
    run(&f, &c.systems, 1);
    /* the sum over the states: as many parts */
    if (g.ddelta && !f.status) {
        ssmcore_array one = *ddelta;
        one.ndim--;
        ssm_copy_parts(&f, g.ddelta, &one, a.A->shape[c.ndim - 1], 1);
    }
    return ssm_close(&f);
}
