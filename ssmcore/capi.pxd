"""libssmcore for Cython: `from ssmcore.capi cimport *`. Compile with ssmcore.get_include(). A module that calls functions by name links to
ssmcore.get_library(). One that calls those of ssmcore_import() links to nothing."""
from libc.stdint cimport int32_t, int64_t, uint32_t

cdef extern from "ssmcore.h" nogil:
    enum:
        SSMCORE_ABI
        SSMCORE_OK
        SSMCORE_ERROR_MEMORY
        SSMCORE_ERROR_ISA
        SSMCORE_ERROR_ARGUMENT
        SSMCORE_ERROR_VERSION
        SSMCORE_FLOAT32
        SSMCORE_FLOAT64
        SSMCORE_FLOAT16
        SSMCORE_BFLOAT16
        SSMCORE_COMPLEX64
        SSMCORE_COMPLEX128
        SSMCORE_UINT8
        SSMCORE_ISA_WIDEST
        SSMCORE_ISA_GENERIC
        SSMCORE_ISA_AVX2
        SSMCORE_ISA_AVX512
        SSMCORE_MAMBA
        SSMCORE_BILINEAR
        SSMCORE_ZOH
        SSMCORE_NO_ACTIVATION
        SSMCORE_SILU
        SSMCORE_CHUNK
        SSMCORE_MAX_NDIM

    ctypedef void ssmcore_task(void *user, int32_t index) noexcept nogil
    ctypedef void ssmcore_parallel_for(void *pool, int32_t count, ssmcore_task *task, void *user) noexcept nogil
    ctypedef void *ssmcore_allocate(void *memory, size_t bytes) noexcept nogil
    ctypedef void ssmcore_release(void *memory, void *block, size_t bytes) noexcept nogil

    ctypedef struct ssmcore_array:
        void *data
        int32_t type, ndim
        int64_t shape[6]
        int64_t strides[6]

    ctypedef struct ssmcore_options:
        size_t size
        int32_t num_threads
        int32_t isa
        int64_t work_per_thread
        ssmcore_parallel_for *parallel_for
        void *pool
        ssmcore_allocate *allocate
        ssmcore_release *release
        void *memory

    ctypedef struct ssmcore_discretize_args:
        size_t size
        int32_t discretization, reserved
        const ssmcore_array *A
        const ssmcore_array *B
        const ssmcore_array *delta
        const ssmcore_array *A_bar
        const ssmcore_array *B_bar

    ctypedef struct ssmcore_discretize_vjp_args:
        size_t size
        const ssmcore_discretize_args *forward
        const ssmcore_array *dA_bar
        const ssmcore_array *dB_bar
        const ssmcore_array *dA
        const ssmcore_array *dB
        const ssmcore_array *ddelta

    ctypedef struct ssmcore_ssm_recurrence_args:
        size_t size
        const ssmcore_array *A_bar
        const ssmcore_array *B_bar
        const ssmcore_array *C
        const ssmcore_array *u
        const ssmcore_array *initial_state
        const ssmcore_array *y
        const ssmcore_array *last_state

    ctypedef struct ssmcore_selective_scan_args:
        size_t size
        int32_t discretization, delta_softplus
        const ssmcore_array *u
        const ssmcore_array *delta
        const ssmcore_array *A
        const ssmcore_array *B
        const ssmcore_array *C
        const ssmcore_array *D
        const ssmcore_array *z
        const ssmcore_array *delta_bias
        const ssmcore_array *initial_state
        const ssmcore_array *out
        const ssmcore_array *last_state
        const ssmcore_array *checkpoints

    ctypedef struct ssmcore_selective_scan_vjp_args:
        size_t size
        const ssmcore_selective_scan_args *forward
        const ssmcore_array *dout
        const ssmcore_array *dlast_state
        const ssmcore_array *du
        const ssmcore_array *ddelta
        const ssmcore_array *dA
        const ssmcore_array *dB
        const ssmcore_array *dC
        const ssmcore_array *dD
        const ssmcore_array *dz
        const ssmcore_array *ddelta_bias
        const ssmcore_array *dinitial_state

    ctypedef struct ssmcore_ss2d_args:
        size_t size
        int32_t discretization, delta_softplus
        const ssmcore_array *x
        const ssmcore_array *delta
        const ssmcore_array *A
        const ssmcore_array *B
        const ssmcore_array *C
        const ssmcore_array *D
        const ssmcore_array *delta_bias
        const ssmcore_array *out
        const ssmcore_array *checkpoints

    ctypedef struct ssmcore_ss2d_vjp_args:
        size_t size
        const ssmcore_ss2d_args *forward
        const ssmcore_array *dout
        const ssmcore_array *dx
        const ssmcore_array *ddelta
        const ssmcore_array *dA
        const ssmcore_array *dB
        const ssmcore_array *dC
        const ssmcore_array *dD
        const ssmcore_array *ddelta_bias

    ctypedef struct ssmcore_chunk_scan_args:
        size_t size
        const ssmcore_array *x
        const ssmcore_array *dt
        const ssmcore_array *A
        const ssmcore_array *B
        const ssmcore_array *C
        const ssmcore_array *D
        const ssmcore_array *initial_state
        const ssmcore_array *starts
        const ssmcore_array *out
        const ssmcore_array *last_state
        const ssmcore_array *checkpoints

    ctypedef struct ssmcore_chunk_scan_vjp_args:
        size_t size
        const ssmcore_chunk_scan_args *forward
        const ssmcore_array *dout
        const ssmcore_array *dlast_state
        const ssmcore_array *dx
        const ssmcore_array *ddt
        const ssmcore_array *dA
        const ssmcore_array *dB
        const ssmcore_array *dC
        const ssmcore_array *dD
        const ssmcore_array *dinitial_state

    ctypedef struct ssmcore_causal_conv1d_args:
        size_t size
        int32_t activation, reserved
        const ssmcore_array *x
        const ssmcore_array *weight
        const ssmcore_array *bias
        const ssmcore_array *initial_state
        const ssmcore_array *out
        const ssmcore_array *last_state

    ctypedef struct ssmcore_causal_conv1d_vjp_args:
        size_t size
        const ssmcore_causal_conv1d_args *forward
        const ssmcore_array *dout
        const ssmcore_array *dx
        const ssmcore_array *dweight
        const ssmcore_array *dbias
        const ssmcore_array *dinitial_state

    ctypedef struct ssmcore_depthwise_conv2d_args:
        size_t size
        int32_t activation, reserved
        const ssmcore_array *x
        const ssmcore_array *weight
        const ssmcore_array *bias
        const ssmcore_array *out

    ctypedef struct ssmcore_depthwise_conv2d_vjp_args:
        size_t size
        const ssmcore_depthwise_conv2d_args *forward
        const ssmcore_array *dout
        const ssmcore_array *dx
        const ssmcore_array *dweight
        const ssmcore_array *dbias

    ctypedef struct ssmcore_attention_gate_args:
        size_t size
        double eps
        const ssmcore_array *x
        const ssmcore_array *theta
        const ssmcore_array *phi
        const ssmcore_array *theta_weight
        const ssmcore_array *phi_weight
        const ssmcore_array *shift
        const ssmcore_array *psi
        const ssmcore_array *psi_weight
        const ssmcore_array *psi_shift
        const ssmcore_array *statistics
        const ssmcore_array *out
        const ssmcore_array *q
        const ssmcore_array *used_statistics

    ctypedef struct ssmcore_attention_gate_vjp_args:
        size_t size
        const ssmcore_attention_gate_args *forward
        const ssmcore_array *dout
        const ssmcore_array *dx
        const ssmcore_array *dtheta
        const ssmcore_array *dphi
        const ssmcore_array *dtheta_weight
        const ssmcore_array *dphi_weight
        const ssmcore_array *dshift
        const ssmcore_array *dpsi
        const ssmcore_array *dpsi_weight
        const ssmcore_array *dpsi_shift

    ctypedef struct ssmcore_gate_crop_args:
        size_t size
        const ssmcore_array *g
        const ssmcore_array *out

    ctypedef struct ssmcore_gate_crop_vjp_args:
        size_t size
        const ssmcore_array *dout
        const ssmcore_array *dg

    int ssmcore_discretize(const ssmcore_discretize_args *args, const ssmcore_options *options)
    int ssmcore_discretize_vjp(const ssmcore_discretize_vjp_args *args, const ssmcore_options *options)
    int ssmcore_ssm_recurrence(const ssmcore_ssm_recurrence_args *args, const ssmcore_options *options)
    int ssmcore_selective_scan(const ssmcore_selective_scan_args *args, const ssmcore_options *options)
    int ssmcore_selective_scan_vjp(const ssmcore_selective_scan_vjp_args *args, const ssmcore_options *options)
    int ssmcore_ss2d(const ssmcore_ss2d_args *args, const ssmcore_options *options)
    int ssmcore_ss2d_vjp(const ssmcore_ss2d_vjp_args *args, const ssmcore_options *options)
    int ssmcore_chunk_scan(const ssmcore_chunk_scan_args *args, const ssmcore_options *options)
    int ssmcore_chunk_scan_vjp(const ssmcore_chunk_scan_vjp_args *args, const ssmcore_options *options)
    int ssmcore_causal_conv1d(const ssmcore_causal_conv1d_args *args, const ssmcore_options *options)
    int ssmcore_causal_conv1d_vjp(const ssmcore_causal_conv1d_vjp_args *args, const ssmcore_options *options)
    int ssmcore_depthwise_conv2d(const ssmcore_depthwise_conv2d_args *args, const ssmcore_options *options)
    int ssmcore_depthwise_conv2d_vjp(const ssmcore_depthwise_conv2d_vjp_args *args, const ssmcore_options *options)
    int ssmcore_attention_gate(const ssmcore_attention_gate_args *args, const ssmcore_options *options)
    int ssmcore_attention_gate_vjp(const ssmcore_attention_gate_vjp_args *args, const ssmcore_options *options)
    int ssmcore_gate_crop(const ssmcore_gate_crop_args *args, const ssmcore_options *options)
    int ssmcore_gate_crop_vjp(const ssmcore_gate_crop_vjp_args *args, const ssmcore_options *options)
    uint32_t ssmcore_abi()
    const char *ssmcore_version()
    const char *ssmcore_error()
    int32_t ssmcore_widest_isa()
    int32_t ssmcore_has_threads()

    ctypedef struct ssmcore_functions:
        size_t size
        uint32_t abi, reserved
        const char *(*version)() noexcept nogil
        const char *(*error)() noexcept nogil
        int32_t (*widest_isa)() noexcept nogil
        int32_t (*has_threads)() noexcept nogil
        int (*discretize)(const ssmcore_discretize_args *args, const ssmcore_options *options) noexcept nogil
        int (*discretize_vjp)(const ssmcore_discretize_vjp_args *args, const ssmcore_options *options) noexcept nogil
        int (*ssm_recurrence)(const ssmcore_ssm_recurrence_args *args, const ssmcore_options *options) noexcept nogil
        int (*selective_scan)(const ssmcore_selective_scan_args *args, const ssmcore_options *options) noexcept nogil
        int (*selective_scan_vjp)(const ssmcore_selective_scan_vjp_args *args, const ssmcore_options *options) noexcept nogil
        int (*ss2d)(const ssmcore_ss2d_args *args, const ssmcore_options *options) noexcept nogil
        int (*ss2d_vjp)(const ssmcore_ss2d_vjp_args *args, const ssmcore_options *options) noexcept nogil
        int (*chunk_scan)(const ssmcore_chunk_scan_args *args, const ssmcore_options *options) noexcept nogil
        int (*chunk_scan_vjp)(const ssmcore_chunk_scan_vjp_args *args, const ssmcore_options *options) noexcept nogil
        int (*causal_conv1d)(const ssmcore_causal_conv1d_args *args, const ssmcore_options *options) noexcept nogil
        int (*causal_conv1d_vjp)(const ssmcore_causal_conv1d_vjp_args *args, const ssmcore_options *options) noexcept nogil
        int (*depthwise_conv2d)(const ssmcore_depthwise_conv2d_args *args, const ssmcore_options *options) noexcept nogil
        int (*depthwise_conv2d_vjp)(const ssmcore_depthwise_conv2d_vjp_args *args, const ssmcore_options *options) noexcept nogil
        int (*attention_gate)(const ssmcore_attention_gate_args *args, const ssmcore_options *options) noexcept nogil
        int (*attention_gate_vjp)(const ssmcore_attention_gate_vjp_args *args, const ssmcore_options *options) noexcept nogil
        int (*gate_crop)(const ssmcore_gate_crop_args *args, const ssmcore_options *options) noexcept nogil
        int (*gate_crop_vjp)(const ssmcore_gate_crop_vjp_args *args, const ssmcore_options *options) noexcept nogil
    const ssmcore_functions *ssmcore_table()

cdef extern from "ssmcore_python.h":
    const ssmcore_functions *ssmcore_import() except NULL
