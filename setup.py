"""Builds the compiled kernels. All other settings stand in pyproject.toml.

Each folder of ssmcore/_kernels with a binding.pyx becomes one extension module. Its kernel.h, if any, is compiled once for each
instruction set: one for each common/isa_*.h. The C files that do so are written into build/.

SSMCORE_BUILD=auto (default) builds the kernels and continues with a message if that fails. require fails loudly. never builds none.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

KERNELS = Path("ssmcore/_kernels")
COMMON = KERNELS / "common"
MODES = ("auto", "require", "never")
COMPILE = ["/O2"] if sys.platform == "win32" else ["-O3", "-fno-math-errno", "-Wno-psabi"]
OPENMP = ["-fopenmp"] if sys.platform.startswith("linux") else []


def instruction_sets(folder: Path) -> list[str]:
    """Writes a C file for each instruction set. An unchanged file keeps its time stamp, so that nothing is compiled again."""
    files = []
    for isa in sorted(COMMON.glob("isa_*.h")):
        file = Path("build", "kernels", folder.name, isa.name).with_suffix(".c")
        text = f'#define IMPLEMENTATION "kernel.h"\n#include "{isa.name}"\n'
        if not file.exists() or file.read_text() != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        files.append(file.as_posix())
    return files


def extension(folder: Path) -> Extension:
    sources, headers = [f"{folder.as_posix()}/binding.pyx"], []
    if (folder / "kernel.h").exists():
        sources += [f"{folder.as_posix()}/dispatch.c", *instruction_sets(folder)]
        headers = [path.as_posix() for place in (folder, COMMON) for path in sorted(place.glob("*.h"))]
    return Extension(
        ".".join((*folder.parts, "binding")),
        sources,
        depends=headers,
        include_dirs=[folder.as_posix(), COMMON.as_posix()],
        extra_compile_args=COMPILE + OPENMP,
        extra_link_args=OPENMP,
    )


def extensions(mode: str) -> list[Extension]:
    if mode == "never":
        print("ssmcore: SSMCORE_BUILD=never, so the compiled kernels are not built", file=sys.stderr)
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        if mode == "require":
            raise
        print("ssmcore: Cython is not installed, so the compiled kernels are not built", file=sys.stderr)
        return []
    folders = sorted(path.parent for path in KERNELS.glob("*/binding.pyx"))
    built = list(cythonize([extension(folder) for folder in folders], build_dir="build/cython", quiet=True))
    for one in built:
        one.optional = mode == "auto"  # cythonize drops the argument of this name
    return built


mode = os.environ.get("SSMCORE_BUILD", "auto")
if mode not in MODES:
    raise SystemExit(f"SSMCORE_BUILD: expected one of {', '.join(MODES)}, got {mode!r}; unset it for auto")
setup(ext_modules=extensions(mode))
