"""The modules that tensors load, each time in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch._dynamo", "torch._inductor", "onnx", "sympy"}
RUNS = {
    "ss2d": "ss2d(t(2, 3, 4, 5), t(2, 3, 4, 4, 5), -t(4, 5, 3).abs(), t(2, 3, 4, 4, 3), t(2, 3, 4, 4, 3))",
    "selective_scan": "selective_scan(t(2, 5, 9), t(2, 5, 9).abs(), -t(5, 3).abs(), t(2, 3, 9), t(2, 3, 9))",
    "chunk_scan": "chunk_scan(t(2, 9, 4, 3), t(2, 9, 4).abs(), -t(4).abs(), t(2, 9, 1, 3), t(2, 9, 1, 3))",
    "attention_gate": "attention_gate(t(1, 4, 4, 3), t(1, 4, 4, 2), t(1, 4, 4, 2), *(t(2) for _ in range(4)), t(1), t(1))[0]",
    "causal_conv1d": "causal_conv1d(t(2, 5, 9), t(5, 4))",
    "gate_crop": "gate_crop(t(2, 5, 9), (3, 3))",
}


def run(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.parametrize("training", [True, False])
def test_custom_ops_do_not_load_torchs_compiler(training: bool) -> None:
    program = "import json, sys, torch; before = set(sys.modules)\nimport ssmcore.torch as st\n"
    program += f"def t(*shape): return torch.randn(shape, requires_grad={training})\n"
    for call in RUNS.values():
        program += f"st.{call}{'.sum().backward()' if training else ''}\n"
    program += "with torch.no_grad():\n"
    program += "    st.causal_conv1d_update(t(2, 5).bfloat16(), t(2, 5, 3), t(5, 4))\n"
    program += "    st.selective_state_update(t(2, 5, 3), t(2, 5).half(), t(2, 5), -t(5, 3), t(2, 3), t(2, 3))\n"
    program += "print(json.dumps(list(set(sys.modules) - before)))"
    assert not HEAVY & set(json.loads(run(program)))


def test_the_layer_runs_without_scipy() -> None:
    program = (
        "import sys; sys.modules['scipy'] = None\n"  # importing it raises
        "import torch, ssmcore.torch as st\n"
        "layer = st.S4D(3, 4)\n"
        "layer(torch.randn(2, 50, 3)).sum().backward()\n"
        "print(st.ssm_convolve(torch.ones(5), torch.ones(3)).tolist())"
    )
    assert [round(y) for y in json.loads(run(program))] == [1, 2, 3, 3, 3]
