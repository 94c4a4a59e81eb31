# cython: language_level=3
"""Mamba's scan from Cython, without a link to the library: the module gets its functions when it is imported."""
from libc.string cimport memset

from ssmcore.capi cimport *

cdef const ssmcore_functions *functions = ssmcore_import()


cdef ssmcore_array view(const float[:, ::1] x) noexcept:
    """Of two axes, (rows, columns)."""
    cdef ssmcore_array a
    a.data, a.type, a.ndim = <void *> &x[0, 0], SSMCORE_FLOAT32, 2
    a.shape[0], a.shape[1] = x.shape[0], x.shape[1]
    a.strides[0], a.strides[1] = x.shape[1], 1
    return a


cdef ssmcore_array sequence(ssmcore_array a, int ngroups) noexcept:
    """The same as a batch of one sequence: (1, rows, columns), or (1, rows, 1, columns) for B and C."""
    cdef ssmcore_array b = a
    b.ndim = 3 + ngroups
    b.shape[0], b.strides[0] = 1, 0
    b.shape[1], b.strides[1] = a.shape[0], a.strides[0]
    b.shape[2], b.strides[2] = 1, 0
    b.shape[2 + ngroups], b.strides[2 + ngroups] = a.shape[1], 1
    return b


def scan(const float[:, ::1] u, const float[:, ::1] delta, const float[:, ::1] A, const float[:, ::1] B, const float[:, ::1] C,
         float[:, ::1] out, int num_threads=1):
    """Fills `out` (seqlen, dim)."""
    cdef ssmcore_array views[6]
    cdef ssmcore_selective_scan_args args
    cdef ssmcore_options options
    cdef int status
    views[0], views[1], views[2] = sequence(view(u), 0), sequence(view(delta), 0), view(A)
    views[3], views[4], views[5] = sequence(view(B), 1), sequence(view(C), 1), sequence(view(out), 0)
    memset(&args, 0, sizeof(args))
    args.size, args.delta_softplus = sizeof(args), 1
    args.u, args.delta, args.A, args.B, args.C, args.out = &views[0], &views[1], &views[2], &views[3], &views[4], &views[5]
    memset(&options, 0, sizeof(options))
    options.size, options.num_threads = sizeof(options), num_threads
    with nogil:
        status = functions.selective_scan(&args, &options)
    if status:
        raise ValueError(functions.error().decode())
