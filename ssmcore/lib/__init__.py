"""The library of all kernels, which the build puts here."""
