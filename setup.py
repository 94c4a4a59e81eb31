"""Builds the compiled kernels. All other settings stand in pyproject.toml.

The C files of ssmcore/_kernels become one library, ssmcore/lib/libssmcore. A folder's kernel.h, if any, is compiled once for each instruction
set: one for each common/isa_*.h. The C files that do so are written into build/. common/binding.pyx becomes the extension module that calls
the library. It keeps to the limited API, so that one wheel serves every CPython from 3.11 on. Free-threaded Pythons have none, and get a
module of their own. Symbols stay in for profilers; `make wheels` strips them.

SSMCORE_BUILD=auto (default) builds the kernels and continues with a message if that fails. require fails loudly. never builds none.
"""

from __future__ import annotations

import os
import struct
import sys
import sysconfig
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CompileError

KERNELS = Path("ssmcore/_kernels")
COMMON = KERNELS / "common"
INCLUDE = Path("ssmcore/include")
LIBRARY = "ssmcore.lib.libssmcore"
FILES = {"linux": "libssmcore.so.1", "darwin": "libssmcore.1.dylib", "win32": "ssmcore-1.dll"}
CONFIGURATIONS = {
    "pkgconfig/ssmcore.pc": "ssmcore.pc.in",
    "cmake/ssmcore/ssmcoreConfig.cmake": "ssmcoreConfig.cmake.in",
    "cmake/ssmcore/ssmcoreConfigVersion.cmake": "ssmcoreConfigVersion.cmake.in",
}
"""What pkg-config and CMake read, beside the library, and the templates in ssmcore/lib."""
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
}
VERSION = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
MODES = ("auto", "require", "never")
COMPILE = ["-O3", "-fno-math-errno", "-Wno-psabi", "-fvisibility=hidden"]
LIMITED_API = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")


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


def size(folder: Path) -> int:
    """Bytes of C in a folder, the measure of how long it takes to compile."""
    return sum(file.stat().st_size for file in folder.glob("*.[ch]"))


def library(folders: list[Path]) -> Extension:
    """The library, whose sources are those of all folders, the longest ones first. Each is compiled with its folder's headers."""
    sources = [name for folder in folders if (folder / "kernel.h").exists() for name in generated(folder)]
    sources += sorted(path.as_posix() for path in KERNELS.glob("*/*.c"))
    headers = sorted(path.as_posix() for path in (*KERNELS.glob("*/*.h"), INCLUDE / "ssmcore.h"))
    link = []
    if sys.platform.startswith("linux"):  # its threads must not lose their code
        link = ["-pthread", f"-Wl,-soname,{FILES['linux']}", "-Wl,-z,nodelete", "-Wl,-z,defs", "-lm"]
    elif sys.platform == "darwin":
        link = [f"-Wl,-install_name,@rpath/{FILES['darwin']}"]
    macros = [("SSMCORE_BUILDING", "1"), ("SSMCORE_VERSION", f'"{VERSION}"')]
    return Extension(
        LIBRARY, sources, depends=headers, define_macros=macros, extra_compile_args=COMPILE, extra_link_args=link
    )


def write_configurations(folder: Path) -> None:
    """Writes the files of pkg-config and CMake for the library in this folder."""
    name = FILES.get(sys.platform, FILES["linux"])
    bits = 8 * struct.calcsize("P")
    values = {
        "VERSION": VERSION,
        "FILE": name,
        "SONAME": f"@rpath/{name}" if sys.platform == "darwin" else name,
        "LINK": f"${{libdir}}/{name}" if sys.platform == "darwin" else f"-L${{libdir}} -l:{name}",  # which cgo allows
        "POINTER_BYTES": str(bits // 8),
        "POINTER_BITS": str(bits),
    }
    for place, template in CONFIGURATIONS.items():
        text = Path("ssmcore/lib", template).read_text(encoding="utf-8")
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text, encoding="utf-8")


def module() -> Extension:
    origin = {"linux": "$ORIGIN", "darwin": "@loader_path"}.get(sys.platform)
    headers = [*COMMON.glob("*.h"), *INCLUDE.glob("*.h"), Path("ssmcore/capi.pxd")]
    return Extension(
        ".".join((*COMMON.parts, "binding")),
        [f"{COMMON.as_posix()}/binding.pyx"],
        depends=sorted(path.as_posix() for path in headers),
        define_macros=[("Py_LIMITED_API", "0x030b0000")] if LIMITED_API else [],
        py_limited_api=LIMITED_API,
        include_dirs=[COMMON.as_posix(), INCLUDE.as_posix()],
        extra_compile_args=COMPILE,
        extra_link_args=[f"-Wl,-rpath,{origin}/../../lib"] if origin else [],
    )


