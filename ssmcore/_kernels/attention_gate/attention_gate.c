/* The attention gate: its passes over positions, and the statistics between them, in double precision. */
#include "api.h"
#include "frame.h"
#include <math.h>

static const char GRID[] = "batch height width channels", COMPARED[] = "batch height width dim", LARGER[] = "batch g_height g_width dim";
static const char COMPARISON[] = "batch height width", STATISTICS[] = "norms moments";

/* What both directions need. `used` holds (mean, variance) of theta's channels, of phi's, and of psi. */
typedef struct {
    ssm_gate gate;
    int64_t dim, channels, strips, positions;
    const double *theta_weight, *phi_weight, *shift, *psi, *psi_weight, *psi_shift;
    double *used, *coefficients;
    double eps;
    int given;
} gate_call;

static double *take_doubles(ssm_frame *f, const char *name, const ssmcore_array *array, const char *axes, int how) {
    ssm_check(f, name, array, axes, how | SSM_REAL);
    if (f->status || !array) return NULL;
    ssmcore_array *made = ssm_make(f, SSMCORE_FLOAT64, array->ndim, array->shape);
    ssm_copy(f, made, array, 1);
    return made ? made->data : NULL;
}

/* The view of the larger grid's middle. */
static ssm_grid middle(const ssm_frame *f, const ssmcore_array *larger) {
    ssm_grid view = ssm_grid_of(larger);
    int64_t top = (larger->shape[1] - ssm_size(f, "height")) / 2, left = (larger->shape[2] - ssm_size(f, "width")) / 2;
    int64_t bytes = ssm_is_double(f) ? 8 : 4;
    view.data = (char *)view.data + (top * view.row + left * view.column) * bytes;
    return view;
}

static void take(ssm_frame *f, ssmcore_attention_gate_args *a, gate_call *c) {
    ssm_take(f, "x", &a->x, GRID, SSM_ADJACENT);
    ssm_take(f, "theta", &a->theta, COMPARED, SSM_ADJACENT);
    ssm_take(f, "phi", &a->phi, LARGER, SSM_ADJACENT);
    *c = (gate_call){.eps = a->eps, .given = a->statistics != NULL};
    c->theta_weight = take_doubles(f, "theta_weight", a->theta_weight, "dim", 0);
    c->phi_weight = take_doubles(f, "phi_weight", a->phi_weight, "dim", 0);
    c->shift = take_doubles(f, "shift", a->shift, "dim", 0);
    c->psi = take_doubles(f, "psi", a->psi, "dim", 0);
    c->psi_weight = take_doubles(f, "psi_weight", a->psi_weight, "1", 0);
    c->psi_shift = take_doubles(f, "psi_shift", a->psi_shift, "1", 0);
    ssm_bind(f, "norms", 2 * ssm_size(f, "dim") + 1);
    ssm_bind(f, "moments", 2);
    if (f->status) return;
    int64_t height = ssm_size(f, "height"), width = ssm_size(f, "width");
    if (ssm_size(f, "g_height") < height || ssm_size(f, "g_width") < width) {
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "phi: expected a grid of at least (%lld, %lld), got (%lld, %lld); it is cropped to x",
                 (long long)height, (long long)width, (long long)ssm_size(f, "g_height"), (long long)ssm_size(f, "g_width"));
        return;
    }
    c->dim = ssm_size(f, "dim");
    c->gate.batch = ssm_size(f, "batch");
    c->gate.height = height;
    c->gate.width = width;
    c->channels = ssm_size(f, "channels");
    c->gate.workers = &f->workers;
    c->gate.rows = 512 / (width > 1 ? width : 1) > 1 ? 512 / (width > 1 ? width : 1) : 1; /* some 500 positions: sums depend on it alone */
    c->strips = c->gate.batch * ((height + c->gate.rows - 1) / c->gate.rows);
    c->positions = c->gate.batch * height * width;
    c->gate.x = ssm_grid_of(a->x);
    c->gate.theta = ssm_grid_of(a->theta);
    c->gate.phi = middle(f, a->phi);
    c->coefficients = ssm_memory(f, (size_t)(GATE_COEFFICIENTS * c->dim) * sizeof(double));
}

