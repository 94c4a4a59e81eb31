"""Kernels: they fill the arrays they are given and know nothing but arrays. Use them through `ssmcore.backends`."""
