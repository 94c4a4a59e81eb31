"""Builds scanmodule.pyx: `python setup.py build_ext --inplace`."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import ssmcore

setup(
    name="scanmodule",
    ext_modules=cythonize(
        [Extension("scanmodule", ["scanmodule.pyx"], include_dirs=[ssmcore.get_include()])], quiet=True
    ),
)
