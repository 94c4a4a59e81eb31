"""The extension list; everything else stands in pyproject.toml.

SSMCORE_BUILD=auto (default) builds the compiled kernels and goes on without them, with a message, where that fails;
require fails loudly; never does not try.
"""

from __future__ import annotations

import os
import sys

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
    isas = [f"{KERNELS}/selective_scan_{isa}.c" for isa in ("dispatch", "generic", "avx2", "avx512")]
    headers = ["selective_scan.h", "selective_scan_impl.h", "selective_scan_types.h", "vecmath.h", "vecmath_end.h"]

    def extension(name: str, sources: list[str], depends: list[str]) -> Extension:
        return Extension(
            f"ssmcore._kernels.{name}",
            [f"{KERNELS}/{name}.pyx", *sources],
            depends=[f"{KERNELS}/{header}" for header in depends],
            include_dirs=[KERNELS],
            extra_compile_args=compile_args + openmp,
            extra_link_args=openmp,
        )

    built = cythonize(
        [
            extension("discretize_cython", [], []),
            extension("gate_crop_cython", [], []),
            extension("selective_scan_cython", isas, headers),
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
