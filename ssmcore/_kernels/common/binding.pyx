"""The operations of libssmcore on arrays: anything with a buffer of numbers. Results are arrays that are filled; None is an absent array.

Shapes are the caller's to check. An error of the library is a ValueError, MemoryError or RuntimeError with its words.
"""
from cpython.buffer cimport PyBUF_FULL, PyBUF_FULL_RO, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int32_t, int64_t, uintptr_t
from libc.string cimport memset

from ssmcore.capi cimport *

cdef extern from "team.h":
    void ssm_team_for(void *team, int32_t count, ssmcore_task *task, void *user) noexcept nogil

ISAS = ("generic", "avx2", "avx512")
DISCRETIZATIONS = ("mamba", "bilinear", "zoh")
CHUNK = SSMCORE_CHUNK
cdef enum:
    MOST = 24

cdef void *_team = NULL
functions = PyCapsule_New(<void *> ssmcore_table(), "ssmcore.capi.functions", NULL)


def best_isa() -> str:
    """The widest instruction set compiled in that this processor runs."""
    return ISAS[ssmcore_widest_isa() - SSMCORE_ISA_GENERIC]


def has_threads() -> bool:
    """Whether the kernels run on several threads here."""
    return bool(ssmcore_has_threads())


def use_team(function: int) -> None:
    """Runs kernels on the threads behind a function like GOMP_parallel, given by its address, in place of the library's own; 0 undoes it."""
    global _team
    _team = <void *> <uintptr_t> function


cdef int type_of(const char *format, Py_ssize_t itemsize) except -1:
    """The library's type of a buffer's format."""
    if format != NULL and (format[0] == b"=" or format[0] == b"^"):
        format += 1  # of an array that is not aligned
    if format != NULL and format[0] == b"Z":
        return SSMCORE_COMPLEX64 if itemsize == 8 else SSMCORE_COMPLEX128
    if format != NULL and format[1] == 0:
        if format[0] == b"f":
            return SSMCORE_FLOAT32
        if format[0] == b"d":
            return SSMCORE_FLOAT64
        if format[0] == b"e":
            return SSMCORE_FLOAT16
        if format[0] == b"H":
            return SSMCORE_BFLOAT16  # its bits, for which buffers have no name
        if format[0] == b"B":
            return SSMCORE_UINT8
    raise ValueError(f"a buffer of {format.decode() if format != NULL else 'bytes'}: expected float16, float32, float64 or complex")


cdef class Views:
    """The arrays of a call, as the library reads them. Buffers are held until it ends."""
    cdef Py_buffer buffers[MOST]
    cdef ssmcore_array arrays[MOST]
    cdef int used
    cdef ssmcore_options options

    def __cinit__(self, int num_threads, int isa, int64_t work_per_thread):
        self.used = 0
        memset(&self.options, 0, sizeof(self.options))
        self.options.size = sizeof(self.options)
        self.options.num_threads = num_threads
        self.options.isa = SSMCORE_ISA_GENERIC + isa
        self.options.work_per_thread = work_per_thread
        if _team != NULL:
            self.options.parallel_for = ssm_team_for
            self.options.pool = _team

    def __dealloc__(self):
        for i in range(self.used):
            PyBuffer_Release(&self.buffers[i])

    cdef ssmcore_array *read(self, x) except? NULL:
        return NULL if x is None else self.view(x, PyBUF_FULL_RO)

    cdef ssmcore_array *write(self, x) except? NULL:
        return NULL if x is None else self.view(x, PyBUF_FULL)

    cdef ssmcore_array *view(self, x, int flags) except NULL:
        cdef Py_buffer *buffer = &self.buffers[self.used]
        cdef ssmcore_array *array = &self.arrays[self.used]
        cdef int whole = 1
        PyObject_GetBuffer(x, buffer, flags)
        for i in range(buffer.ndim):
            whole &= buffer.strides[i] % buffer.itemsize == 0 or buffer.shape[i] < 2
        whole &= <uintptr_t> buffer.buf % (buffer.itemsize if buffer.itemsize < 8 else 8) == 0
        if not whole:  # as a field of records may lie
            PyBuffer_Release(buffer)
            if flags != PyBUF_FULL_RO:
                raise ValueError("expected a result of whole, aligned elements; pass another array")
            import numpy
            return self.view(numpy.array(x), flags)
        self.used += 1
        array.data = buffer.buf
        array.type = type_of(buffer.format, buffer.itemsize)
        array.ndim = buffer.ndim
        if buffer.ndim > SSMCORE_MAX_NDIM:
            raise ValueError(f"expected at most {SSMCORE_MAX_NDIM} axes, got {buffer.ndim}")
        for i in range(buffer.ndim):
            array.shape[i] = buffer.shape[i]
            array.strides[i] = buffer.strides[i] // buffer.itemsize
        return array