class BuildKernels(build_ext):
    """Builds the library first, its files side by side, and then the modules that are linked to it."""

    def get_ext_filename(self, fullname: str) -> str:
        *package, name = fullname.split(".")  # with its package, or without
        if name == LIBRARY.rpartition(".")[2]:
            return os.path.join(*package, FILES.get(sys.platform, FILES["linux"]))
        return str(super().get_ext_filename(fullname))

    def build_extensions(self) -> None:
        first, *modules = self.extensions
        self.build_extension(first)
        path = self.get_ext_fullpath(first.name)
        if not os.path.exists(path):
            self.extensions = []  # an optional build that failed, and has said so
            return
        for one in modules:
            one.extra_objects = [path]
            one.depends = [*one.depends, path]
        self.extensions = modules
        try:
            super().build_extensions()
        finally:
            self.extensions = [first, *modules]

    def build_extension(self, ext: Extension) -> None:
        if ext.name != LIBRARY:
            super().build_extension(ext)
            return
        try:
            self.build_library(ext)
        except BaseError as error:
            if not ext.optional:
                raise
            self.warn(f"building {ext.name} failed: {error}")

    def get_libraries(self, ext: Extension) -> list[str]:
        if sys.platform == "win32" and LIMITED_API:
            return [*ext.libraries, "python3"]  # otherwise the module would run on this one version
        return list(super().get_libraries(ext))

    def build_library(self, ext: Extension) -> None:
        if self.compiler.compiler_type == "msvc":
            raise CompileError(
                "MSVC has no vector types, which the kernels are written in; install ziglang, set CC='python -m ziglang cc', "
                "and build with `python setup.py build_ext --compiler mingw32`"
            )
        path = self.get_ext_fullpath(ext.name)
        common = [name for name in ext.depends if Path(name).parent in (COMMON, INCLUDE)]

        def compiled(source: str) -> str:
            """The object file, made again where it is older than what it is made of."""
            folder = KERNELS / Path(source).parent.name
            (made,) = self.compiler.object_filenames([source], output_dir=self.build_temp)
            parts = [source, __file__, *common, *folder.glob("*.h")]
            if self.force or not os.path.exists(made) or os.path.getmtime(made) < max(map(os.path.getmtime, parts)):
                self.compiler.compile(
                    [source],
                    output_dir=self.build_temp,
                    include_dirs=[folder.as_posix(), COMMON.as_posix(), INCLUDE.as_posix()],
                    macros=ext.define_macros,
                    extra_postargs=ext.extra_compile_args,
                )
            return str(made)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compiled, ext.sources))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.compiler.link_shared_object(objects, path, extra_postargs=ext.extra_link_args, build_temp=self.build_temp)
        write_configurations(Path(path).parent)

    def copy_extensions_to_source(self) -> None:
        if LIMITED_API:  # Python would find the module of an earlier build first
            Path(COMMON, f"binding{sysconfig.get_config_var('EXT_SUFFIX')}").unlink(missing_ok=True)
        super().copy_extensions_to_source()
        folder = Path(*LIBRARY.split(".")[:-1])
        if (folder / FILES.get(sys.platform, FILES["linux"])).exists():
            write_configurations(folder)

    def get_outputs(self) -> list[str]:
        libraries = (Path(self.get_ext_fullpath(one.name)) for one in self.extensions if one.name == LIBRARY)
        written = [str(path.parent / place) for path in libraries if path.exists() for place in CONFIGURATIONS]
        return sorted({*super().get_outputs(), *written})


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
    # compiled side by side: the longest ones first, so that none is left over at the end
    folders = sorted((path for path in KERNELS.iterdir() if path.is_dir()), key=lambda folder: (-size(folder), folder))
    built: list[Any] = [
        library(folders),
        *cythonize([module()], build_dir="build/cython", compiler_directives=DIRECTIVES, quiet=True),
    ]
    for one in built:
        one.optional = mode == "auto"  # cythonize drops the argument of this name
    return built


mode = os.environ.get("SSMCORE_BUILD", "auto")
if mode not in MODES:
    raise SystemExit(f"SSMCORE_BUILD: expected one of {', '.join(MODES)}, got {mode!r}; unset it for auto")
setup(
    ext_modules=extensions(mode),
    cmdclass={"build_ext": BuildKernels},
    options={
        "build_ext": {"parallel": os.cpu_count()},
        "bdist_wheel": {"py_limited_api": "cp311" if LIMITED_API else None},
    },
)
