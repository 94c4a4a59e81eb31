"""Modules that stand in for packages, put into sys.modules and taken out."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_NORMS = "_norms: RMSNorm layer_norm_fn rms_norm_fn"
_STEPS = "_steps: causal_conv1d_fn causal_conv1d_update"
_SCANS = (
    "_scan_interface: bimamba_inner_fn mamba_inner_fn mamba_inner_fn_no_out_proj mamba_inner_ref selective_scan_fn "
    "selective_scan_ref"
)

# The release whose interface each package has (VMamba's modules have none), and the names in its modules. A name that differs
# here stands behind "=".
_PACKAGES: dict[str, tuple[str, dict[str, str]]] = {
    "mamba_ssm": (
        "2.2.4",
        {
            "mamba_ssm": "_mamba_simple: Mamba; _mamba2: Mamba2; _scan_interface: selective_scan_fn mamba_inner_fn",
            "mamba_ssm.modules": "",
            "mamba_ssm.modules.mamba_simple": "_mamba_simple: Mamba",
            "mamba_ssm.modules.mamba2": "_mamba2: Mamba2",
            "mamba_ssm.ops": "",
            "mamba_ssm.ops.selective_scan_interface": _SCANS,
            "mamba_ssm.ops.triton": "",
            "mamba_ssm.ops.triton.layer_norm": _NORMS,
            "mamba_ssm.ops.triton.layernorm": _NORMS,
            "mamba_ssm.ops.triton.layernorm_gated": "_norms: LayerNorm=GatedLayerNorm RMSNorm=GatedRMSNorm "
            "layernorm_fn rmsnorm_fn",
            "mamba_ssm.ops.triton.selective_state_update": "_steps: selective_state_update",
            "mamba_ssm.ops.triton.ssd_combined": "_chunk_scan: mamba_chunk_scan_combined mamba_split_conv1d_scan_combined",
            "mamba_ssm.utils": "",
            "mamba_ssm.utils.generation": "_mamba_simple: InferenceParams",
        },
    ),
    "causal_conv1d": (
        "1.5.0",
        {"causal_conv1d": _STEPS, "causal_conv1d.causal_conv1d_interface": f"{_STEPS} causal_conv1d_ref"},
    ),
    "selective_scan_cuda": ("2.2.4", {"selective_scan_cuda": "_vmamba: fwd=mamba_fwd bwd=mamba_bwd"}),
    "selective_scan_cuda_core": ("0.0.2", {"selective_scan_cuda_core": "_vmamba: fwd=core_fwd bwd=core_bwd"}),
    "selective_scan_cuda_oflex": ("0.0.2", {"selective_scan_cuda_oflex": "_vmamba: fwd=oflex_fwd bwd=core_bwd"}),
    "selective_scan_cuda_ndstate": (
        "0.0.2",
        {"selective_scan_cuda_ndstate": "_vmamba: fwd=ndstate_fwd bwd=ndstate_bwd"},
    ),
    "csms6s": (
        "0.0.2",
        {
            "csms6s": "_vmamba: CrossMerge CrossMerge_Ab_1direction CrossMerge_Ab_2direction CrossScan "
            "CrossScan_Ab_1direction CrossScan_Ab_2direction SelectiveScanCore SelectiveScanMamba SelectiveScanOflex "
            "flops_selective_scan_fn selective_scan_flop_jit selective_scan_fn selective_scan_torch"
        },
    ),
    "csm_triton": (
        "0.0.2",
        {"csm_triton": "_vmamba: CrossMergeTriton CrossScanTriton CrossScanTriton1b1 cross_merge_fn cross_scan_fn"},
    ),
}


def _contents(sources: str) -> dict[str, Any]:
    """The objects that a row of the table names."""
    found = {}
    for source in filter(None, sources.split("; ")):
        file, names = source.split(": ")
        module = importlib.import_module(f".{file}", __package__)
        for name in names.split():
            public, _, here = name.partition("=")
            found[public] = getattr(module, here or public)
    return found


_ours: dict[str, ModuleType] = {}
_displaced: dict[str, ModuleType] = {}


@dataclass(frozen=True)
class Installation:
    """What `install` did: packages that ssmcore stands in for, and packages left alone with the reason."""

    installed: tuple[str, ...]
    left_alone: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [f"{name}: ssmcore stands in" for name in self.installed]
        return "\n".join(lines + [f"{name}: left alone, {reason}" for name, reason in self.left_alone])


def _is_ours(package: str) -> bool:
    return package in _ours and sys.modules.get(package) is _ours[package]


def _real(package: str) -> str | None:
    """The file of an installed package that is not ours, or None."""
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
    version, table = _PACKAGES[package]
    contents = {name: _contents(sources) for name, sources in table.items()}  # before any change: imports may fail
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        _displaced[name] = sys.modules.pop(name)
    for name, names in contents.items():
        is_package = any(other.startswith(f"{name}.") for other in contents)
        _ours[name] = sys.modules[name] = _module(name, names, version, is_package=is_package)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(_ours[parent], child, _ours[name])


def install(*, force: bool = False) -> Installation:
    """Registers modules named mamba_ssm, causal_conv1d and as VMamba's extensions, unless these are installed.

    Parameters
    ----------
    force : bool
        Also replace installed packages; `uninstall` puts them back. Import from them after this call.

    Returns
    -------
    Installation
        Packages replaced, and packages left alone with the reason. A second call changes nothing.

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
    """Takes ssmcore's modules out of sys.modules and puts displaced packages back. Names imported before stay as they are."""
    for name, module in _ours.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
    _ours.clear()
    for name, module in _displaced.items():
        sys.modules.setdefault(name, module)
    _displaced.clear()