cdef int done(int status) except -1:
    if status == SSMCORE_OK:
        return 0
    text = ssmcore_error().decode()
    raise {SSMCORE_ERROR_MEMORY: MemoryError, SSMCORE_ERROR_ISA: RuntimeError}.get(status, ValueError)(text)


# ---- operations: arrays in the order of ssmcore.h, then options ----


cdef ssmcore_discretize_args discretize_args(Views v, A, B, delta, int discretization) except *:
    cdef ssmcore_discretize_args a
    memset(&a, 0, sizeof(a))
    a.size = sizeof(a)
    a.discretization = discretization
    a.A, a.B, a.delta = v.read(A), v.read(B), v.read(delta)
    return a


def discretize(A, B, delta, A_bar, B_bar, int discretization, int num_threads, int isa, int64_t work):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_discretize_args a = discretize_args(v, A, B, delta, discretization)
    a.A_bar, a.B_bar = v.write(A_bar), v.write(B_bar)
    with nogil:
        status = ssmcore_discretize(&a, &v.options)
    done(status)


def discretize_vjp(dA_bar, dB_bar, A, B, delta, dA, dB, ddelta, int discretization, int num_threads, int isa, int64_t work):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_discretize_args a = discretize_args(v, A, B, delta, discretization)
    cdef ssmcore_discretize_vjp_args g
    g.size = sizeof(g)
    g.forward = &a
    g.dA_bar, g.dB_bar = v.read(dA_bar), v.read(dB_bar)
    g.dA, g.dB, g.ddelta = v.write(dA), v.write(dB), v.write(ddelta)
    with nogil:
        status = ssmcore_discretize_vjp(&g, &v.options)
    done(status)


def ssm_recurrence(A_bar, B_bar, C, u, initial_state, y, last_state, int num_threads, int isa, int64_t work):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_ssm_recurrence_args a
    a.size = sizeof(a)
    a.A_bar, a.B_bar, a.C, a.u = v.read(A_bar), v.read(B_bar), v.read(C), v.read(u)
    a.initial_state, a.y, a.last_state = v.read(initial_state), v.write(y), v.write(last_state)
    with nogil:
        status = ssmcore_ssm_recurrence(&a, &v.options)
    done(status)


cdef ssmcore_selective_scan_args selective_scan_args(
    Views v, u, delta, A, B, C, D, z, delta_bias, initial_state, int discretization, bint delta_softplus
) except *:
    cdef ssmcore_selective_scan_args a
    memset(&a, 0, sizeof(a))
    a.size = sizeof(a)
    a.discretization, a.delta_softplus = discretization, delta_softplus
    a.u, a.delta, a.A, a.B, a.C = v.read(u), v.read(delta), v.read(A), v.read(B), v.read(C)
    a.D, a.z, a.delta_bias, a.initial_state = v.read(D), v.read(z), v.read(delta_bias), v.read(initial_state)
    return a


def selective_scan(
    u, delta, A, B, C, D, z, delta_bias, initial_state, out, last_state, checkpoints, int discretization, bint delta_softplus,
    int num_threads, int isa, int64_t work
):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_selective_scan_args a = selective_scan_args(
        v, u, delta, A, B, C, D, z, delta_bias, initial_state, discretization, delta_softplus
    )
    a.out, a.last_state, a.checkpoints = v.write(out), v.write(last_state), v.write(checkpoints)
    with nogil:
        status = ssmcore_selective_scan(&a, &v.options)
    done(status)


def selective_scan_vjp(
    dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, checkpoints, du, ddelta, dA, dB, dC, dD, dz, ddelta_bias,
    dinitial_state, int discretization, bint delta_softplus, int num_threads, int isa, int64_t work
):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_selective_scan_args a = selective_scan_args(
        v, u, delta, A, B, C, D, z, delta_bias, None, discretization, delta_softplus
    )
    cdef ssmcore_selective_scan_vjp_args g
    a.checkpoints = v.read(checkpoints)
    g.size = sizeof(g)
    g.forward = &a
    g.dout, g.dlast_state = v.read(dout), v.read(dlast_state)
    g.du, g.ddelta, g.dA, g.dB, g.dC = v.write(du), v.write(ddelta), v.write(dA), v.write(dB), v.write(dC)
    g.dD, g.dz, g.ddelta_bias, g.dinitial_state = v.write(dD), v.write(dz), v.write(ddelta_bias), v.write(dinitial_state)
    with nogil:
        status = ssmcore_selective_scan_vjp(&g, &v.options)
    done(status)


