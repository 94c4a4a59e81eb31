"""The extension list; everything else stands in pyproject.toml.

SSMCORE_BUILD=auto (default) builds the compiled kernels and goes on without them, with a message, where that fails;
require fails loudly; never does not try.
"""

from __future__ import annotations

import os
import sys
from glob import glob

from setuptools import Extension, setup

KERNELS = "ssmcore/_kernels"
MODES = ("auto", "require", "never")


def extensions(mode: str) -> list[Extension]:
    if mode == "never":
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        if mode == "require":
            raise
        print("ssmcore: Cython is not installed, so the compiled kernels are not built", file=sys.stderr)
        return []
    compile_args = ["-O3", "-fno-math-errno", "-Wno-psabi"] if sys.platform != "win32" else ["/O2"]
    openmp = ["-fopenmp"] if sys.platform.startswith("linux") else []

    def extension(op: str, *, per_isa: bool) -> Extension:
        """A Cython module, and where `per_isa` the C kernels behind it, compiled once for each instruction set."""
        parts = ("dispatch", "generic", "avx2", "avx512") if per_isa else ()
        return Extension(
            f"ssmcore._kernels.{op}_cython",
            [f"{KERNELS}/{op}_cython.pyx", *(f"{KERNELS}/{op}_{part}.c" for part in parts)],
            depends=sorted(glob(f"{KERNELS}/*.h")) if per_isa else [],
            include_dirs=[KERNELS],
            extra_compile_args=compile_args + openmp,
            extra_link_args=openmp,
        )

    built = cythonize(
        [
            extension("attention_gate", per_isa=True),
            extension("causal_conv1d", per_isa=True),
            extension("chunk_scan", per_isa=True),
            extension("depthwise_conv2d", per_isa=True),
            extension("discretize", per_isa=False),
            extension("gate_crop", per_isa=False),
            extension("selective_scan", per_isa=True),
            extension("ssm_recurrence", per_isa=True),
        ],
        build_dir="build/cython",
        quiet=True,
    )
    for one in built:
        one.optional = mode == "auto"  # cythonize drops the argument of this name
    return list(built)


mode = os.environ.get("SSMCORE_BUILD", "auto")
if mode not in MODES:
    raise SystemExit(f"SSMCORE_BUILD: expected one of {', '.join(MODES)}, got {mode!r}; unset it for auto")
if mode == "never":
    print("ssmcore: SSMCORE_BUILD=never, so the compiled kernels are not built", file=sys.stderr)
setup(ext_modules=extensions(mode))
