"""What the compiled kernels find on this machine."""

cdef extern from "cpu.h":
    int ssm_widest_isa()
    int ssm_openmp_threads()

ISAS = ("generic", "avx2", "avx512")


def best_isa() -> str:
    """The widest instruction set compiled in that this processor runs."""
    return ISAS[ssm_widest_isa()]


def openmp_threads() -> int:
    """Threads OpenMP would use now, by OMP_NUM_THREADS or threadpoolctl; 0 for kernels compiled without, which run on one."""
    return ssm_openmp_threads()