cdef ssmcore_ss2d_args ss2d_args(
    Views v, x, delta, A, B, C, D, delta_bias, int discretization, bint delta_softplus
) except *:
    cdef ssmcore_ss2d_args a
    memset(&a, 0, sizeof(a))
    a.size = sizeof(a)
    a.discretization, a.delta_softplus = discretization, delta_softplus
    a.x, a.delta, a.A, a.B, a.C = v.read(x), v.read(delta), v.read(A), v.read(B), v.read(C)
    a.D, a.delta_bias = v.read(D), v.read(delta_bias)
    return a


def ss2d(
    x, delta, A, B, C, D, delta_bias, out, checkpoints, int discretization, bint delta_softplus, int num_threads, int isa,
    int64_t work
):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_ss2d_args a = ss2d_args(v, x, delta, A, B, C, D, delta_bias, discretization, delta_softplus)
    a.out, a.checkpoints = v.write(out), v.write(checkpoints)
    with nogil:
        status = ssmcore_ss2d(&a, &v.options)
    done(status)


def ss2d_vjp(
    dout, x, delta, A, B, C, D, delta_bias, checkpoints, dx, ddelta, dA, dB, dC, dD, ddelta_bias, int discretization,
    bint delta_softplus, int num_threads, int isa, int64_t work
):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_ss2d_args a = ss2d_args(v, x, delta, A, B, C, D, delta_bias, discretization, delta_softplus)
    cdef ssmcore_ss2d_vjp_args g
    a.checkpoints = v.read(checkpoints)
    g.size = sizeof(g)
    g.forward = &a
    g.dout = v.read(dout)
    g.dx, g.ddelta, g.dA, g.dB, g.dC = v.write(dx), v.write(ddelta), v.write(dA), v.write(dB), v.write(dC)
    g.dD, g.ddelta_bias = v.write(dD), v.write(ddelta_bias)
    with nogil:
        status = ssmcore_ss2d_vjp(&g, &v.options)
    done(status)


cdef ssmcore_chunk_scan_args chunk_scan_args(Views v, x, dt, A, B, C, D, initial_state, starts) except *:
    cdef ssmcore_chunk_scan_args a
    memset(&a, 0, sizeof(a))
    a.size = sizeof(a)
    a.x, a.dt, a.A, a.B, a.C = v.read(x), v.read(dt), v.read(A), v.read(B), v.read(C)
    a.D, a.initial_state, a.starts = v.read(D), v.read(initial_state), v.read(starts)
    return a


def chunk_scan(
    x, dt, A, B, C, D, initial_state, starts, out, last_state, checkpoints, int num_threads, int isa, int64_t work
):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_chunk_scan_args a = chunk_scan_args(v, x, dt, A, B, C, D, initial_state, starts)
    a.out, a.last_state, a.checkpoints = v.write(out), v.write(last_state), v.write(checkpoints)
    with nogil:
        status = ssmcore_chunk_scan(&a, &v.options)
    done(status)


def chunk_scan_vjp(
    dout, dlast_state, x, dt, A, B, C, D, starts, checkpoints, dx, ddt, dA, dB, dC, dD, dinitial_state, int num_threads,
    int isa, int64_t work
):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_chunk_scan_args a = chunk_scan_args(v, x, dt, A, B, C, D, None, starts)
    cdef ssmcore_chunk_scan_vjp_args g
    a.checkpoints = v.read(checkpoints)
    g.size = sizeof(g)
    g.forward = &a
    g.dout, g.dlast_state = v.read(dout), v.read(dlast_state)
    g.dx, g.ddt, g.dA, g.dB, g.dC = v.write(dx), v.write(ddt), v.write(dA), v.write(dB), v.write(dC)
    g.dD, g.dinitial_state = v.write(dD), v.write(dinitial_state)
    with nogil:
        status = ssmcore_chunk_scan_vjp(&g, &v.options)
    done(status)


cdef ssmcore_causal_conv1d_args causal_conv1d_args(Views v, x, weight, bias, initial_state, bint silu) except *:
    cdef ssmcore_causal_conv1d_args a
    memset(&a, 0, sizeof(a))
    a.size = sizeof(a)
    a.activation = SSMCORE_SILU if silu else SSMCORE_NO_ACTIVATION
    a.x, a.weight, a.bias, a.initial_state = v.read(x), v.read(weight), v.read(bias), v.read(initial_state)
    return a


def causal_conv1d(x, weight, bias, initial_state, out, last_state, bint silu, int num_threads, int isa, int64_t work):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_causal_conv1d_args a = causal_conv1d_args(v, x, weight, bias, initial_state, silu)
    a.out, a.last_state = v.write(out), v.write(last_state)
    with nogil:
        status = ssmcore_causal_conv1d(&a, &v.options)
    done(status)


