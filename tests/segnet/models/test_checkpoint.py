"""Checkpoints: what is saved is loaded, and what is not one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from segnet.errors import InputError
from segnet.io.weights import read_metadata, release_of
from segnet.models import build, checkpoint


@pytest.fixture
def saved(tmp_path: Path, tiny_config: Any) -> Path:
    torch.manual_seed(0)
    checkpoint.save(build(tiny_config.model), tiny_config, tmp_path / checkpoint.FILE)
    return tmp_path / checkpoint.FILE


def test_weights_and_configuration_come_back(saved: Path, tiny_config: Any) -> None:
    model, config = checkpoint.load(saved.parent)
    torch.manual_seed(0)
    wanted = build(tiny_config.model).eval()
    assert config == tiny_config
    assert not model.training
    x = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(model(x)[0], wanted(x)[0])
    assert [p.name for p in saved.parent.iterdir()] == [checkpoint.FILE]


def rewrite(path: Path, metadata: dict[str, str] | None, tensors: Any = None) -> None:
    save_file(load_file(path) if tensors is None else tensors, path, metadata)


def test_weights_of_another_model_are_refused(saved: Path, tiny_config: Any) -> None:
    other = tiny_config.model_copy(update={"model": tiny_config.model.model_copy(update={"base_width": 8})})
    rewrite(saved, {"format": checkpoint.FORMAT, "config": other.model_dump_json()})
    with pytest.raises(InputError, match=r"expected the weights of mamba-ahnet, got .* they are of another model"):
        checkpoint.load(saved)


def test_a_file_of_another_program_is_refused(saved: Path) -> None:
    rewrite(saved, None)
    with pytest.raises(InputError, match="expected a checkpoint of format segnet-checkpoint/1, got None"):
        checkpoint.load(saved)


def test_a_truncated_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"expected a safetensors file.*truncated"):
        checkpoint.load(saved)


def test_an_unknown_configuration_is_refused(saved: Path) -> None:
    rewrite(saved, {"format": checkpoint.FORMAT, "config": '{"model": {"heads": 8}}'})
    with pytest.raises(InputError, match="expected a configuration this version knows"):
        checkpoint.load(saved)


def test_an_unknown_network_is_refused(saved: Path) -> None:
    rewrite(saved, {"format": checkpoint.FORMAT, "config": '{"model": {"name": "resnet"}}'})
    with pytest.raises(InputError, match=r"model: expected one of hunet, .*got 'resnet'"):
        checkpoint.load(saved)


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a checkpoint or a training run's folder"):
        checkpoint.load(tmp_path)


def test_a_failed_save_leaves_the_old_file(saved: Path, tiny_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def fails(_tensors: Any, path: Path, metadata: Any = None) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(build(tiny_config.model), tiny_config, saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [checkpoint.FILE]


FACTS = checkpoint.Release(
    licence="CC-BY-4.0", attribution="a data set", sites="lung nodules", segnet="0.1.0", commit="abc"
)


def test_a_release_is_half_precision_and_says_where_it_is_from(saved: Path, tmp_path: Path, tiny_config: Any) -> None:
    changed = tiny_config.augment.model_copy(update={"shapes": "somewhere/shapes"})
    config = tiny_config.model_copy(update={"augment": changed})
    checkpoint.save(checkpoint.load(saved)[0], config, saved)
    checkpoint.release(saved, tmp_path / "released.safetensors", FACTS)
    stored = load_file(tmp_path / "released.safetensors")
    kept = {name for name in stored if name.endswith(("running_mean", "running_var"))}
    assert {stored[name].dtype for name in kept} == {torch.float32}
    assert {stored[name].dtype for name in stored.keys() - kept} == {torch.float16, torch.int64}
    metadata = read_metadata(tmp_path / "released.safetensors")
    assert release_of(metadata) == FACTS
    assert "somewhere" not in metadata["config"]
    model, loaded = checkpoint.load(tmp_path / "released.safetensors")
    assert loaded == tiny_config
    plain = checkpoint.load(saved)[0].state_dict()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == plain[name].dtype
        rounded = tensor.is_floating_point() and name not in kept
        wanted = plain[name].half().float() if rounded else plain[name]
        assert torch.equal(tensor, wanted)
    # released again, nothing changes
    checkpoint.release(tmp_path / "released.safetensors", tmp_path / "again.safetensors", FACTS)
    again = load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in stored.items())


def test_weights_beyond_half_precision_are_refused(saved: Path, tmp_path: Path, tiny_config: Any) -> None:
    tensors = load_file(saved)
    name = next(n for n, t in tensors.items() if t.is_floating_point())
    tensors[name].view(-1)[0] = 1e6
    rewrite(saved, {"format": checkpoint.FORMAT, "config": tiny_config.model_dump_json()}, tensors)
    with pytest.raises(InputError, match=f"expected weights within the range of float16, got 1e\\+06 in {name}"):
        checkpoint.release(saved, tmp_path / "released.safetensors", FACTS)
    assert not (tmp_path / "released.safetensors").exists()