/* A pass over the comparison has its channels, one over x and out those of x. */
static int pass(ssm_frame *f, gate_call *c, int (*function)(const ssm_gate *, int, int), int64_t dim) {
    if (f->status) return 0;
    c->gate.dim = dim;
    return c->positions * dim == 0 || ssm_ran(f, function(&c->gate, f->isa, ssm_is_double(f)));
}

static double value(const ssm_frame *f, const void *array, int64_t i) {
    return ssm_is_double(f) ? ((const double *)array)[i] : (double)((const float *)array)[i];
}

static void put(const ssm_frame *f, void *array, int64_t i, double x) {
    if (ssm_is_double(f))
        ((double *)array)[i] = x;
    else
        ((float *)array)[i] = (float)x;
}

/* Mean and variance of theta and phi, from each strip's mean and sum of squares about it. */
static void join_moments(const ssm_frame *f, gate_call *c) {
    int64_t per_entry = c->gate.batch ? c->strips / c->gate.batch : 0;
    for (int which = 0; which < 2; which++)
        for (int64_t d = 0; d < c->dim; d++) {
            double mean = 0, squares = 0, apart = 0;
            for (int turn = 0; turn < 2; turn++)
                for (int64_t s = 0; s < c->strips; s++) {
                    int64_t row = s % per_entry * c->gate.rows, at = (s * 4 + 2 * which) * c->dim + d;
                    int64_t rows = c->gate.height - row < c->gate.rows ? c->gate.height - row : c->gate.rows;
                    double share = (double)(rows * c->gate.width) / (double)c->positions, here = value(f, c->gate.partial, at);
                    if (turn) {
                        squares += value(f, c->gate.partial, at + c->dim);
                        apart += share * (here - mean) * (here - mean);
                    } else {
                        mean += share * here;
                    }
                }
            c->used[2 * (which * c->dim + d)] = mean;
            c->used[2 * (which * c->dim + d) + 1] = squares / (double)c->positions + apart;
        }
}

static void *as_computed(ssm_frame *f, const double *values, int64_t count) {
    void *found = ssm_memory(f, (size_t)count * sizeof(double));
    for (int64_t i = 0; found && i < count; i++) put(f, found, i, values[i]);
    return found;
}

/* a = scale_theta theta + scale_phi phi + shift; those of gradients through statistics are 0. */
static void fill_coefficients(ssm_frame *f, gate_call *c) {
    if (f->status) return;
    double *rows = c->coefficients;
    for (int64_t d = 0; d < c->dim; d++) {
        const double *theta = c->used + 2 * d, *phi = c->used + 2 * (c->dim + d);
        double scale_theta = c->theta_weight[d] / sqrt(theta[1] + c->eps), scale_phi = c->phi_weight[d] / sqrt(phi[1] + c->eps);
        rows[GATE_SCALE_THETA * c->dim + d] = scale_theta;
        rows[GATE_SCALE_PHI * c->dim + d] = scale_phi;
        rows[GATE_SHIFT * c->dim + d] = c->shift[d] - scale_theta * theta[0] - scale_phi * phi[0];
        rows[GATE_PSI * c->dim + d] = c->psi[d];
        rows[GATE_MEAN_THETA * c->dim + d] = theta[0];
        rows[GATE_MEAN_PHI * c->dim + d] = phi[0];
        for (int row = GATE_CONSTANT_THETA; row < GATE_COEFFICIENTS; row++) rows[row * c->dim + d] = 0;
    }
    c->gate.coefficients = as_computed(f, rows, GATE_COEFFICIENTS * c->dim);
}

/* rate = sigmoid(gain q + offset) */
static void fill_rate(gate_call *c) {
    const double *psi = c->used + 4 * c->dim;
    c->gate.gain = c->psi_weight[0] / sqrt(psi[1] + c->eps);
    c->gate.offset = c->psi_shift[0] - c->gate.gain * psi[0];
}

enum { LANES = 8 };

/* The mean of (q - centre)^power, power 1 or 2. */
static double moment(const ssm_frame *f, const gate_call *c, double centre, int power) {
    double sums[LANES] = {0}, total = 0;
    for (int64_t i = 0; i < c->positions; i++) {
        double x = value(f, c->gate.q, i) - centre;
        sums[i % LANES] += power == 1 ? x : x * x;
    }
    for (int i = 0; i < LANES; i++) total += sums[i];
    return total / (double)c->positions;
}

