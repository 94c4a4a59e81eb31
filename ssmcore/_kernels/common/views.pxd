"""NumPy arrays as the C kernels take them: strides in elements, None as NULL. Axes must not be empty."""
from libc.stdint cimport int64_t

ctypedef fused real:
    float
    double

cdef extern from "cpu.h":
    enum: SSMCORE_NO_MEMORY

cdef extern from "arrays.h":
    enum: SSMCORE_CHUNK
    ctypedef struct ssm_sequence:
        void *data
        int64_t batch, time, dim, direction
    ctypedef struct ssm_grid:
        void *data
        int64_t batch, row, column, dim


cdef inline ssm_sequence sequence(const real[:, :, :] x) noexcept:
    """(batch, position, dim)."""
    cdef ssm_sequence view
    view.data = NULL
    view.batch = view.time = view.dim = view.direction = 0
    if x is not None:
        view.data = <void *> &x[0, 0, 0]
        view.batch = x.strides[0] // <int64_t> sizeof(real)
        view.time = x.strides[1] // <int64_t> sizeof(real)
        view.dim = x.strides[2] // <int64_t> sizeof(real)
    return view


cdef inline ssm_grid grid(const real[:, :, :, :] x) noexcept:
    """(batch, height, width, dim)."""
    cdef ssm_grid view
    view.data = <void *> &x[0, 0, 0, 0]
    view.batch = x.strides[0] // <int64_t> sizeof(real)
    view.row = x.strides[1] // <int64_t> sizeof(real)
    view.column = x.strides[2] // <int64_t> sizeof(real)
    view.dim = x.strides[3] // <int64_t> sizeof(real)
    return view


cdef inline void *start1(const real[::1] x) noexcept:
    return NULL if x is None else <void *> &x[0]


cdef inline void *start2(const real[:, ::1] x) noexcept:
    return NULL if x is None else <void *> &x[0, 0]


cdef inline void *start3(const real[:, :, ::1] x) noexcept:
    return NULL if x is None else <void *> &x[0, 0, 0]


cdef inline void *start4(const real[:, :, :, ::1] x) noexcept:
    return NULL if x is None else <void *> &x[0, 0, 0, 0]


cdef inline void *start5(const real[:, :, :, :, ::1] x) noexcept:
    return NULL if x is None else <void *> &x[0, 0, 0, 0, 0]


ctypedef int (*ssm_pass)(const void *task, int isa, int is_double) noexcept nogil


cdef inline int run(str op, ssm_pass function, const void *task, int isa, int is_double) except -1:
    """Runs a pass of `op` without the GIL. Raises where its status is not 0."""
    cdef int status
    with nogil:
        status = function(task, isa, is_double)
    if status == SSMCORE_NO_MEMORY:
        raise MemoryError(f"{op}: no memory for the kernel's scratch; use fewer threads")
    if status:
        raise RuntimeError(f"{op}: this processor does not run the instruction set asked for")
    return 0
