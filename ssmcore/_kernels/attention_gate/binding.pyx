"""The passes of an attention gate on the C kernels. Grids are (batch, height, width, channels), the channels adjacent; the
other arrays are C-contiguous. A pass goes by strips of `rows` rows; what it sums over positions it leaves a strip each, in
`partial` (batch * strips, 4, dim). `coefficients` are those of api.h. Shapes are the caller's to check.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset

from ssmcore._kernels.common.views cimport grid, real, run, ssm_grid, start2, start3

cdef extern from "api.h" nogil:
    ctypedef struct ssm_gate:
        int64_t batch, height, width, dim, channels, rows
        int num_threads
        double gain, offset
        ssm_grid theta, phi, x, dout, out, dx, dtheta, dphi
        const void *coefficients
        void *q
        void *dq
        void *partial
    int ssmcore_gate_moments(const void *task, int isa, int is_double)
    int ssmcore_gate_compare(const void *task, int isa, int is_double)
    int ssmcore_gate_apply(const void *task, int isa, int is_double)
    int ssmcore_gate_retract(const void *task, int isa, int is_double)
    int ssmcore_gate_sums(const void *task, int isa, int is_double)
    int ssmcore_gate_spread(const void *task, int isa, int is_double)


cdef ssm_gate gate_of(const real[:, :, :, :] some, int64_t rows, int num_threads) noexcept:
    cdef ssm_gate gate
    memset(&gate, 0, sizeof(gate))
    gate.batch = some.shape[0]
    gate.height = some.shape[1]
    gate.width = some.shape[2]
    gate.rows = rows
    gate.num_threads = num_threads
    return gate


def moments(
    const real[:, :, :, :] theta, const real[:, :, :, :] phi, real[:, :, ::1] partial, int64_t rows, int num_threads, int isa
):
    """Fills `partial` with means and sums of squares about them, of theta and of phi."""
    cdef ssm_gate gate = gate_of(theta, rows, num_threads)
    gate.dim = theta.shape[3]
    gate.theta = grid(theta)
    gate.phi = grid(phi)
    gate.partial = start3(partial)
    run("attention_gate", ssmcore_gate_moments, &gate, isa, sizeof(real) == 8)


def compare(
    const real[:, :, :, :] theta, const real[:, :, :, :] phi, const real[:, ::1] coefficients, real[:, :, ::1] q,
    int64_t rows, int num_threads, int isa
):
    """Fills `q` (batch, height, width), the sum over channels of psi relu(a)."""
    cdef ssm_gate gate = gate_of(theta, rows, num_threads)
    gate.dim = theta.shape[3]
    gate.theta = grid(theta)
    gate.phi = grid(phi)
    gate.coefficients = start2(coefficients)
    gate.q = start3(q)
    run("attention_gate", ssmcore_gate_compare, &gate, isa, sizeof(real) == 8)


def apply(
    const real[:, :, :, :] x, const real[:, :, ::1] q, double gain, double offset, real[:, :, :, :] out, int64_t rows,
    int num_threads, int isa
):
    """Fills `out` with x times sigmoid(gain q + offset)."""
    cdef ssm_gate gate = gate_of(x, rows, num_threads)
    gate.channels = gate.dim = x.shape[3]
    gate.x = grid(x)
    gate.out = grid[real](out)
    gate.q = start3(q)
    gate.gain = gain
    gate.offset = offset
    run("attention_gate", ssmcore_gate_apply, &gate, isa, sizeof(real) == 8)


def retract(
    const real[:, :, :, :] dout, const real[:, :, :, :] x, const real[:, :, ::1] q, double gain, double offset,
    real[:, :, :, :] dx, real[:, :, ::1] dq, int64_t rows, int num_threads, int isa
):
    """Fills `dx`, and `dq` with the gradient of gain q + offset."""
    cdef ssm_gate gate = gate_of(x, rows, num_threads)
    gate.channels = gate.dim = x.shape[3]
    gate.x = grid(x)
    gate.dout = grid(dout)
    gate.dx = grid[real](dx)
    gate.q = start3(q)
    gate.dq = start3(dq)
    gate.gain = gain
    gate.offset = offset
    run("attention_gate", ssmcore_gate_retract, &gate, isa, sizeof(real) == 8)


def sums(
    const real[:, :, :, :] theta, const real[:, :, :, :] phi, const real[:, ::1] coefficients,
    const real[:, :, ::1] dq, real[:, :, ::1] partial, int64_t rows, int num_threads, int isa
):
    """Fills `partial` with the sums of da, da (theta - mean), da (phi - mean) and dq relu(a), da = dq psi where a > 0."""
    cdef ssm_gate gate = gate_of(theta, rows, num_threads)
    gate.dim = theta.shape[3]
    gate.theta = grid(theta)
    gate.phi = grid(phi)
    gate.coefficients = start2(coefficients)
    gate.dq = start3(dq)
    gate.partial = start3(partial)
    run("attention_gate", ssmcore_gate_sums, &gate, isa, sizeof(real) == 8)


def spread(
    const real[:, :, :, :] theta, const real[:, :, :, :] phi, const real[:, ::1] coefficients,
    const real[:, :, ::1] dq, real[:, :, :, :] dtheta, real[:, :, :, :] dphi, int64_t rows, int num_threads, int isa
):
    """Fills `dtheta` and `dphi`: da scaled, what the statistics take off it added."""
    cdef ssm_gate gate = gate_of(theta, rows, num_threads)
    gate.dim = theta.shape[3]
    gate.theta = grid(theta)
    gate.phi = grid(phi)
    gate.dtheta = grid[real](dtheta)
    gate.dphi = grid[real](dphi)
    gate.coefficients = start2(coefficients)
    gate.dq = start3(dq)
    run("attention_gate", ssmcore_gate_spread, &gate, isa, sizeof(real) == 8)
