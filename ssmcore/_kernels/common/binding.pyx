"""What the compiled kernels find on this machine."""

from libc.stdint cimport uintptr_t

cdef extern from "cpu.h":
    int ssm_widest_isa()
    int ssmcore_has_threads()
    ctypedef void ssmcore_team(void (*work)(void *), void *given, unsigned threads, unsigned flags)
    void ssmcore_use_team(ssmcore_team *function)

ISAS = ("generic", "avx2", "avx512")


def best_isa() -> str:
    """The widest instruction set compiled in that this processor runs."""
    return ISAS[ssm_widest_isa()]


def has_threads() -> bool:
    """Whether the kernels run on several threads here."""
    return bool(ssmcore_has_threads())


def use_team(function: int) -> None:
    """Runs kernels on the threads behind a function like GOMP_parallel, given by its address, in place of the library's own; 0 undoes
    it. A forked child has the library's own."""
    ssmcore_use_team(<ssmcore_team *> <uintptr_t> function)
