"""Where the C library and its header lie, for programs outside Python."""

from __future__ import annotations

import sys
from pathlib import Path

_FILES = {"linux": "libssmcore.so.1", "darwin": "libssmcore.1.dylib", "win32": "ssmcore-1.dll"}


def get_include() -> str:
    """The folder of the C headers, ssmcore.h and ssmcore_python.h, for a compiler.

    Returns
    -------
    str
        An absolute path. The folder is there whether or not the library was built.

    Examples
    --------
    >>> import os, ssmcore
    >>> sorted(os.listdir(ssmcore.get_include()))
    ['ssmcore.h', 'ssmcore_python.h']
    """
    return str(Path(__file__).resolve().parent / "include")


def get_library() -> str:
    """The file of the C library, for a linker, or for ctypes and its like.

    The files of CMake and pkg-config lie beside it, in the folders cmake and pkgconfig.

    Returns
    -------
    str
        An absolute path.

    Raises
    ------
    FileNotFoundError
        The library was not built.

    Examples
    --------
    >>> import ctypes, ssmcore
    >>> ctypes.CDLL(ssmcore.get_library()).ssmcore_abi()
    1
    """
    root = Path(__file__).resolve().parent
    path = root / "lib" / _FILES.get(sys.platform, _FILES["linux"])
    if not path.exists():
        checkout = (root.parent / "setup.py").exists()
        remedy = "run `make build`" if checkout else "install a C compiler and reinstall with SSMCORE_BUILD=require"
        raise FileNotFoundError(
            f"get_library: expected the C library at {path}, found none: it was not built; {remedy}"
        )
    return str(path)
