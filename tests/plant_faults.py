"""Plants one fault at a time in a copy of the checkout and fails unless the tests meant to notice turn red.

Run it by hand (some minutes, it compiles): python tests/plant_faults.py [words of the names to run]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCAN_C = "ssmcore/_kernels/selective_scan_impl.h"
CHUNK_C = "ssmcore/_kernels/chunk_scan_impl.h"
SCAN_NUMBA = "ssmcore/_kernels/selective_scan_numba.py"
REFERENCE = "ssmcore/backends/numpy_.py"
MIXERS = "ssmcore/compat/_mixers.py"
PATCH = "ssmcore/compat/transformers.py"
CONFORMANCE = "tests/ssmcore/test_conformance.py -k equal_the_reference"


@dataclass(frozen=True)
class Fault:
    """The first `old` in `file` becomes `new`; `tests` must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    build: bool = False


FAULTS = [
    Fault(
        "reference: last step skipped",
        REFERENCE,
        "for t in range(seqlen):",
        "for t in range(seqlen - 1):",
        "tests/ssmcore/test_reference.py",
    ),
    Fault(
        "reference: gradient term dropped",
        REFERENCE,
        "(slope * h[:, t] + gain_slope * step * entering)",
        "(slope * h[:, t])",
        "tests/ssmcore/test_reference.py",
    ),
    Fault(
        "C kernel: last step skipped",
        SCAN_C,
        "for (int64_t t = 0; t < steps; t++) {\n        NAME(fetch)(ahead, t);",
        "for (int64_t t = 0; t < steps - 1; t++) {\n        NAME(fetch)(ahead, t);",
        f"{CONFORMANCE}",
        build=True,
    ),
    Fault(
        "C kernel: gradient term dropped",
        SCAN_C,
        "d->ddt[t] += sum_A + u * sum_B;",
        "d->ddt[t] += u * sum_B;",
        f"{CONFORMANCE}",
        build=True,
    ),
    Fault(
        "C kernel: a direction walked twice",
        "ssmcore/_kernels/lanes.h",
        "if (!(direction & SSMCORE_COLUMNS)) {",
        "if (direction != SSMCORE_COLUMNS) {",
        f"{CONFORMANCE}",
        build=True,
    ),
    Fault(
        "walks of a grid: columns backwards go by rows",
        "ssmcore/_conventions.py",
        "    if direction % 2:\n        x = x.swapaxes(1, 2)",
        "    if direction == 1:\n        x = x.swapaxes(1, 2)",
        "tests/ssmcore/test_laws.py -k grid",
    ),
    Fault(
        "C kernel: wrong group",
        SCAN_C,
        "unit.g = index / nblocks % s->ngroups;",
        "unit.g = index / nblocks % s->ngroups; if (s->ngroups > 1) unit.g ^= 1;",
        f"{CONFORMANCE}",
        build=True,
    ),
    Fault(
        "C kernel: sums of a unit leave out its later batch entries",
        SCAN_C,
        "b < unit->b1; b++) NAME(bwd_entry)",
        "b < unit->b0 + 1; b++) NAME(bwd_entry)",
        f"{CONFORMANCE}",
        build=True,
    ),
    Fault(
        "C kernel: a weight of the grid convolution without gradient",
        "ssmcore/_kernels/depthwise_conv2d_impl.h",
        "for (int k = 0; k < 9; k++) dweight[k] +=",
        "for (int k = 0; k < 8; k++) dweight[k] +=",
        f"{CONFORMANCE}",
        build=True,
    ),
    Fault(
        "C kernel: the gate's gradient forgets its statistics of phi",
        "ssmcore/_kernels/attention_gate_impl.h",
        "+ (k[GATE_CONSTANT_PHI] + k[GATE_SLOPE_PHI] * (p - k[GATE_MEAN_PHI]))",
        "+ k[GATE_CONSTANT_PHI]",
        f"{CONFORMANCE}",
        build=True,
    ),
    Fault(
        "gate: the variances of strips joined without the distances of their means",
        "ssmcore/backends/_compiled.py",
        "squares.sum(axis=0) / counts.sum() + (share * (means - mean) ** 2).sum(axis=0)",
        "squares.sum(axis=0) / counts.sum()",
        f"{CONFORMANCE}",
    ),
    Fault(
        "numba kernel: gradient term dropped",
        SCAN_NUMBA,
        "dx[i] = dh[i] * before[i] + g[i] * dtu[i] * _entry(b, i) * dphi",
        "dx[i] = dh[i] * before[i]",
        f"{CONFORMANCE}",
    ),
    Fault(
        "numba kernel: last step skipped",
        SCAN_NUMBA,
        "for t in range(seqlen):",
        "for t in range(seqlen - 1):",
        f"{CONFORMANCE}",
    ),
    Fault(
        "numba kernel: other documentation than its twin",
        SCAN_NUMBA,
        "Fills the gradients.",
        "Fills some gradients.",
        "tests/ssmcore/test_conformance.py -k twins",
    ),
    Fault(
        "torch: gradient of the last state dropped",
        "ssmcore/torch/_selective_scan.py",
        "        dlast_state,\n        *arguments,",
        "        None,\n        *arguments,",
        "tests/ssmcore/test_torch.py -k gradcheck",
    ),
    Fault(
        "forbidden import: ssmcore loads torch",
        "ssmcore/backends/__init__.py",
        "import warnings\n",
        "import warnings\nimport torch\n",
        "tests/test_floors.py",
    ),
    Fault(
        "forbidden import: a backend imports an operation",
        "ssmcore/backends/_threads.py",
        "import sys\n",
        "import sys\n\nfrom ..ops import SPECS\n",
        "tests/test_floors.py",
    ),
    Fault(
        "silent fallback: a named backend that cannot run is passed over",
        "ssmcore/backends/__init__.py",
        "        if reason is not None:\n            raise BackendError(",
        "        if reason is not None:\n            continue\n            raise BackendError(",
        "tests/ssmcore/test_backends.py",
    ),
    Fault(
        "attention computed and not used",
        "segnet/models/ahnet.py",
        "return (self.gate(x_up, t), t) if",
        "return (x_up, t) if",
        "tests/segnet/models",
    ),
    Fault(
        "VM layer: first norm used twice",
        "segnet/models/mamba.py",
        "self.projection(self.second_norm(m))",
        "self.projection(self.norm(m))",
        "tests/segnet/models",
    ),
    Fault(
        "SS2D: another direction's matrices",
        "segnet/models/mamba.py",
        "-torch.exp(self.A_log),",
        "-torch.exp(self.A_log).flip(0),",
        "tests/segnet/models",
    ),
    Fault(
        "mask written in another orientation",
        "segnet/data/nifti.py",
        "_orientations.ornt_transform(identity, like.orientation)",
        "_orientations.ornt_transform(identity, identity)",
        "tests/segnet/data/test_nifti.py",
    ),
    Fault(
        "a patient in two parts of the split",
        "segnet/training/loop.py",
        "e.case for e in entries if e.patient in set(members)",
        "e.case for e in entries if e.patient in set(members) or part == 'test'",
        "tests/segnet/training",
    ),
    Fault(
        "several slices: the mask of another than the middle one",
        "segnet/data/dataset.py",
        "masks[:, self.slices // 2]",
        "masks[:, 0]",
        "tests/segnet/data/test_dataset.py",
    ),
    Fault(
        "views of a slice are not turned back",
        "segnet/inference.py",
        "if view[1] else x, -view[0], (2, 3))",
        "if view[1] else x, view[0], (2, 3))",
        "tests/segnet/test_inference.py",
    ),
    Fault(
        "probabilities resampled by windows of whole pixels",
        "segnet/inference.py",
        'mode="bilinear", align_corners=False, antialias=smaller)',
        'mode="area")',
        "tests/segnet/test_inference.py",
    ),
    Fault(
        "deviation: a difference of squares too many",
        "segnet/inference.py",
        "((number - 1) / number)",
        "1.0",
        "tests/segnet/test_inference.py -k deviation",
    ),
    Fault(
        "engine: a norm folded through a ReLU in place",
        "segnet/engine.py",
        "made[2] == inputs[0]._version and ",
        "",
        "tests/segnet/test_engine.py -k others",
    ),
    Fault(
        "engine: a convolution folded whose result goes elsewhere too",
        "segnet/engine.py",
        "kept = bool(",
        "kept = True or bool(",
        "tests/segnet/test_engine.py -k others",
    ),
    Fault(
        "engine: weights cast to bfloat16 at every call",
        "segnet/engine.py",
        "for name in stored:",
        "for name in []:",
        "tests/segnet/test_engine.py -k cast",
    ),
    Fault(
        "bfloat16: used whatever the check finds",
        "segnet/precision.py",
        "if not difference.tolerable:",
        "if False:",
        "tests/segnet/test_precision.py",
    ),
    Fault(
        "ensemble: members of other fields of view",
        "segnet/ensemble.py",
        "if value != values[0]:",
        "if False:",
        "tests/segnet/test_ensemble.py -k patches",
    ),
    Fault(
        "click: LPS read as RAS",
        "segnet/clicks.py",
        "        point[:2] *= -1\n",
        "        pass\n",
        "tests/segnet/test_predict.py",
    ),
    Fault(
        "clicks: numbered by line whatever their column says",
        "segnet/clicks.py",
        'if "lesion" not in header:',
        "if True:",
        "tests/segnet/test_clicks.py",
    ),
    Fault(
        "volume of interest: neighbouring slices beyond it not shown",
        "segnet/predict.py",
        "widened(box, (config.model.in_channels // 2, reach, reach), shape)",
        "widened(box, (0, reach, reach), shape)",
        "tests/segnet/test_voi.py",
    ),
    Fault(
        "volume of interest: every slice computed",
        "segnet/predict.py",
        '"at": range(inner[0].start, inner[0].stop),',
        '"at": None,',
        "tests/segnet/test_voi.py",
    ),
    Fault(
        "padding: one face never looked at",
        "segnet/data/padding.py",
        "count - run(range(count - 1, -1, -1)))",
        "count)",
        "tests/segnet/data/test_padding.py",
    ),
    Fault(
        "batch: a sidecar before its files",
        "segnet/batch.py",
        "            write_found(volume, found, files, window_hu=config.data.window_hu)\n",
        '            result.sidecar.write_text(\'{"format": "segnet-prediction/1", "made_from": {}, "outputs": {}}\')\n'
        "            claim.end()\n"
        "            write_found(volume, found, files, window_hu=config.data.window_hu)\n",
        "tests/segnet/test_batch.py -k before_any_change",
    ),
    Fault(
        "batch: files written before they are claimed",
        "segnet/batch.py",
        "            claim.begin(result)\n",
        "",
        "tests/segnet/test_batch.py -k before_any_change",
    ),
    Fault(
        "batch: leftovers of a killed process stay",
        "segnet/results.py",
        "        leftover.unlink(missing_ok=True)",
        "        pass",
        "tests/segnet/test_batch.py -k before_any_change",
    ),
    Fault(
        "batch: another image under the same name is not noticed",
        "segnet/batch.py",
        'made_from["image_sha256"] = image_sha256',
        'made_from["image_sha256"] = ""',
        "tests/segnet/test_batch.py -k something_else",
    ),
    Fault(
        "batch: a mask changed by hand replaced",
        "segnet/results.py",
        "if path.exists() and sha256_of(path) != sha256:",
        "if False:",
        "tests/segnet/test_batch.py -k edited",
    ),
    Fault(
        "container: the file's direction ignored",
        "segnet/uls23.py",
        "to_canonical = _orientations.io_orientation(affine)",
        "to_canonical = _orientations.io_orientation(np.eye(4))",
        "tests/segnet/test_uls23.py -k as_in_training",
    ),
    Fault(
        "container: the centre counted along turned axes",
        "segnet/uls23.py",
        "np.argwhere(_orientations.apply_orientation(at_centre, to_canonical))",
        "np.argwhere(at_centre)",
        "tests/segnet/test_uls23.py -k whatever_they_point_at",
    ),
    Fault(
        "model card: the last validation called the best",
        "segnet/report/model_card.py",
        'max(found, key=lambda row: float(row["val_dice"]))',
        "found[-1]",
        "tests/segnet/report/test_model_card.py",
    ),
    Fault(
        "reference: a public name left out",
        "docs/reference/gate.md",
        "::: ssmcore.gate_crop\n",
        "",
        "tests/test_docs.py -k every_public_name_once",
    ),
    Fault(
        "site: the reference's entries without headings",
        ".mkdocs.yml",
        "show_root_heading: true",
        "show_root_heading: false",
        "tests/test_docs.py -k with_its_text",
    ),
    Fault(
        "site: a link to a section that is not there",
        "docs/index.md",
        "(performance.md)",
        "(performance.md#elsewhere)",
        "tests/test_docs.py -k derivations",
    ),
    Fault(
        "site: a source listed as an exception",
        "docs/docstrings.py",
        '("Source", SOURCE)',
        '("Source", "no such line")',
        "tests/test_docs.py -k render",
    ),
    Fault(
        "site: a derivation left out",
        "docs/hooks.py",
        "ssmcore/ops/*.md",
        "ssmcore/ops/[!g]*.md",
        "tests/test_docs.py -k has_the_derivations",
    ),
    Fault(
        "site: fonts fetched from elsewhere",
        ".mkdocs.yml",
        "font: false",
        "font: {text: Roboto}",
        "tests/test_docs.py -k from_elsewhere",
    ),
    Fault(
        "docs: an example that does not hold",
        "docs/choosing.md",
        "np.full_like(u, 0.05)",
        "np.full_like(u, 0.06)",
        "tests/test_docs.py -k examples_of_a_page",
    ),
    Fault(
        "docs: a figure that was not measured",
        "docs/choosing.md",
        "| 0.120 | 0.137 |",
        "| 0.101 | 0.137 |",
        "tests/test_docs.py -k figures",
    ),
    Fault(
        "example: another name of its entry point",
        "docs/examples/own_backend/pyproject.toml",
        'scipy = "scipy_backend"',
        'scypi = "scipy_backend"',
        "tests/test_examples.py -k listed",
    ),
    Fault(
        "example: the past in the wrong order",
        "docs/examples/own_backend/scipy_backend.py",
        "initial_states.swapaxes(1, 2)",
        "initial_states.swapaxes(1, 2)[:, ::-1]",
        "tests/test_examples.py -k reference",
    ),
    Fault(
        "example: a lacking operation is passed over",
        "ssmcore/backends/__init__.py",
        "    if missing:\n",
        "    if missing and name in BUILTIN:\n",
        "tests/test_examples.py -k lacks",
    ),
    Fault(
        "example: no limits",
        "docs/examples/own_backend/scipy_backend.py",
        'find_spec("scipy") is None',
        "False",
        "tests/test_examples.py -k limits",
    ),
    Fault(
        "example: the page says another",
        "docs/backend.md",
        "it has no selective_scan_fwd",
        "it has no selective_scan",
        "tests/test_examples.py -k session",
    ),
    Fault(
        "example: the page shows other code",
        "docs/backend.md",
        "dout = dout * gate * (1 + y * (1 - gate))",
        "dout = dout * gate",
        "tests/test_examples.py -k shows",
    ),
    Fault(
        "example: installed with ssmcore",
        "pyproject.toml",
        'include = ["ssmcore*", "segnet*"]',
        'include = ["ssmcore*", "segnet*", "docs*"]',
        "tests/test_examples.py -k not_installed",
    ),
    Fault(
        "transformers: prompts: no bias of the step size",
        MIXERS,
        "            delta_bias,\n            delta_softplus,\n            True,",
        "            None,\n            delta_softplus,\n            True,",
        "tests/ssmcore/test_transformers.py -k logits_of_a_prompt",
    ),
    Fault(
        "transformers: float64 scanned in float32",
        MIXERS,
        "return x.to(torch.promote_types(x.dtype, torch.float32))",
        "return x.to(torch.float32)",
        "tests/ssmcore/test_transformers.py -k computed_in_float64",
    ),
    Fault(
        "transformers: steps leave the state as it was",
        MIXERS,
        "y = ops.selective_state_update(state, ",
        "y = ops.selective_state_update(state.clone(), ",
        "tests/ssmcore/test_transformers.py -k generated_tokens",
    ),
    Fault(
        "transformers: steps leave the convolution's window as it was",
        MIXERS,
        "    conv_state.copy_(known)\n",
        "",
        "tests/ssmcore/test_transformers.py -k steps_with_a_cache",
    ),
    Fault(
        "transformers: bfloat16 models keep bfloat16 states",
        MIXERS,
        "_wide(hidden_states).transpose(1, 2)",
        "hidden_states.transpose(1, 2)",
        "tests/ssmcore/test_transformers.py -k steps_with_a_cache",
    ),
    Fault(
        "transformers: steps under autograd leave the state as it was",
        MIXERS,
        "        state.copy_(last)\n",
        "",
        "tests/ssmcore/test_transformers.py -k gradients_of_steps",
    ),
    Fault(
        "transformers: no gradient through the gate",
        MIXERS,
        "None if z is None else z.transpose(1, 2)",
        "None if z is None else z.detach().transpose(1, 2)",
        "tests/ssmcore/test_transformers.py -k gradients_of_all_parameters",
    ),
    Fault(
        "transformers: no gradient through the state",
        MIXERS,
        "before = state.clone()",
        "before = state.detach().clone()",
        "tests/ssmcore/test_transformers.py -k gradients_of_steps",
    ),
    Fault(
        "transformers: a compiler has to break its graph",
        MIXERS,
        "            x = hidden_states.transpose(1, 2)\n",
        "            torch._dynamo.graph_break()\n            x = hidden_states.transpose(1, 2)\n",
        "tests/ssmcore/test_transformers.py -k compiled_model",
    ),
    Fault(
        "transformers: tensors elsewhere are taken for the CPU's",
        MIXERS,
        'x.device.type == "cpu" and all',
        "all",
        "tests/ssmcore/test_transformers.py -k elsewhere",
    ),
    Fault(
        "transformers: packed sequences are taken for one",
        MIXERS,
        'x.device.type == "cpu" and all(value is None for value in others.values())',
        'x.device.type == "cpu"',
        "tests/ssmcore/test_transformers.py -k packed",
    ),
    Fault(
        "transformers: any activation is taken for SiLU",
        MIXERS,
        "        if activation in _ACTIVATIONS and hidden_states.shape",
        "        if hidden_states.shape",
        "tests/ssmcore/test_transformers.py -k activation",
    ),
    Fault(
        "transformers: patching does nothing",
        PATCH,
        "            setattr(module, function, replacement)\n",
        "            pass\n",
        "tests/ssmcore/test_transformers.py -k calls_our_functions",
    ),
    Fault(
        "transformers: patching twice forgets the originals",
        PATCH,
        "for name in names if name not in _originals",
        "for name in names",
        "tests/ssmcore/test_transformers.py -k same_objects",
    ),
    Fault(
        "transformers: unpatching forgets a function",
        PATCH,
        "for function, original in _originals.pop(name).items():",
        "for function, original in list(_originals.pop(name).items())[1:]:",
        "tests/ssmcore/test_transformers.py -k same_objects",
    ),
    Fault(
        "transformers: another signature is let through",
        PATCH,
        "if got[: len(wanted)] != wanted:",
        "if not got:",
        "tests/ssmcore/test_transformers.py -k another_version",
    ),
    Fault(
        "transformers: another forward is let through",
        PATCH,
        '            raise refuse(f"{MIXERS[name]}.forward',
        '            continue\n            raise refuse(f"{MIXERS[name]}.forward',
        "tests/ssmcore/test_transformers.py -k another_version",
    ),
    Fault(
        "transformers: a missing package is not named",
        PATCH,
        "except ModuleNotFoundError as error",
        "except ZeroDivisionError as error",
        "tests/ssmcore/test_transformers.py -k not_installed",
    ),
    Fault(
        "transformers: an unknown model is let through",
        PATCH,
        "    for name in names:\n        check_option",
        "    for name in ():\n        check_option",
        "tests/ssmcore/test_transformers.py -k unknown_model",
    ),
    Fault(
        "transformers: the state does not weigh in the tests",
        "tests/ssmcore/test_transformers.py",
        "/ parameter.shape[-1] ** 0.5)",
        "* (0.01 if 'x_proj' in key else 0.2))",
        "tests/ssmcore/test_transformers.py -k weighs",
    ),
    Fault(
        "drop-ins: torch loaded before it is asked for",
        PATCH,
        "import inspect\n",
        "import inspect\n\nimport torch\n",
        "tests/test_floors.py -k drop_ins",
    ),
    Fault(
        "chunk scan, C kernel: a step of the diagonal left out",
        CHUNK_C,
        "NAME(add_step)(wide, 3, 3, sums, &f, i, i + 3, v);",
        "",
        "tests/ssmcore/test_conformance.py -k chunk_scan",
        build=True,
    ),
    Fault(
        "chunk scan, C kernel: above the diagonal multiplied by 0",
        CHUNK_C,
        "NAME(add_step)(wide, 3, 3, sums, &f, i, i + 3, v);",
        "NAME(add_step)(wide, 0, 3, sums, &f, i, i + 3, v);",
        "tests/ssmcore/test_chunk_scan.py -k not_finite",
        build=True,
    ),
    Fault(
        "chunk scan, C kernel: what came before a sequence leaks into it",
        CHUNK_C,
        "if (fresh) d->since[t + i] = 0;",
        "",
        "tests/ssmcore/test_chunk_scan.py -k packed",
        build=True,
    ),
    Fault(
        "chunk scan, C kernel: gradient of the decays across a step dropped",
        CHUNK_C,
        "dlog[t] = out_of_earlier + across[t];",
        "dlog[t] = out_of_earlier;",
        "tests/ssmcore/test_conformance.py -k chunk_scan",
        build=True,
    ),
    Fault(
        "chunk scan, C kernel: logarithms kept in single precision",
        CHUNK_C,
        "d->low[t] = (REAL)(total - d->high[t]);",
        "d->low[t] = 0;",
        "tests/ssmcore/test_chunk_scan.py -k thousand",
        build=True,
    ),
    Fault(
        "chunk scan, numba: gradient of the decay dropped",
        "ssmcore/_kernels/chunk_scan_numba.py",
        "dlog += through_h",
        "dlog += 0 * through_h",
        "tests/ssmcore/test_conformance.py -k chunk_scan",
    ),
    Fault(
        "chunk scan, reference: gradient of the decay dropped",
        REFERENCE,
        "ddt[:, t] = dlog * A + (through_B",
        "ddt[:, t] = (through_B",
        "tests/ssmcore/test_chunk_scan.py -k complex_step",
    ),
    Fault(
        "chunk scan: a clamped step has a gradient",
        "ssmcore/ops/chunk_scan.py",
        "ddt = ddt * ((prepared.soft >= low) & (prepared.soft <= high))",
        "",
        "tests/ssmcore/test_chunk_scan.py -k clamped",
    ),
    Fault(
        "chunk scan, torch: gradient of the last states dropped",
        "ssmcore/torch/_chunk_scan.py",
        "grads = _chunk_bwd(dout, dfinal_states, *arguments, states)",
        "grads = _chunk_bwd(dout, None, *arguments, states)",
        "tests/ssmcore/test_torch.py -k chunk",
    ),
    Fault(
        "linear recurrence, C kernel: a part of the imaginary output left out",
        "ssmcore/_kernels/ssm_recurrence_impl.h",
        "C.real * x.imaginary + C.imaginary * x.real;",
        "C.real * x.imaginary;",
        "tests/ssmcore/test_conformance.py -k ssm_recurrence",
        build=True,
    ),
    Fault(
        "linear recurrence: the state forgotten",
        "ssmcore/backends/_compiled.py",
        "state = parts(initial_state, width, both)",
        "state = parts(0 * initial_state, width, both)",
        "tests/ssmcore/test_conformance.py -k ssm_recurrence",
    ),
    Fault(
        "complex scan: a gradient not conjugated",
        REFERENCE,
        "dh = A_bar.conj() * dh",
        "dh = A_bar * dh",
        "tests/ssmcore/test_conformance.py -k complex",
    ),
    Fault(
        "complex discretisation: a gradient not conjugated",
        REFERENCE,
        "dB_bar * gain.conj() * step, (dx",
        "dB_bar * gain * step, (dx",
        "tests/ssmcore/test_conformance.py -k complex",
    ),
    Fault(
        "S4D: one of each pair of conjugates counted once",
        "ssmcore/torch/_lti.py",
        "2 * torch.view_as_complex(self.C)",
        "torch.view_as_complex(self.C)",
        "tests/ssmcore/test_s4d.py -k selective_scan",
    ),
    Fault(
        "S4D: the step does not learn",
        "ssmcore/torch/_lti.py",
        "torch.ones_like(A), self.log_delta.exp()",
        "torch.ones_like(A), self.log_delta.detach().exp()",
        "tests/ssmcore/test_s4d.py -k learn",
    ),
    Fault(
        "steps: the express scan forgets its state",
        "ssmcore/backends/_compiled.py",
        "            state,\n            out[:, None],\n            state,",
        "            None,\n            out[:, None],\n            state,",
        "tests/ssmcore/test_updates_torch.py -k express_scan",
    ),
    Fault(
        "steps: the express convolution keeps its oldest input",
        "ssmcore/_updates.py",
        "flat[:-1] = flat[1:]",
        "flat[:-1] = flat[:-1]",
        "tests/ssmcore/test_updates_torch.py -k express_convolution",
    ),
    Fault(
        "steps: a transposed A taken as it lies",
        "ssmcore/_updates.py",
        "_packed(A, dtype, (dim, dstate))",
        "_fits(A, dtype, (dim, dstate))",
        "tests/ssmcore/test_updates_torch.py -k chunk_of_a_product",
    ),
    Fault(
        "steps: a strided state taken as it lies",
        "ssmcore/_updates.py",
        "_packed(state, dtype, (batch, dim, dstate))",
        "_fits(state, dtype, (batch, dim, dstate))",
        "tests/ssmcore/test_updates_torch.py -k strided_state",
    ),
    Fault(
        "steps: a half-precision state not written back",
        "ssmcore/torch/_updates.py",
        "if self.array.ctypes.data != self.state.data_ptr():",
        "if False:",
        "tests/ssmcore/test_updates_torch.py -k half_precision",
    ),
    Fault(
        "steps: indices of tensors ignored",
        "ssmcore/torch/_updates.py",
        "options: tuple[Any, ...] = (dt_softplus, _array(state_batch_indices))",
        "options: tuple[Any, ...] = (dt_softplus, None)",
        "tests/ssmcore/test_updates_torch.py -k those_of_numpy",
    ),
    Fault(
        "steps: plain torch uses negative indices",
        "ssmcore/torch/_updates.py",
        "used = (indices >= 0)",
        "used = (indices >= -1)",
        "tests/ssmcore/test_updates_torch.py -k plain_torch",
    ),
    Fault(
        "steps: weights rounded to float16",
        "ssmcore/_updates.py",
        "return _WIDE[int(x.dtype == np.float64)]",
        "return x.dtype",
        "tests/ssmcore/test_updates_torch.py -k float16_steps",
    ),
    Fault(
        "steps: a custom op that hides what it changes",
        "ssmcore/torch/_updates.py",
        'mutates_args=("state",)',
        "mutates_args=()",
        "tests/ssmcore/test_updates_torch.py -k opcheck",
    ),
    Fault(
        "steps: NumPy called while compiling",
        "ssmcore/torch/_updates.py",
        "if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():",
        "if torch._C._len_torch_dispatch_stack():",
        "tests/ssmcore/test_updates_torch.py -k compile",
    ),
    Fault(
        "steps: a named backend passed over",
        "ssmcore/_updates.py",
        'choice = backends.choose("selective_scan", _scan.ENTRIES, backend)',
        'choice = backends.choose("selective_scan", _scan.ENTRIES, "cython")',
        "tests/ssmcore/test_updates_torch.py -k named_backend",
    ),
    Fault(
        "steps: a lost gradient not refused",
        "ssmcore/torch/_updates.py",
        "if isinstance(x, Tensor) and x.requires_grad:",
        "if False:",
        "tests/ssmcore/test_updates_torch.py -k refusals",
    ),
    Fault(
        "steps: a gradient refused where none is recorded",
        "ssmcore/torch/_updates.py",
        '    op = "selective_state_update"\n    if torch.is_grad_enabled():',
        '    op = "selective_state_update"\n    if True:',
        "tests/ssmcore/test_updates_torch.py -k parameters_serve",
    ),
    Fault(
        "inner: a gradient term dropped",
        "ssmcore/torch/_mamba_inner.py",
        "dconvolved = dconvolved + (flat @ x_proj_weight)",
        "dconvolved = dconvolved + 0 * (flat @ x_proj_weight)",
        "tests/ssmcore/test_mamba_inner.py -k values_and_gradients",
    ),
    Fault(
        "inner: delta without gradient",
        "ssmcore/torch/_mamba_inner.py",
        "(ddelta, dB, dC), allow_unused",
        "(0 * ddelta, dB, dC), allow_unused",
        "tests/ssmcore/test_mamba_inner.py -k gradcheck",
    ),
    Fault(
        "inner: B of the caller's read channel-first",
        "ssmcore/torch/_mamba_inner.py",
        "return x.transpose(1, 2) if x.ndim == 3 else x.permute(0, 3, 1, 2)",
        "return x if x.ndim == 3 else x.permute(0, 3, 1, 2)",
        "tests/ssmcore/test_mamba_inner.py -k varying_matrices",
    ),
    Fault(
        "inner: everything kept",
        "ssmcore/torch/_mamba_inner.py",
        "if checkpoint_lvl == 1 and torch",
        "if checkpoint_lvl == 2 and torch",
        "tests/ssmcore/test_mamba_inner.py -k keeps_less",
    ),
    Fault(
        "inner: sequence-first without the last product",
        "ssmcore/torch/_mamba_inner.py",
        "        return y.transpose(1, 2)\n    return F",
        "        return y\n    return F",
        "tests/ssmcore/test_mamba_inner.py -k without_the_last",
    ),
    Fault(
        "inner: dtypes of autocast mixed",
        "ssmcore/torch/_mamba_inner.py",
        "flat = dprojected.flatten(0, 1).to(dtype)",
        "flat = dprojected.flatten(0, 1)",
        "tests/ssmcore/test_mamba_inner.py -k autocast",
    ),
    Fault(
        "inner: its own gradient while compiling",
        "ssmcore/torch/_mamba_inner.py",
        " and not torch.compiler.is_compiling():",
        ":",
        "tests/ssmcore/test_mamba_inner.py -k compiles",
    ),
    Fault(
        "inner: shapes of weights unchecked",
        "ssmcore/torch/_mamba_inner.py",
        "if x is not None and tuple(x.shape) != shape:",
        "if False:",
        "tests/ssmcore/test_mamba_inner.py -k wrong_arguments",
    ),
    Fault(
        "inner: a bias of a given B ignored",
        "ssmcore/torch/_mamba_inner.py",
        "if given is not None and not (",
        "if given is None and not (",
        "tests/ssmcore/test_mamba_inner.py -k bias_of_a_constant",
    ),
    Fault(
        "packing: only rising numbers begin a sequence",
        "ssmcore/_conventions.py",
        "seq_idx[:, 1:] != seq_idx[:, :-1]",
        "seq_idx[:, 1:] > seq_idx[:, :-1]",
        "tests/ssmcore/test_packing.py -k convolution_is_each",
    ),
    Fault(
        "packing: final states one step early",
        "ssmcore/torch/_causal_conv1d.py",
        "(positions[:, -1:] + 1 if",
        "(positions[:, -1:] if",
        "tests/ssmcore/test_packing.py -k has_the_states",
    ),
    Fault(
        "packing: NumPy's gradient of final states dropped",
        "ssmcore/ops/causal_conv1d.py",
        "dapart += dwhole[:, self.past :]",
        "dapart += 0 * dwhole[:, self.past :]",
        "tests/ssmcore/test_packing.py -k has_the_states",
    ),
    Fault(
        "packing: padding has output",
        "ssmcore/torch/_causal_conv1d.py",
        "out = torch.where(padding, out.new_zeros(()), out)",
        "out = out + 0",
        "tests/ssmcore/test_packing.py -k padding",
    ),
    Fault(
        "packing: NumPy's padding has gradient",
        "ssmcore/ops/causal_conv1d.py",
        "packing.spread(packing.counted(dsequence))",
        "packing.spread(dsequence)",
        "tests/ssmcore/test_packing.py -k padding",
    ),
    Fault(
        "packing: a tap reaches over",
        "ssmcore/torch/_causal_conv1d.py",
        "spread_sequences(seq_idx.detach().cpu().numpy(), past)",
        "spread_sequences(seq_idx.detach().cpu().numpy(), max(past - 1, 0))",
        "tests/ssmcore/test_packing.py -k not_a_number",
    ),
    Fault(
        "packing: every sequence from the initial state",
        "ssmcore/torch/_selective_scan.py",
        "if initial is not None and first == 0:",
        "if initial is not None:",
        "tests/ssmcore/test_packing.py -k packed_scan",
    ),
    Fault(
        "packing: every sequence from the first state",
        "ssmcore/torch/_selective_scan.py",
        "initial[number : number + 1]",
        "initial[:1]",
        "tests/ssmcore/test_packing.py -k by_their_ends",
    ),
    Fault(
        "packing: no gradient but of the first sequence",
        "ssmcore/torch/_selective_scan.py",
        "parts.append(y)",
        "parts.append(y if first == 0 else y.detach())",
        "tests/ssmcore/test_packing.py -k gradcheck",
    ),
    Fault(
        "packing: no sequence fails",
        "ssmcore/torch/_selective_scan.py",
        "    if not outs:",
        "    if False:",
        "tests/ssmcore/test_packing.py -k no_sequence",
    ),
    Fault(
        "packing: both ways of naming sequences accepted",
        "ssmcore/torch/_packing.py",
        "if seq_idx is not None and cu_seqlens is not None:",
        "if False:",
        "tests/ssmcore/test_packing.py -k wrong_packings_of_a_scan",
    ),
    Fault(
        "packing: falling ends accepted",
        "ssmcore/torch/_packing.py",
        " and ends == sorted(ends)",
        "",
        "tests/ssmcore/test_packing.py -k wrong_ends",
    ),
    Fault(
        "packing: a seq_idx of another length accepted",
        "ssmcore/ops/causal_conv1d.py",
        "if tuple(seq_idx.shape) != expected:",
        "if False:",
        "tests/ssmcore/test_packing.py -k packings_of_a_convolution",
    ),
    Fault(
        "compat: modules without a spec",
        "ssmcore/compat/_install.py",
        "    module.__spec__ = ModuleSpec(",
        "    ModuleSpec(",
        "tests/ssmcore/test_compat.py -k stands_in_for",
    ),
    Fault(
        "compat: ours put in twice",
        "ssmcore/compat/_install.py",
        "return package in _ours and sys.modules.get(package) is _ours[package]",
        "return False",
        "tests/ssmcore/test_compat.py -k second_time",
    ),
    Fault(
        "compat: submodules left behind",
        "ssmcore/compat/_install.py",
        "for name, module in _ours.items():\n        if",
        "for name, module in list(_ours.items())[:1]:\n        if",
        "tests/ssmcore/test_compat.py -k leaves_nothing",
    ),
    Fault(
        "compat: a real package shadowed",
        "ssmcore/compat/_install.py",
        "if where is not None and not force:",
        "if False:",
        "tests/ssmcore/test_compat.py -k real_package",
    ),
    Fault(
        "compat: a displaced package lost",
        "ssmcore/compat/_install.py",
        "sys.modules.setdefault(name, module)",
        "pass",
        "tests/ssmcore/test_compat.py -k unless_forced",
    ),
    Fault(
        "compat: another's module removed",
        "ssmcore/compat/_install.py",
        "if sys.modules.get(name) is module:",
        "if name in sys.modules:",
        "tests/ssmcore/test_compat.py -k not_ours",
    ),
    Fault(
        "compat: submodules not on their parents",
        "ssmcore/compat/_install.py",
        "setattr(_ours[parent], child, _ours[name])",
        "pass",
        "tests/ssmcore/test_compat.py -k submodules",
    ),
    Fault(
        "compat: the scan ignores a bias",
        "ssmcore/compat/_scan_interface.py",
        "st.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)",
        "st.selective_scan(u, delta, A, B, C, D, z, None, delta_softplus, return_last_state)",
        "tests/ssmcore/test_compat.py -k test_scan",
    ),
    Fault(
        "compat: a half-precision last state",
        "ssmcore/compat/_scan_interface.py",
        "if not return_last_state or u.dtype in",
        "if u.dtype.is_floating_point or u.dtype in",
        "tests/ssmcore/test_compat.py -k test_scan",
    ),
    Fault(
        "compat: a complex scan without its conjugate",
        "ssmcore/backends/torch_.py",
        "steps.append(2 * y_t.real if y_t.is_complex() else y_t)",
        "steps.append(y_t.real if y_t.is_complex() else y_t)",
        "tests/ssmcore/test_compat.py -k complex_scan",
    ),
    Fault(
        "compat: the reference scan without D",
        "ssmcore/compat/_scan_interface.py",
        "tensors = (wide, delta, A, B, C, D, z, delta_bias)",
        "tensors = (wide, delta, A, B, C, None, z, delta_bias)",
        "tests/ssmcore/test_compat.py -k reference_scan",
    ),
    Fault(
        "compat: the inner reference without a bias of B",
        "ssmcore/compat/_scan_interface.py",
        "part if B_proj_bias is None else part + B_proj_bias",
        "part",
        "tests/ssmcore/test_compat.py -k inner_functions",
    ),
    Fault(
        "compat: the backward direction gated forwards",
        "ssmcore/compat/_scan_interface.py",
        "D, back(z), delta_bias",
        "D, z, delta_bias",
        "tests/ssmcore/test_compat.py -k bidirectional",
    ),
    Fault(
        "compat: the convolution without activation",
        "ssmcore/compat/_steps.py",
        "return_final_states, activation, seq_idx=seq_idx",
        "return_final_states, None, seq_idx=seq_idx",
        "tests/ssmcore/test_compat.py -k test_convolution",
    ),
    Fault(
        "compat: final states not filled in",
        "ssmcore/compat/_steps.py",
        "final_states_out.copy_(states)\n    return",
        "pass\n    return",
        "tests/ssmcore/test_compat.py -k keeps_states",
    ),
    Fault(
        "compat: the first releases' activation unknown",
        "ssmcore/compat/_steps.py",
        "if isinstance(seq_idx, str):",
        "if False:",
        "tests/ssmcore/test_compat.py -k fourth_place",
    ),
    Fault(
        "compat: a packed convolution unpacked",
        "ssmcore/compat/_steps.py",
        "activation, seq_idx=seq_idx",
        "activation, seq_idx=None",
        "tests/ssmcore/test_compat.py -k packed_convolution",
    ),
    Fault(
        "compat: a state update without D",
        "ssmcore/compat/_steps.py",
        "st.selective_state_update(state, x, dt, A, B, C, D, z",
        "st.selective_state_update(state, x, dt, A, B, C, None, z",
        "tests/ssmcore/test_compat.py -k state_update",
    ),
    Fault(
        "compat: a convolution's ring ignored",
        "ssmcore/compat/_steps.py",
        "activation, cache_seqlens, conv_state_indices)",
        "activation, None, conv_state_indices)",
        "tests/ssmcore/test_compat.py -k convolution_update",
    ),
    Fault(
        "compat: a norm without its residual",
        "ssmcore/compat/_norms.py",
        "total = total + _wide(residual)",
        "total = total + 0",
        "tests/ssmcore/test_compat.py -k with_a_residual",
    ),
    Fault(
        "compat: the second norm by the first's weight",
        "ssmcore/compat/_norms.py",
        "_norm(total, weight1, bias1",
        "_norm(total, weight, bias1",
        "tests/ssmcore/test_compat.py -k two_branches",
    ),
    Fault(
        "compat: the gate on the wrong side",
        "ssmcore/compat/_norms.py",
        "gate is not None and not norm_before_gate",
        "gate is not None and norm_before_gate",
        "tests/ssmcore/test_compat.py -k gated_norms",
    ),
    Fault(
        "compat: a parameter of another name",
        "ssmcore/compat/_mamba_simple.py",
        'f"x_proj{suffix}", nn',
        'f"proj_x{suffix}", nn',
        "tests/ssmcore/test_compat.py -k upstreams_parameters",
    ),
    Fault(
        "compat: A of the wrong sign",
        "ssmcore/compat/_mamba_simple.py",
        '"A": -torch.exp',
        '"A": torch.exp',
        "tests/ssmcore/test_compat.py -k its_equations",
    ),
    Fault(
        "compat: the state of a first call lost",
        "ssmcore/compat/_mamba_simple.py",
        "ssm_state.copy_(last_state)",
        "pass",
        "tests/ssmcore/test_compat.py -k steps_of_a_block",
    ),
    Fault(
        "compat: the backward direction not turned back",
        "ssmcore/compat/_mamba_simple.py",
        '**self._direction("_b")).flip(-1)',
        '**self._direction("_b"))',
        "tests/ssmcore/test_compat.py -k directions",
    ),
    Fault(
        "compat: slices taken one after the other",
        "ssmcore/compat/_mamba_simple.py",
        "across = xz.unflatten(-1, (slices, seqlen // slices)).transpose(-1, -2)",
        "across = xz.unflatten(-1, (seqlen // slices, slices)).transpose(-1, -2)",
        "tests/ssmcore/test_compat.py -k directions",
    ),
    Fault(
        "compat: a direction without gradient",
        "ssmcore/compat/_mamba_simple.py",
        'mamba_inner_fn_no_out_proj(xz.flip(-1), **self._direction("_b")).flip(-1)',
        'mamba_inner_fn_no_out_proj(xz.flip(-1), **self._direction("_b")).flip(-1).detach()',
        "tests/ssmcore/test_compat.py -k block_trains",
    ),
    Fault(
        "compat: an unknown direction accepted",
        "ssmcore/compat/_mamba_simple.py",
        'check_option("Mamba", "bimamba_type", bimamba_type, tuple(_DIRECTIONS))',
        "bimamba_type = bimamba_type if bimamba_type in _DIRECTIONS else None",
        "tests/ssmcore/test_compat.py -k unknown_options",
    ),
    Fault(
        "compat: two directions generate",
        "ssmcore/compat/_mamba_simple.py",
        "            if _DIRECTIONS[self.bimamba_type]:\n                remedy",
        "            if False:\n                remedy",
        "tests/ssmcore/test_compat.py -k are_refused",
    ),
    Fault(
        "compat: gradients of an extension in another order",
        "ssmcore/compat/_vmamba.py",
        "*grads, found_dz, ddelta_bias = _backward",
        "*grads, ddelta_bias, found_dz = _backward",
        "tests/ssmcore/test_compat.py -k test_extensions",
    ),
    Fault(
        "compat: states of an extension in another place",
        "ssmcore/compat/_vmamba.py",
        "torch.stack([torch.zeros_like(wide), wide]",
        "torch.stack([wide, torch.zeros_like(wide)]",
        "tests/ssmcore/test_compat.py -k test_extensions",
    ),
    Fault(
        "compat: dz not written to the one given",
        "ssmcore/compat/_vmamba.py",
        "found.append(found_dz if dz is None else dz.copy_(found_dz))",
        "found.append(found_dz)",
        "tests/ssmcore/test_compat.py -k gated_extension",
    ),
    Fault(
        "compat: one state without D",
        "ssmcore/compat/_vmamba.py",
        "return core_fwd(u, delta, A[:, None], B[:, :, None], C[:, :, None], D,",
        "return core_fwd(u, delta, A[:, None], B[:, :, None], C[:, :, None], None,",
        "tests/ssmcore/test_compat.py -k one_state",
    ),
    Fault(
        "compat: oflex rounds",
        "ssmcore/compat/_vmamba.py",
        "    wide = u.float() if oflex and u.dtype != torch.float64 else u\n    out: Tensor",
        "    wide = u\n    out: Tensor",
        "tests/ssmcore/test_compat.py -k vmambas_scan",
    ),
    Fault(
        "compat: a direction walked forwards",
        "ssmcore/compat/_vmamba.py",
        "return sequence.flip(-1) if scans != 1 and k >= 2 else sequence",
        "return sequence.flip(-1) if scans != 1 and k >= 3 else sequence",
        "tests/ssmcore/test_compat.py -k scan_and_merge",
    ),
    Fault(
        "compat: a turn not undone",
        "ssmcore/compat/_vmamba.py",
        "torch.rot90(y.unflatten(-1, turned), -k, (-2, -1))",
        "torch.rot90(y.unflatten(-1, turned), k, (-2, -1))",
        "tests/ssmcore/test_compat.py -k scan_and_merge",
    ),
    Fault(
        "compat: a direction not merged",
        "ssmcore/compat/_vmamba.py",
        "x = (grids[0] + grids[2]) + (grids[1] + grids[3])",
        "x = (grids[0] + grids[2]) + (grids[1] + grids[1])",
        "tests/ssmcore/test_compat.py -k grid_of_ours",
    ),
    Fault(
        "compat: an ablation of other directions",
        "ssmcore/compat/_vmamba.py",
        '_applied("CrossScan_Ab_2direction", cross_scan_fn, scans=2)',
        '_applied("CrossScan_Ab_2direction", cross_scan_fn, scans=1)',
        "tests/ssmcore/test_compat.py -k function_objects",
    ),
    Fault(
        "compat: three directions accepted",
        "ssmcore/compat/_vmamba.py",
        "if directions != _DIRECTIONS:",
        "if False:",
        "tests/ssmcore/test_compat.py -k wrong_grids",
    ),
    Fault(
        "compat: the scan's arguments unchecked",
        "ssmcore/torch/_selective_scan.py",
        '    check_dtypes("selective_scan", tensors, complex_too=_scan.MAY_BE_COMPLEX)\n',
        "",
        "tests/ssmcore/test_compat.py -k wrong_arguments_of_the_scan",
    ),
    Fault(
        "example: it knows ssmcore",
        "docs/examples/vm_unet.py",
        "import argparse",
        "import ssmcore.torch\nimport argparse",
        "tests/ssmcore/test_compat.py -k interfaces_alone",
    ),
    Fault(
        "example: a bias too many",
        "docs/examples/vm_unet.py",
        "self.in_proj = nn.Linear(channels, 2 * inner, bias=False)",
        "self.in_proj = nn.Linear(channels, 2 * inner)",
        "tests/ssmcore/test_compat.py -k number_of_parameters",
    ),
    Fault(
        "example: it does not learn",
        "docs/examples/vm_unet.py",
        "        optimizer.step()\n",
        "",
        "tests/ssmcore/test_compat.py -k example_learns",
    ),
    Fault(
        "example: A not exponential",
        "docs/examples/vm_unet.py",
        "-self.A_logs.exp(),",
        "-self.A_logs,",
        "tests/ssmcore/test_compat.py -k block_is_ours",
    ),
    Fault(
        "C kernel: rows turned into lanes without the last",
        "ssmcore/_kernels/lanes.h",
        "for (int n = 0; n < VL; n++) state[done + n] = block[n];",
        "for (int n = 0; n < VL - 1; n++) state[done + n] = block[n];",
        CONFORMANCE,
        build=True,
    ),
    Fault(
        "C kernel: lanes turned into rows of another channel",
        "ssmcore/_kernels/lanes.h",
        "NAME(write)(p + d * dstate + done, block[d])",
        "NAME(write)(p + d * dstate + done, block[d ^ 1])",
        CONFORMANCE,
        build=True,
    ),
    Fault(
        "compat: Mamba-2 forgets the state of its prompt",
        "ssmcore/compat/_mamba2.py",
        "states[1].copy_(final)",
        "states[1].zero_()",
        "tests/ssmcore/test_mamba2.py -k prompt",
    ),
    Fault(
        "compat: Mamba-2 does not clamp its steps",
        "ssmcore/compat/_chunk_scan.py",
        "        dt_limit=dt_limit,\n        return_final_states=True,\n    )\n    out = y",
        "        return_final_states=True,\n    )\n    out = y",
        "tests/ssmcore/test_mamba2.py -k transcription",
    ),
    Fault(
        "opcheck: a backward op with a wrong fake kernel",
        "ssmcore/torch/_chunk_scan.py",
        "return [*grads, x.new_empty((x.shape[0], *x.shape[2:], B.shape[3]))]",
        "return [*grads, x.new_empty((x.shape[0], *x.shape[2:]))]",
        "tests/ssmcore/test_opcheck.py",
    ),
    Fault(
        "networks: no VM layer after a decoder block",
        "segnet/models/network.py",
        "VMLayer(f, vss_config(config)) if vm_layers else nn.Identity()",
        "nn.Identity()",
        "tests/segnet/models/test_networks.py -k pathway",
    ),
    Fault(
        "networks: the reconstruction hidden by its class",
        "segnet/models/network.py",
        "        self.reconstruction = None\n",
        "        type(self).reconstruction = None\n",
        "tests/segnet/models/test_networks.py -k gradient",
    ),
    Fault(
        "info: the scan's operations not counted",
        "segnet/info.py",
        "    torch.ops.ssmcore.ss2d_fwd: _scan_flops,\n",
        "",
        "tests/segnet/models/test_networks.py -k counts",
    ),
    Fault(
        "info: memory of a storage counted for each of its tensors",
        "segnet/info.py",
        "kept[x.untyped_storage()._cdata] = x",
        "kept[id(x)] = x",
        "tests/segnet/models/test_networks.py -k memory_kept",
    ),
    Fault(
        "speed: a training step that does not train",
        "segnet/speed.py",
        "        optimizer.step()\n",
        "",
        "tests/segnet/test_speed.py -k step_trains",
    ),
    Fault(
        "speed: operations of the scan not recognised",
        "segnet/speed.py",
        '("scan", ("ssmcore::ss2d", "ssmcore_ss2d")),',
        '("scan", ("ssmcore::ss2d",)),',
        "tests/segnet/test_speed.py -k has_a_kind",
    ),
    Fault(
        "resume: the batches begin anew",
        "segnet/training/state.py",
        '    rng.bit_generator.state = json.loads(metadata["numpy_rng"])\n',
        "",
        "tests/segnet/training/test_resume.py -k goes_on and not killed",
    ),
    Fault(
        "resume: stochastic depth begins anew",
        "segnet/training/state.py",
        '    torch.set_rng_state(tensors["torch_rng"])\n',
        "",
        "tests/segnet/training/test_resume.py -k goes_on and not killed",
    ),
    Fault(
        "resume: the optimizer forgets",
        "segnet/training/state.py",
        "            optimizer.state[parameter][name.removeprefix(prefix)] = like.copy_(of)\n",
        "            pass\n",
        "tests/segnet/training/test_resume.py -k goes_on and not killed",
    ),
    Fault(
        "resume: averaged weights are not brought back",
        "segnet/training/state.py",
        '    for key, module in modules.items():\n        prefix = f"{key}/"\n',
        '    for key, module in list(modules.items())[:1]:\n        prefix = f"{key}/"\n',
        "tests/segnet/training/test_resume.py -k goes_on and not killed",
    ),
    Fault(
        "resume: the optimizer's moments in another order in memory",
        "segnet/training/state.py",
        "like = torch.empty_like(parameter, requires_grad=False) if of.shape == parameter.shape else of",
        "like = of",
        "tests/segnet/training/test_resume.py -k goes_on and not killed",
    ),
    Fault(
        "resume: another configuration goes unnoticed",
        "segnet/training/state.py",
        "            if getattr(was, name) != getattr(given, name):",
        "            if False:",
        "tests/segnet/training/test_resume.py -k configuration",
    ),
    Fault(
        "resume: rows of the log twice",
        "segnet/training/log.py",
        "rows = read(path)[:kept] if kept else []",
        "rows = read(path)",
        "tests/segnet/training/test_resume.py -k goes_on and not killed",
    ),
    Fault(
        "state written in place",
        "segnet/training/state.py",
        "    with replacing(path) as temporary:\n        save_file({",
        "    temporary = path\n    if True:\n        save_file({",
        "tests/segnet/training/test_resume.py -k write",
    ),
    Fault(
        "training: a run over another",
        "segnet/training/loop.py",
        "    if (run_exists or finished) and not resume:",
        "    if False:",
        "tests/segnet/training/test_resume.py -k over_another",
    ),
    Fault(
        "training: gradients of several batches added up",
        "segnet/training/loop.py",
        " / settings.accumulate\n",
        "\n",
        "tests/segnet/training/test_loop.py -k several_batches",
    ),
    Fault(
        "training: stops one validation late",
        "segnet/training/loop.py",
        "at.since_best > settings.patience",
        "at.since_best > settings.patience + 1",
        "tests/segnet/training/test_loop.py -k improves",
    ),
    Fault(
        "training: held-out patients of a fold in training",
        "segnet/training/loop.py",
        '"test": fold["val"]}',
        '"test": fold["train"]}',
        "tests/segnet/training/test_loop.py -k folds",
    ),
    Fault(
        "guard: the last bad layer named",
        "segnet/training/guard.py",
        "if not found and not _finite(output):\n                found.append(name)",
        "if not _finite(output):\n                found[:] = [name]",
        "tests/segnet/training/test_loop.py -k named",
    ),
    Fault(
        "processes: a norm of each one's own batch",
        "segnet/models/batch_norm.py",
        "            if type(module) is nn.BatchNorm2d:",
        "            if False:",
        "tests/segnet/training/test_distributed.py -k follow",
    ),
    Fault(
        "processes: gradients not summed",
        "segnet/distributed.py",
        "    distributed.all_reduce(together)\n",
        "",
        "tests/segnet/training/test_distributed.py -k follow",
    ),
    Fault(
        "processes: the gradient of a sum kept to oneself",
        "segnet/distributed.py",
        "        total = gradient.clone()\n        distributed.all_reduce(total)\n",
        "        total = gradient.clone()\n",
        "tests/segnet/training/test_distributed.py -k follow",
    ),
    Fault(
        "processes: all drop the same samples",
        "segnet/models/mamba.py",
        "keep = own(torch.rand(x.shape[0] * world_size(), *[1] * (x.ndim - 1), device=x.device)) >= self.rate",
        "keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.rate",
        "tests/segnet/training/test_distributed.py -k follow",
    ),
    Fault(
        "processes: the gate by each one's own batch",
        "segnet/models/ahnet.py",
        "        if self.training and world_size() > 1:",
        "        if False:",
        "tests/segnet/training/test_distributed.py -k follow",
    ),
    Fault(
        "comparison: differences to the network itself",
        "segnet/compare.py",
        "        first = first or mine\n",
        "        first = mine\n",
        "tests/segnet/test_compare.py -k means",
    ),
    Fault(
        "comparison: all folds score the first one",
        "segnet/compare.py",
        "config.each_fold()[name]",
        'config.each_fold()["fold-0"]',
        "tests/segnet/test_compare.py -k scored_once",
    ),
]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "SSMCORE_BUILD": "require"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def build(folder: Path) -> None:
    result = run([sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j2"], folder)
    if result.returncode:
        raise SystemExit(result.stderr)


def verdict(tests: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs tests given as `paths -k words`."""
    paths, _, words = tests.partition(" -k ")
    command = [sys.executable, "-m", "pytest", "-q", "-x", *paths.split(), *(["-k", words] if words else [])]
    result = run(command, folder)
    if result.returncode == 5:  # no test collected
        raise SystemExit(f"{tests}: there are no such tests\n{result.stdout[-2000:]}")
    return result


def red(fault: Fault, folder: Path) -> bool:
    """Whether the tests fail with the fault; the copy is put right again."""
    file = folder / fault.file
    text = file.read_text()
    if fault.old not in text:
        raise SystemExit(f"{fault.name}: its text no longer stands in {fault.file}; bring the fault up to date")
    file.write_text(text.replace(fault.old, fault.new, 1))
    try:
        if fault.build:
            build(folder)
        return verdict(fault.tests, folder).returncode != 0
    finally:
        file.write_text(text)


def main() -> None:
    words = sys.argv[1:]
    faults = [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]
    missed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkout"
        ignored = shutil.ignore_patterns(".git", ".venv*", "build", "demo-out", "__pycache__", "*.so")
        shutil.copytree(ROOT, folder, ignore=ignored)
        build(folder)
        for tests in dict.fromkeys(fault.tests for fault in faults):
            sound = verdict(tests, folder)
            if sound.returncode:
                raise SystemExit(f"{tests}: red before any fault was planted\n{sound.stdout[-3000:]}")
        stale = False
        for fault in faults:
            if stale and not fault.build:
                build(folder)
            stale = fault.build
            caught = red(fault, folder)
            print(f"{'caught' if caught else 'MISSED'}  {fault.name}", flush=True)
            if not caught:
                missed.append(fault.name)
    if missed:
        raise SystemExit(f"not caught: {', '.join(missed)}")


if __name__ == "__main__":
    main()
