"""Which modules stand in for which packages, and putting them in and out of sys.modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Contents = dict[str, dict[str, Any]]


def _mamba_ssm() -> Contents:
    from . import _mamba2, _mamba_simple, _norms, _scan_interface, _steps
    from ._chunk_scan import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined

    scans = {name: getattr(_scan_interface, name) for name in _scan_interface.__all__}
    norms = {
        "RMSNorm": _norms.RMSNorm,
        "layer_norm_fn": _norms.layer_norm_fn,
        "rms_norm_fn": _norms.rms_norm_fn,
    }
    gated = {
        "LayerNorm": _norms.GatedLayerNorm,
        "RMSNorm": _norms.GatedRMSNorm,
        "layernorm_fn": _norms.layernorm_fn,
        "rmsnorm_fn": _norms.rmsnorm_fn,
    }
    return {
        "mamba_ssm": {
            "Mamba": _mamba_simple.Mamba,
            "Mamba2": _mamba2.Mamba2,
            "selective_scan_fn": scans["selective_scan_fn"],
            "mamba_inner_fn": scans["mamba_inner_fn"],
        },
        "mamba_ssm.modules": {},
        "mamba_ssm.modules.mamba_simple": {"Mamba": _mamba_simple.Mamba},
        "mamba_ssm.modules.mamba2": {"Mamba2": _mamba2.Mamba2},
        "mamba_ssm.ops": {},
        "mamba_ssm.ops.selective_scan_interface": scans,
        "mamba_ssm.ops.triton": {},
        "mamba_ssm.ops.triton.layer_norm": norms,
        "mamba_ssm.ops.triton.layernorm": norms,
        "mamba_ssm.ops.triton.layernorm_gated": gated,
        "mamba_ssm.ops.triton.selective_state_update": {"selective_state_update": _steps.selective_state_update},
        "mamba_ssm.ops.triton.ssd_combined": {
            "mamba_chunk_scan_combined": mamba_chunk_scan_combined,
            "mamba_split_conv1d_scan_combined": mamba_split_conv1d_scan_combined,
        },
        "mamba_ssm.utils": {},
        "mamba_ssm.utils.generation": {"InferenceParams": _mamba_simple.InferenceParams},
    }


def _causal_conv1d() -> Contents:
    from . import _steps

    functions = {
        "causal_conv1d_fn": _steps.causal_conv1d_fn,
        "causal_conv1d_ref": _steps.causal_conv1d_ref,
        "causal_conv1d_update": _steps.causal_conv1d_update,
    }
    public = {name: functions[name] for name in ("causal_conv1d_fn", "causal_conv1d_update")}
    return {"causal_conv1d": public, "causal_conv1d.causal_conv1d_interface": functions}


def _scan_extension(name: str, forward: str, backward: str) -> Callable[[], Contents]:
    def contents() -> Contents:
        from . import _vmamba

        return {name: {"fwd": getattr(_vmamba, forward), "bwd": getattr(_vmamba, backward)}}

    return contents


def _csms6s() -> Contents:
    from . import _vmamba

    return {"csms6s": {name: getattr(_vmamba, name) for name in _vmamba.CSMS6S}}


def _csm_triton() -> Contents:
    from . import _vmamba

    return {"csm_triton": {name: getattr(_vmamba, name) for name in _vmamba.CSM_TRITON}}


# the release whose interface each package has; VMamba's modules have none
_PACKAGES: dict[str, tuple[str, Callable[[], Contents]]] = {
    "mamba_ssm": ("2.2.4", _mamba_ssm),
    "causal_conv1d": ("1.5.0", _causal_conv1d),
    "selective_scan_cuda": ("2.2.4", _scan_extension("selective_scan_cuda", "mamba_fwd", "mamba_bwd")),
    "selective_scan_cuda_core": ("0.0.2", _scan_extension("selective_scan_cuda_core", "core_fwd", "core_bwd")),
    "selective_scan_cuda_oflex": ("0.0.2", _scan_extension("selective_scan_cuda_oflex", "oflex_fwd", "core_bwd")),
    "selective_scan_cuda_ndstate": (
        "0.0.2",
        _scan_extension("selective_scan_cuda_ndstate", "ndstate_fwd", "ndstate_bwd"),
    ),
    "csms6s": ("0.0.2", _csms6s),
    "csm_triton": ("0.0.2", _csm_triton),
}

_ours: dict[str, ModuleType] = {}
_displaced: dict[str, ModuleType] = {}


@dataclass(frozen=True)
class Installation:
    """What `install` did: packages that ssmcore now stands in for, and others with the reason why they were left alone."""

    installed: tuple[str, ...]
    left_alone: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [f"{name}: ssmcore stands in" for name in self.installed]
        return "\n".join(lines + [f"{name}: left alone, {reason}" for name, reason in self.left_alone])


def _is_ours(package: str) -> bool:
    return package in _ours and sys.modules.get(package) is _ours[package]


def _real(package: str) -> str | None:
    """Where a package that is not ours lies, or None where there is none."""
    module = sys.modules.get(package)
    if module is not None and not _is_ours(package):
        return getattr(module, "__file__", None) or "already imported"
    if package in sys.modules:
        return None
    spec = importlib.util.find_spec(package)
    return None if spec is None else spec.origin or "a namespace package"


def _module(name: str, names: dict[str, Any], version: str, *, is_package: bool) -> ModuleType:
    module = ModuleType(name, f"ssmcore in the place of {name}.")
    module.__spec__ = ModuleSpec(name, None, origin="ssmcore.compat", is_package=is_package)
    module.__package__ = name if is_package else name.rpartition(".")[0]
    if is_package:
        module.__path__ = []
    module.__dict__.update(names, __version__=f"{version}+ssmcore", __all__=sorted(names))
    return module


def _put(package: str) -> None:
    version, contents_of = _PACKAGES[package]
    contents = contents_of()  # before anything changes: its imports may fail
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        _displaced[name] = sys.modules.pop(name)
    for name, names in contents.items():
        is_package = any(other.startswith(f"{name}.") for other in contents)
        _ours[name] = sys.modules[name] = _module(name, names, version, is_package=is_package)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(_ours[parent], child, _ours[name])


def install(*, force: bool = False) -> Installation:
    """Registers modules of the names of mamba_ssm, causal_conv1d and VMamba's extensions, for those of them that are not installed.

    Parameters
    ----------
    force : bool
        Also stand in for packages that are installed; `uninstall` puts them back. Import theirs after this call.

    Returns
    -------
    Installation
        What was put in and what was left alone, with reasons. Calling again changes nothing.

    Source: the interfaces of state-spaces' mamba, Dao-AILab's causal-conv1d, VMamba and SegMamba.

    Examples
    --------
    >>> import ssmcore.compat
    >>> report = ssmcore.compat.install()
    >>> len(report.installed) + len(report.left_alone)
    8
    >>> ssmcore.compat.uninstall()
    """
    installed, left_alone = [], []
    for package in _PACKAGES:
        if _is_ours(package):
            left_alone.append((package, "ssmcore stands in already"))
            continue
        where = _real(package)
        if where is not None and not force:
            left_alone.append((package, f"it is installed ({where}); pass force=True to replace it"))
            continue
        _put(package)
        installed.append(package)
    return Installation(tuple(installed), tuple(left_alone))


def uninstall() -> None:
    """Takes ssmcore's modules out of sys.modules, and puts back those that `install(force=True)` displaced. What was imported stays."""
    for name, module in _ours.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
    _ours.clear()
    for name, module in _displaced.items():
        sys.modules.setdefault(name, module)
    _displaced.clear()
