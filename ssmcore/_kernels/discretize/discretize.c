/* Discretisation of diagonal systems, element by element, in double precision inside. */
#include <math.h>
#include "api.h"
#include "units.h"

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
static int run(const ssm_systems *s, ssm_unit *unit) {
    return ssm_run_units(s, (s->size + PIECE - 1) / PIECE, s->num_threads, 50 * s->size, 0, unit);
}

int ssmcore_discretize_fwd(const void *task, int isa, int is_double) {
    (void)isa;
    return run(task, is_double ? forward_f64 : forward_f32);
}

int ssmcore_discretize_bwd(const void *task, int isa, int is_double) {
    (void)isa;
    return run(task, is_double ? backward_f64 : backward_f32);
}