def causal_conv1d_vjp(
    dout, x, weight, bias, initial_state, dx, dweight, dbias, dinitial_state, bint silu, int num_threads, int isa, int64_t work
):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_causal_conv1d_args a = causal_conv1d_args(v, x, weight, bias, initial_state, silu)
    cdef ssmcore_causal_conv1d_vjp_args g
    g.size = sizeof(g)
    g.forward = &a
    g.dout = v.read(dout)
    g.dx, g.dweight, g.dbias, g.dinitial_state = v.write(dx), v.write(dweight), v.write(dbias), v.write(dinitial_state)
    with nogil:
        status = ssmcore_causal_conv1d_vjp(&g, &v.options)
    done(status)


cdef ssmcore_depthwise_conv2d_args depthwise_conv2d_args(Views v, x, weight, bias, bint silu) except *:
    cdef ssmcore_depthwise_conv2d_args a
    memset(&a, 0, sizeof(a))
    a.size = sizeof(a)
    a.activation = SSMCORE_SILU if silu else SSMCORE_NO_ACTIVATION
    a.x, a.weight, a.bias = v.read(x), v.read(weight), v.read(bias)
    return a


def depthwise_conv2d(x, weight, bias, out, bint silu, int num_threads, int isa, int64_t work):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_depthwise_conv2d_args a = depthwise_conv2d_args(v, x, weight, bias, silu)
    a.out = v.write(out)
    with nogil:
        status = ssmcore_depthwise_conv2d(&a, &v.options)
    done(status)


def depthwise_conv2d_vjp(dout, x, weight, bias, dx, dweight, dbias, bint silu, int num_threads, int isa, int64_t work):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_depthwise_conv2d_args a = depthwise_conv2d_args(v, x, weight, bias, silu)
    cdef ssmcore_depthwise_conv2d_vjp_args g
    g.size = sizeof(g)
    g.forward = &a
    g.dout = v.read(dout)
    g.dx, g.dweight, g.dbias = v.write(dx), v.write(dweight), v.write(dbias)
    with nogil:
        status = ssmcore_depthwise_conv2d_vjp(&g, &v.options)
    done(status)


cdef ssmcore_attention_gate_args attention_gate_args(
    Views v, x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics, double eps
) except *:
    cdef ssmcore_attention_gate_args a
    memset(&a, 0, sizeof(a))
    a.size = sizeof(a)
    a.eps = eps
    a.x, a.theta, a.phi = v.read(x), v.read(theta), v.read(phi)
    a.theta_weight, a.phi_weight, a.shift, a.psi = v.read(theta_weight), v.read(phi_weight), v.read(shift), v.read(psi)
    a.psi_weight, a.psi_shift, a.statistics = v.read(psi_weight), v.read(psi_shift), v.read(statistics)
    return a


def attention_gate(
    x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics, out, q, used_statistics, double eps,
    int num_threads, int isa, int64_t work
):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_attention_gate_args a = attention_gate_args(
        v, x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics, eps
    )
    a.out, a.q, a.used_statistics = v.write(out), v.write(q), v.write(used_statistics)
    with nogil:
        status = ssmcore_attention_gate(&a, &v.options)
    done(status)


def attention_gate_vjp(
    dout, x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics, q, used_statistics, dx, dtheta,
    dphi, dtheta_weight, dphi_weight, dshift, dpsi, dpsi_weight, dpsi_shift, double eps, int num_threads, int isa, int64_t work
):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_attention_gate_args a = attention_gate_args(
        v, x, theta, phi, theta_weight, phi_weight, shift, psi, psi_weight, psi_shift, statistics, eps
    )
    cdef ssmcore_attention_gate_vjp_args g
    a.q, a.used_statistics = v.read(q), v.read(used_statistics)
    g.size = sizeof(g)
    g.forward = &a
    g.dout = v.read(dout)
    g.dx, g.dtheta, g.dphi = v.write(dx), v.write(dtheta), v.write(dphi)
    g.dtheta_weight, g.dphi_weight, g.dshift = v.write(dtheta_weight), v.write(dphi_weight), v.write(dshift)
    g.dpsi, g.dpsi_weight, g.dpsi_shift = v.write(dpsi), v.write(dpsi_weight), v.write(dpsi_shift)
    with nogil:
        status = ssmcore_attention_gate_vjp(&g, &v.options)
    done(status)


def gate_crop(g, out, int num_threads, int isa, int64_t work):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_gate_crop_args a
    a.size = sizeof(a)
    a.g, a.out = v.read(g), v.write(out)
    with nogil:
        status = ssmcore_gate_crop(&a, &v.options)
    done(status)


def gate_crop_vjp(dout, dg, int num_threads, int isa, int64_t work):
    cdef Views v = Views(num_threads, isa, work)
    cdef int status
    cdef ssmcore_gate_crop_vjp_args a
    a.size = sizeof(a)
    a.dout, a.dg = v.read(dout), v.write(dg)
    with nogil:
        status = ssmcore_gate_crop_vjp(&a, &v.options)
    done(status)
