/* libssmcore: kernels of state space models on CPUs. C99 and C++; needs libc and libm alone.
 *
 * Every operation is a function of its arguments and of options, and returns a status. The library keeps nothing between calls but idle
 * threads. All functions may be called from several threads at once. docs/embedding.md explains and shows examples. */
#ifndef SSMCORE_H
#define SSMCORE_H
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(SSMCORE_BUILDING)
#define SSMCORE_API __declspec(dllexport)
#elif defined(_WIN32)
#define SSMCORE_API __declspec(dllimport)
#elif defined(__GNUC__)
#define SSMCORE_API __attribute__((visibility("default")))
#else
#define SSMCORE_API
#endif
#ifdef __cplusplus
extern "C" {
#endif

/* Grows where an old program would not run with a new library. A new function, or a new member at a struct's end, leaves it alone. */
#define SSMCORE_ABI 1

enum { SSMCORE_OK = 0, SSMCORE_ERROR_MEMORY = -1, SSMCORE_ERROR_ISA = -2, SSMCORE_ERROR_ARGUMENT = -3, SSMCORE_ERROR_VERSION = -4 };

/* float16 and bfloat16 are computed in float32. */
enum {
    SSMCORE_FLOAT32 = 0,
    SSMCORE_FLOAT64 = 1,
    SSMCORE_FLOAT16 = 2,
    SSMCORE_BFLOAT16 = 3,
    SSMCORE_COMPLEX64 = 4,
    SSMCORE_COMPLEX128 = 5,
    SSMCORE_UINT8 = 6
};
enum { SSMCORE_ISA_WIDEST = 0, SSMCORE_ISA_GENERIC = 1, SSMCORE_ISA_AVX2 = 2, SSMCORE_ISA_AVX512 = 3 };
enum { SSMCORE_MAMBA = 0, SSMCORE_BILINEAR = 1, SSMCORE_ZOH = 2 }; /* discretization */
enum { SSMCORE_NO_ACTIVATION = 0, SSMCORE_SILU = 1 };
enum { SSMCORE_CHUNK = 64 }; /* steps between two kept states */
enum { SSMCORE_MAX_NDIM = 6 };

/* A view of memory. Strides count elements, may be 0 or negative; each element lies at a multiple of its size. */
typedef struct ssmcore_array {
    void *data;
    int32_t type, ndim;
    int64_t shape[SSMCORE_MAX_NDIM], strides[SSMCORE_MAX_NDIM];
} ssmcore_array;

typedef void ssmcore_task(void *user, int32_t index);
/* Calls task(user, index) for every index below count, in any order, at once or one after the other, and returns when all have ended. */
typedef void ssmcore_parallel_for(void *pool, int32_t count, ssmcore_task *task, void *user);
/* Memory of at least this many bytes at any alignment that malloc gives, or NULL. */
typedef void *ssmcore_allocate(void *memory, size_t bytes);
typedef void ssmcore_release(void *memory, void *block, size_t bytes);

/* How a call runs. Every member but `size` may be 0, and `options` NULL. No result depends on the number of threads. */
typedef struct ssmcore_options {
    size_t size;                        /* sizeof(ssmcore_options) */
    int32_t num_threads;                /* 0 or 1: the calling thread alone */
    int32_t isa;                        /* SSMCORE_ISA_... */
    int64_t work_per_thread;            /* multiply-adds that a further thread is woken for; 0: 2^20 */
    ssmcore_parallel_for *parallel_for; /* the program's own threads; NULL: the library's */
    void *pool;
    ssmcore_allocate *allocate;         /* of workspace, called by the calling thread alone; NULL: malloc */
    ssmcore_release *release;
    void *memory;
} ssmcore_options;

/* Each operation takes a struct that begins with its own size. A NULL array is absent, which [brackets] allow. Arrays have the shapes that
 * stand beside them, any strides and, but for states, may not overlap an array that is written. Types may be mixed: the type of the first
 * array tells whether a call computes in float32 or float64. A gradient takes the forward call's struct with its inputs (its results are
 * used only where said so) and the gradients of the results; every gradient of an input that is NULL is not stored. */

/* A_bar and B_bar of x' = A x + B u at a step delta, element by element. Gu and Dao, Mamba (2023), eq. 4. */
typedef struct ssmcore_discretize_args {
    size_t size;
    int32_t discretization, reserved;
    const ssmcore_array *A, *B;  /* (..., dstate), all of one shape; a stride of 0 repeats an axis */
    const ssmcore_array *delta;  /* (...) */
    const ssmcore_array *A_bar;  /* written: (..., dstate) */
    const ssmcore_array *B_bar;  /* written: (..., dstate) */
} ssmcore_discretize_args;
typedef struct ssmcore_discretize_vjp_args {
    size_t size;
    const ssmcore_discretize_args *forward;
    const ssmcore_array *dA_bar, *dB_bar;     /* (..., dstate) */
    const ssmcore_array *dA, *dB, *ddelta;    /* written: (..., dstate) twice, (...) */
} ssmcore_discretize_vjp_args;

/* h[t] = A_bar h[t - 1] + B_bar u[t], y[t] = C h[t], real, or complex with complex y. */
typedef struct ssmcore_ssm_recurrence_args {
    size_t size;
    const ssmcore_array *A_bar, *B_bar, *C;  /* (rows, dstate) */
    const ssmcore_array *u;                  /* (rows, seqlen), real or complex */
    const ssmcore_array *initial_state;      /* [(rows, dstate)] */
    const ssmcore_array *y;                  /* written: (rows, seqlen) */
    const ssmcore_array *last_state;         /* written: [(rows, dstate)], may be initial_state */
} ssmcore_ssm_recurrence_args;

/* Mamba's scan: Delta = softplus(delta + delta_bias), h[t] = A_bar h[t - 1] + B_bar u[t], out = (C h + D u) SiLU(z). Gu and Dao (2023). */
typedef struct ssmcore_selective_scan_args {
    size_t size;
    int32_t discretization, delta_softplus;
    const ssmcore_array *u, *delta;      /* (batch, seqlen, dim) */
    const ssmcore_array *A;              /* (dim, dstate) */
    const ssmcore_array *B, *C;          /* (batch, seqlen, ngroups, dstate) or (dim, dstate) */
    const ssmcore_array *D;              /* [(dim)] */
    const ssmcore_array *z;              /* [(batch, seqlen, dim)] */
    const ssmcore_array *delta_bias;     /* [(dim)] */
    const ssmcore_array *initial_state;  /* [(batch, dim, dstate)] */
    const ssmcore_array *out;            /* written: (batch, seqlen, dim) */
    const ssmcore_array *last_state;     /* written: [(batch, dim, dstate)], may be initial_state */
    const ssmcore_array *checkpoints;    /* written: [(batch, chunks, dstate, dim)], chunks = ceil(seqlen / SSMCORE_CHUNK) */
} ssmcore_selective_scan_args;
typedef struct ssmcore_selective_scan_vjp_args {
    size_t size;
    const ssmcore_selective_scan_args *forward;    /* with its checkpoints */
    const ssmcore_array *dout;                     /* (batch, seqlen, dim) */
    const ssmcore_array *dlast_state;              /* [(batch, dim, dstate)] */
    const ssmcore_array *du, *ddelta, *dA, *dB, *dC, *dD, *dz, *ddelta_bias, *dinitial_state; /* written, as the inputs */
} ssmcore_selective_scan_vjp_args;

/* Four scans of a grid, along rows, along columns and both backwards, summed. Liu et al., VMamba (2024), section 4.2. */
typedef struct ssmcore_ss2d_args {
    size_t size;
    int32_t discretization, delta_softplus;
    const ssmcore_array *x;            /* (batch, height, width, dim) */
    const ssmcore_array *delta;        /* (batch, height, width, 4, dim) */
    const ssmcore_array *A;            /* (4, dim, dstate) */
    const ssmcore_array *B, *C;        /* (batch, height, width, 4, dstate) */
    const ssmcore_array *D;            /* [(4, dim)] */
    const ssmcore_array *delta_bias;   /* [(4, dim)] */
    const ssmcore_array *out;          /* written: (batch, height, width, dim) */
    const ssmcore_array *checkpoints;  /* written: [(4, batch, chunks, dstate, dim)], chunks = ceil(height width / SSMCORE_CHUNK) */
} ssmcore_ss2d_args;
typedef struct ssmcore_ss2d_vjp_args {
    size_t size;
    const ssmcore_ss2d_args *forward;                             /* with its checkpoints */
    const ssmcore_array *dout;                                    /* (batch, height, width, dim) */
    const ssmcore_array *dx, *ddelta, *dA, *dB, *dC, *dD, *ddelta_bias; /* written, as the inputs */
} ssmcore_ss2d_vjp_args;

/* Mamba-2's scan (SSD): h[t] = exp(dt A) h[t - 1] + dt B x, out = C h + D x, for each head. Dao and Gu (2024). dt is the step itself. */
typedef struct ssmcore_chunk_scan_args {
    size_t size;
    const ssmcore_array *x;              /* (batch, seqlen, nheads, headdim) */
    const ssmcore_array *dt;             /* (batch, seqlen, nheads) */
    const ssmcore_array *A;              /* (nheads) */
    const ssmcore_array *B, *C;          /* (batch, seqlen, ngroups, dstate) */
    const ssmcore_array *D;              /* [(nheads, headdim)] */
    const ssmcore_array *initial_state;  /* [(batch, nheads, headdim, dstate)] */
    const ssmcore_array *starts;         /* [(batch, seqlen)] uint8, 1 where a packed sequence begins */
    const ssmcore_array *out;            /* written: (batch, seqlen, nheads, headdim) */
    const ssmcore_array *last_state;     /* written: [(batch, nheads, headdim, dstate)] */
    const ssmcore_array *checkpoints;    /* written: [(batch, chunks, nheads, dstate, headdim)], chunks as in selective_scan */
} ssmcore_chunk_scan_args;
typedef struct ssmcore_chunk_scan_vjp_args {
    size_t size;
    const ssmcore_chunk_scan_args *forward;                         /* with its checkpoints */
    const ssmcore_array *dout;                                      /* (batch, seqlen, nheads, headdim) */
    const ssmcore_array *dlast_state;                               /* [(batch, nheads, headdim, dstate)] */
    const ssmcore_array *dx, *ddt, *dA, *dB, *dC, *dD, *dinitial_state; /* written, as the inputs */
} ssmcore_chunk_scan_vjp_args;

/* out[t] = activation(bias + sum_k weight[k] x[t - taps + 1 + k]), for each channel. */
typedef struct ssmcore_causal_conv1d_args {
    size_t size;
    int32_t activation, reserved;
    const ssmcore_array *x;              /* (batch, seqlen, dim) */
    const ssmcore_array *weight;         /* (dim, taps) */
    const ssmcore_array *bias;           /* [(dim)] */
    const ssmcore_array *initial_state;  /* [(batch, dim, past)]: the steps before the first, past >= taps - 1, equal to it for a gradient */
    const ssmcore_array *out;            /* written: (batch, seqlen, dim) */
    const ssmcore_array *last_state;     /* written: [(batch, dim, past)]: the last steps, may be initial_state */
} ssmcore_causal_conv1d_args;
typedef struct ssmcore_causal_conv1d_vjp_args {
    size_t size;
    const ssmcore_causal_conv1d_args *forward;
    const ssmcore_array *dout;                                /* (batch, seqlen, dim) */
    const ssmcore_array *dx, *dweight, *dbias, *dinitial_state; /* written, as the inputs */
} ssmcore_causal_conv1d_vjp_args;

/* A 3x3 convolution of each channel, padded with zeros. */
typedef struct ssmcore_depthwise_conv2d_args {
    size_t size;
    int32_t activation, reserved;
    const ssmcore_array *x;       /* (batch, height, width, dim) */
    const ssmcore_array *weight;  /* (dim, 3, 3) */
    const ssmcore_array *bias;    /* [(dim)] */
    const ssmcore_array *out;     /* written: (batch, height, width, dim) */
} ssmcore_depthwise_conv2d_args;
typedef struct ssmcore_depthwise_conv2d_vjp_args {
    size_t size;
    const ssmcore_depthwise_conv2d_args *forward;
    const ssmcore_array *dout;                  /* (batch, height, width, dim) */
    const ssmcore_array *dx, *dweight, *dbias;  /* written, as the inputs */
} ssmcore_depthwise_conv2d_vjp_args;

/* out = x sigmoid(BN(sum_c psi relu(BN(theta) + BN(phi)))), phi cropped at its centre. Mamba-AHNet, algorithm 3. */
typedef struct ssmcore_attention_gate_args {
    size_t size;
    double eps;
    const ssmcore_array *x;                         /* (batch, height, width, channels) */
    const ssmcore_array *theta;                     /* (batch, height, width, dim) */
    const ssmcore_array *phi;                       /* (batch, g_height, g_width, dim), at least as large */
    const ssmcore_array *theta_weight, *phi_weight; /* (dim) */
    const ssmcore_array *shift, *psi;               /* (dim) */
    const ssmcore_array *psi_weight, *psi_shift;    /* (1) */
    const ssmcore_array *statistics;                /* [(2 dim + 1, 2)]: mean and variance to use, of theta, phi and psi */
    const ssmcore_array *out;                       /* written: (batch, height, width, channels) */
    const ssmcore_array *q;                         /* written: [(batch, height, width)], psi before its norm */
    const ssmcore_array *used_statistics;           /* written: [(2 dim + 1, 2)] */
} ssmcore_attention_gate_args;
typedef struct ssmcore_attention_gate_vjp_args {
    size_t size;
    const ssmcore_attention_gate_args *forward;     /* with its q and used_statistics */
    const ssmcore_array *dout;                      /* (batch, height, width, channels) */
    const ssmcore_array *dx, *dtheta, *dphi, *dtheta_weight, *dphi_weight, *dshift, *dpsi, *dpsi_weight, *dpsi_shift; /* written */
} ssmcore_attention_gate_vjp_args;

/* The window of out's shape in the middle of g, which starts at floor((size - part) / 2); of any type. */
typedef struct ssmcore_gate_crop_args {
    size_t size;
    const ssmcore_array *g;    /* no axis shorter than out's */
    const ssmcore_array *out;  /* written */
} ssmcore_gate_crop_args;
typedef struct ssmcore_gate_crop_vjp_args {
    size_t size;
    const ssmcore_array *dout;
    const ssmcore_array *dg;   /* written: zeros around dout */
} ssmcore_gate_crop_vjp_args;

#define SSMCORE_OPERATIONS(OP)                                                                                                  \
    OP(discretize) OP(discretize_vjp) OP(ssm_recurrence) OP(selective_scan) OP(selective_scan_vjp) OP(ss2d) OP(ss2d_vjp)        \
    OP(chunk_scan) OP(chunk_scan_vjp) OP(causal_conv1d) OP(causal_conv1d_vjp) OP(depthwise_conv2d) OP(depthwise_conv2d_vjp)     \
    OP(attention_gate) OP(attention_gate_vjp) OP(gate_crop) OP(gate_crop_vjp)

/* int ssmcore_selective_scan(const ssmcore_selective_scan_args *args, const ssmcore_options *options), and so on. Where a status is not
 * SSMCORE_OK, nothing but workspace has been written, except that SSMCORE_ERROR_MEMORY leaves results unset. */
#define SSMCORE_DECLARE_OPERATION(name) SSMCORE_API int ssmcore_##name(const ssmcore_##name##_args *args, const ssmcore_options *options);
SSMCORE_OPERATIONS(SSMCORE_DECLARE_OPERATION)
#undef SSMCORE_DECLARE_OPERATION

SSMCORE_API uint32_t ssmcore_abi(void);        /* SSMCORE_ABI of the library */
SSMCORE_API const char *ssmcore_version(void); /* such as "1.2.0" */
SSMCORE_API const char *ssmcore_error(void);   /* of the calling thread's last call that failed, in words */
SSMCORE_API int32_t ssmcore_widest_isa(void);  /* SSMCORE_ISA_..., compiled in and run by this processor */
SSMCORE_API int32_t ssmcore_has_threads(void); /* whether it has threads of its own here */

/* All functions, for a program that gets the library by address, as ssmcore_python.h does. */
#define SSMCORE_POINTER(name) int (*name)(const ssmcore_##name##_args *args, const ssmcore_options *options);
typedef struct ssmcore_functions {
    size_t size;
    uint32_t abi, reserved;
    const char *(*version)(void);
    const char *(*error)(void);
    int32_t (*widest_isa)(void);
    int32_t (*has_threads)(void);
    SSMCORE_OPERATIONS(SSMCORE_POINTER)
} ssmcore_functions;
#undef SSMCORE_POINTER
SSMCORE_API const ssmcore_functions *ssmcore_table(void);

#ifdef __cplusplus
}
#endif
#endif
