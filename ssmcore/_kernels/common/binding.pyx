"""What the compiled kernels find on this machine."""

cdef extern from "cpu.h":
    int ssm_widest_isa()
    int ssmcore_has_threads()

ISAS = ("generic", "avx2", "avx512")


def best_isa() -> str:
    """The widest instruction set compiled in that this processor runs."""
    return ISAS[ssm_widest_isa()]


def has_threads() -> bool:
    """Whether the kernels run on several threads here."""
    return bool(ssmcore_has_threads())
