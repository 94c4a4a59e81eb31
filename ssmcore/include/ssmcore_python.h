/* libssmcore for extension modules of Python that do not link to it. C99 and C++, with or without Py_LIMITED_API. */
#ifndef SSMCORE_PYTHON_H
#define SSMCORE_PYTHON_H
#include <Python.h>
#include "ssmcore.h"

/* The library's functions, which live as long as the process. The thread holds the GIL. NULL with a Python exception where ssmcore is not
 * installed, was not built, or is not one that this module was compiled for. Call it once, where the module is initialised. */
static inline const ssmcore_functions *ssmcore_import(void) {
    const ssmcore_functions *functions = NULL;
    PyObject *capsule = NULL, *module = PyImport_ImportModule("ssmcore.capi");
    if (module) capsule = PyObject_GetAttrString(module, "functions");
    if (capsule) functions = (const ssmcore_functions *)PyCapsule_GetPointer(capsule, "ssmcore.capi.functions");
    Py_XDECREF(capsule);
    Py_XDECREF(module);
    if (functions && functions->abi != SSMCORE_ABI) {
        PyErr_Format(PyExc_ImportError, "ssmcore: expected ABI %u, for which this module was compiled, got %u; compile the module again",
                     (unsigned)SSMCORE_ABI, (unsigned)functions->abi);
        return NULL;
    }
    if (functions && functions->size < sizeof(ssmcore_functions)) {
        PyErr_Format(PyExc_ImportError, "ssmcore: expected functions of %zu bytes, got %zu, of version %s; install a newer ssmcore",
                     sizeof(ssmcore_functions), functions->size, functions->version());
        return NULL;
    }
    return functions;
}
#endif
