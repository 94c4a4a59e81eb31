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
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
}
MODES = ("auto", "require", "never")
COMPILE = ["/O2"] if sys.platform == "win32" else ["-O3", "-fno-math-errno", "-Wno-psabi"]
OPENMP = ["-fopenmp"] if sys.platform.startswith("linux") else []


def generated(folder: Path) -> list[str]:
    """Writes the C files that compile kernel.h for each instruction set, and the one that chooses among them.

    An unchanged file keeps its time stamp, so that nothing is compiled again.
    """
    texts = {"dispatch.c": '#include "api.h"\n#include "dispatch.h"\n'}
    for isa in sorted(COMMON.glob("isa_*.h")):
        texts[f"{isa.stem}.c"] = f'#define IMPLEMENTATION "kernel.h"\n#include "{isa.name}"\n'
    place = Path("build", "kernels", folder.name)
    place.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        if not (place / name).exists() or (place / name).read_text() != text:
            (place / name).write_text(text)
    return [(place / name).as_posix() for name in texts]


def extension(folder: Path) -> Extension:
    places = (folder, COMMON)
    return Extension(
        ".".join((*folder.parts, "binding")),
        [f"{folder.as_posix()}/binding.pyx", *(generated(folder) if (folder / "kernel.h").exists() else [])],
        depends=[path.as_posix() for place in places for path in sorted(place.glob("*.h"))],
        include_dirs=[place.as_posix() for place in places],
        extra_compile_args=COMPILE + OPENMP,
        extra_link_args=OPENMP,
    )


def size(folder: Path) -> int:
    """Bytes of C in a folder, the measure of how long it takes to compile."""
    return sum(file.stat().st_size for file in folder.glob("*.[ch]"))


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
    # modules are compiled side by side: the longest ones first, so that none is left over at the end
    folders = sorted(
        (path.parent for path in KERNELS.glob("*/binding.pyx")), key=lambda folder: (-size(folder), folder)
    )
    modules = [extension(folder) for folder in folders]
    built = list(cythonize(modules, build_dir="build/cython", compiler_directives=DIRECTIVES, quiet=True))
    for one in built:
        one.optional = mode == "auto"  # cythonize drops the argument of this name
    return built


mode = os.environ.get("SSMCORE_BUILD", "auto")
if mode not in MODES:
    raise SystemExit(f"SSMCORE_BUILD: expected one of {', '.join(MODES)}, got {mode!r}; unset it for auto")
setup(ext_modules=extensions(mode), options={"build_ext": {"parallel": os.cpu_count()}})
