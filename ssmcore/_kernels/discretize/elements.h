/* A piece of both passes for one type. */
static void NAME(forward)(const void *task, int64_t piece, char *scratch) {
    const ssm_systems *s = task;
    const REAL *A = s->A, *delta = s->delta;
    REAL *A_bar = s->A_bar, *gain = s->gain;
    (void)scratch;
    for (int64_t i = piece * PIECE; i < end_of(s, piece); i++) {
        double x = (double)delta[i] * (double)A[i];
        if (s->discretization == SSMCORE_BILINEAR) {
            double q = 1.0 / (1.0 - 0.5 * x);
            A_bar[i] = (REAL)((1.0 + 0.5 * x) * q);
            gain[i] = (REAL)(delta[i] * q);
        } else {
            A_bar[i] = (REAL)exp(x);
            gain[i] = s->discretization == SSMCORE_MAMBA ? delta[i] : (REAL)(delta[i] * phi_of(x));
        }
    }
}

static void NAME(backward)(const void *task, int64_t piece, char *scratch) {
    const ssm_systems *s = task;
    const REAL *A = s->A, *delta = s->delta, *dA_bar = s->dA_bar, *dgain = s->dgain;
    REAL *dA = s->dA, *ddelta = s->ddelta;
    (void)scratch;
    for (int64_t i = piece * PIECE; i < end_of(s, piece); i++) {
        double x = (double)delta[i] * (double)A[i], phi, dphi, slope;
        if (s->discretization == SSMCORE_BILINEAR) {
            phi = 1.0 / (1.0 - 0.5 * x);
            slope = phi * phi;
            dphi = 0.5 * slope;
        } else {
            slope = exp(x);
            phi = s->discretization == SSMCORE_MAMBA ? 1.0 : phi_of(x);
            dphi = s->discretization == SSMCORE_MAMBA ? 0.0 : slope_of_phi(x, slope, phi);
        }
        double dx = dA_bar[i] * slope + (double)dgain[i] * delta[i] * dphi;
        dA[i] = (REAL)(dx * delta[i]);
        ddelta[i] = (REAL)(dx * A[i] + dgain[i] * phi);
    }
}