int ssmcore_attention_gate(const ssmcore_attention_gate_args *args, const ssmcore_options *options) {
    ssmcore_attention_gate_args a;
    ssm_frame f;
    gate_call c;
    if (ssm_open(&f, "attention_gate", options, args, &a, sizeof a)) return f.status;
    take(&f, &a, &c);
    double *given = take_doubles(&f, "statistics", a.statistics, STATISTICS, SSM_OPTIONAL);
    ssm_give(&f, "out", &a.out, GRID, SSM_ADJACENT);
    ssm_give(&f, "q", &a.q, COMPARISON, SSM_PACKED | SSM_MADE);
    ssm_check(&f, "used_statistics", a.used_statistics, STATISTICS, SSM_OPTIONAL | SSM_REAL | SSM_WRITTEN);
    if (!f.status && !given && c.positions == 0)
        ssm_fail(&f, SSMCORE_ERROR_ARGUMENT, "x: expected at least one position, got none; pass statistics, which nothing can be taken of");
    const int64_t norms[] = {2 * c.dim + 1, 2};
    ssmcore_array *used = ssm_make(&f, SSMCORE_FLOAT64, 2, norms);
    if (f.status) return ssm_close(&f);
    c.used = given ? given : used->data;
    c.gate.q = a.q->data;
    c.gate.out = ssm_grid_of(a.out);
    if (!given) {
        c.gate.partial = ssm_memory(&f, (size_t)(c.strips * 4 * c.dim) * sizeof(double));
        if (pass(&f, &c, ssm_gate_moments, c.dim)) join_moments(&f, &c);
    }
    fill_coefficients(&f, &c);
    if (c.dim == 0) ssm_zero(a.q);
    if (pass(&f, &c, ssm_gate_compare, c.dim) && !given) {
        c.used[4 * c.dim] = moment(&f, &c, 0, 1);
        c.used[4 * c.dim + 1] = moment(&f, &c, c.used[4 * c.dim], 2);
    }
    fill_rate(&c);
    pass(&f, &c, ssm_gate_apply, c.channels);
    used->data = c.used;
    ssm_copy(&f, a.used_statistics, used, 1);
    return ssm_close(&f);
}

/* Gradients of psi's norm: dq from the gradient of gain q + offset, in its place. Fills the gradients of psi_weight and psi_shift. */
static void through_psi(const ssm_frame *f, gate_call *c, double *dweight, double *dshift) {
    double mean = c->used[4 * c->dim], deviation = sqrt(c->used[4 * c->dim + 1] + c->eps), sums[2][LANES] = {{0}};
    for (int64_t i = 0; i < c->positions; i++) {
        double dm = value(f, c->gate.dq, i);
        sums[0][i % LANES] += dm;
        sums[1][i % LANES] += dm * ((value(f, c->gate.q, i) - mean) / deviation);
    }
    *dshift = *dweight = 0;
    for (int i = 0; i < LANES; i++) *dshift += sums[0][i], *dweight += sums[1][i];
    double count = c->given ? INFINITY : (double)c->positions; /* no gradient goes through statistics that were given */
    for (int64_t i = 0; i < c->positions; i++) {
        double q_hat = (value(f, c->gate.q, i) - mean) / deviation;
        put(f, c->gate.dq, i, (value(f, c->gate.dq, i) - *dshift / count - q_hat * (*dweight / count)) * c->gate.gain);
    }
}

int ssmcore_attention_gate_vjp(const ssmcore_attention_gate_vjp_args *args, const ssmcore_options *options) {
    ssmcore_attention_gate_vjp_args g;
    ssmcore_attention_gate_args a;
    ssm_frame f;
    gate_call c;
    if (ssm_open(&f, "attention_gate_vjp", options, args, &g, sizeof g) || ssm_open_forward(&f, g.forward, &a, sizeof a)) return f.status;
    take(&f, &a, &c);
    ssm_take(&f, "q", &a.q, COMPARISON, SSM_PACKED);
    ssm_check(&f, "statistics", a.statistics, STATISTICS, SSM_OPTIONAL | SSM_REAL);
    c.used = take_doubles(&f, "used_statistics", a.used_statistics, STATISTICS, 0);
    ssm_take(&f, "dout", &g.dout, GRID, SSM_ADJACENT);
    ssm_give(&f, "dx", &g.dx, GRID, SSM_ADJACENT | SSM_MADE);
    ssm_give(&f, "dtheta", &g.dtheta, COMPARED, SSM_ADJACENT | SSM_MADE);
    ssm_give(&f, "dphi", &g.dphi, LARGER, SSM_ADJACENT | SSM_MADE);
    const ssmcore_array *vectors[] = {g.dtheta_weight, g.dphi_weight, g.dshift, g.dpsi, g.dpsi_weight, g.dpsi_shift};
    static const char *const names[] = {"dtheta_weight", "dphi_weight", "dshift", "dpsi", "dpsi_weight", "dpsi_shift"};
    for (int i = 0; i < 6; i++) ssm_check(&f, names[i], vectors[i], i < 4 ? "dim" : "1", SSM_OPTIONAL | SSM_REAL | SSM_WRITTEN);
    int64_t dim = f.status ? 0 : c.dim;
    c.gate.dq = ssm_memory(&f, (size_t)c.positions * sizeof(double));
    c.gate.partial = ssm_memory(&f, (size_t)(c.strips * 4 * dim) * sizeof(double));
    double *sums = ssm_memory(&f, (size_t)(4 * dim + 2) * sizeof(double)); /* da, da (theta - mean), da (phi - mean), dpsi, and psi's two */
    if (f.status) return ssm_close(&f);
    c.gate.q = a.q->data;
    c.gate.dout = ssm_grid_of(g.dout);
    c.gate.dx = ssm_grid_of(g.dx);
    c.gate.dtheta = ssm_grid_of(g.dtheta);
    c.gate.dphi = middle(&f, g.dphi);
    fill_rate(&c);
    if (c.channels == 0)
        for (int64_t i = 0; i < c.positions; i++) put(&f, c.gate.dq, i, 0);
    pass(&f, &c, ssm_gate_retract, c.channels);
    through_psi(&f, &c, &sums[4 * dim], &sums[4 * dim + 1]);
    fill_coefficients(&f, &c);
    int added = pass(&f, &c, ssm_gate_sums, dim) && c.positions;
    for (int64_t i = 0; i < 4 * dim; i++) {
        sums[i] = 0;
        for (int64_t s = 0; added && s < c.strips; s++) sums[i] += value(&f, c.gate.partial, s * 4 * dim + i);
    }
    for (int which = 0; which < 2; which++) {
        for (int64_t d = 0; d < dim && !c.given && c.positions; d++) {
            double scale = c.coefficients[which * dim + d], variance = c.used[2 * (which * dim + d) + 1] + c.eps;
            c.coefficients[(GATE_CONSTANT_THETA + 2 * which) * dim + d] = -scale * (sums[d] / (double)c.positions);
            c.coefficients[(GATE_SLOPE_THETA + 2 * which) * dim + d] =
                -scale * (sums[(1 + which) * dim + d] / (double)c.positions) / variance;
        }
    }
    c.gate.coefficients = as_computed(&f, c.coefficients, GATE_COEFFICIENTS * dim);
    if (c.positions * dim == 0 || ssm_size(&f, "g_height") > c.gate.height || ssm_size(&f, "g_width") > c.gate.width) ssm_zero(g.dphi);
    pass(&f, &c, ssm_gate_spread, dim);
    for (int64_t i = 0; i < 2 * dim; i++) sums[dim + i] /= sqrt(c.used[2 * i + 1] + c.eps);
    double *found[] = {sums + dim, sums + 2 * dim, sums, sums + 3 * dim, sums + 4 * dim, sums + 4 * dim + 1};
    for (int i = 0; i < 6; i++) {
        ssmcore_array one = {.data = found[i], .type = SSMCORE_FLOAT64, .ndim = 1, .shape = {i < 4 ? dim : 1}, .strides = {1}};
        ssm_copy(&f, vectors[i], &one, 1);
    }
    return ssm_close(&f);
}
