"""Models of transformers on ssmcore's kernels against the same models as transformers computes them."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="transformers needs torch")
transformers = pytest.importorskip("transformers", reason="the drop-in is for transformers, which is not installed")

import ssmcore.torch  # noqa: E402
from ssmcore.compat import _mixers, patch_transformers, unpatch_transformers  # noqa: E402
from ssmcore.compat.transformers import MIXERS  # noqa: E402
from ssmcore.ops.selective_scan import SPEC  # noqa: E402

MODELS = tuple(MIXERS)


def modeling(name: str) -> Any:
    """The module of transformers that defines a model."""
    return importlib.import_module(f"transformers.models.{name}.modeling_{name}")


VOCABULARY, BATCH, LENGTH = 61, 2, 13
# sizes that no vector's width divides, and steps enough to fill the convolution's window of 4 three times
PURE = {"num_hidden_layers": 2, "state_size": 5, "time_step_rank": 3}
HYBRID = {
    "num_hidden_layers": 3,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "mamba_d_state": 5,
    "mamba_dt_rank": 3,
}
# the third layer of a hybrid attends; Zamba's has a mixer as well
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("Mamba", PURE),
    "falcon_mamba": ("FalconMamba", PURE),
    "jamba": (
        "Jamba",
        HYBRID | {"num_experts": 1, "num_experts_per_tok": 1, "attn_layer_period": 3, "attn_layer_offset": 2},
    ),
    "zamba": ("Zamba", HYBRID | {"n_mamba_heads": 2, "tie_word_embeddings": False}),
}


def build(name: str, dtype: Any = torch.float32) -> Any:
    """A model with weights at which the scan weighs in the logits."""
    family, sizes = CONFIGS[name]
    config = getattr(transformers, f"{family}Config")(
        vocab_size=VOCABULARY, hidden_size=20, pad_token_id=0, bos_token_id=0, eos_token_id=None, **sizes
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for key, parameter in model.named_parameters():
        with torch.no_grad():
            if key.endswith("A_log"):
                parameter.uniform_(-1, 1)
            elif parameter.ndim == 1:
                parameter.copy_(
                    1 + 0.3 * torch.randn(parameter.shape) if "norm" in key else torch.randn(parameter.shape)
                )
            else:
                parameter.copy_(torch.randn(parameter.shape) / parameter.shape[-1] ** 0.5)
    return model.to(dtype)


def tokens(length: int = LENGTH) -> Any:
    return torch.randint(1, VOCABULARY, (BATCH, length), generator=torch.Generator().manual_seed(1))


def left_padded(ids: Any) -> Any:
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    return mask


@pytest.fixture(autouse=True)
def unpatched() -> Iterator[None]:
    """On one thread: at these sizes several would wait for each other longest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    unpatch_transformers()
    yield
    unpatch_transformers()
    torch.set_num_threads(threads)


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def both_ways(name: str, compute: Callable[[], Any]) -> tuple[Any, Any]:
    """What transformers computes, and what it computes patched."""
    wanted = compute()
    patch_transformers(name)
    return wanted, compute()


def difference(got: Any, wanted: Any) -> float:
    """Largest difference as a part of the largest value wanted."""
    return float((got - wanted).abs().max() / wanted.abs().max())


# float32: a logit passes 2 or 3 layers of scans, products and norms, each within some roundings of 2^-24; transformers adds its terms in
#   another order. 64 roundings are 4e-6.
# float64: transformers rounds A, B and u of the scan and the norms' inputs to float32, 2^-24 each, and we do not.
# bfloat16: transformers keeps eight bits of every product of a step, 2^-8 = 4e-3 each, where we keep the scan in float32.
LOGITS = {torch.float32: 4e-6, torch.float64: 2e-6, torch.bfloat16: 6e-2}
DTYPES = tuple(LOGITS)
GRADIENT = SPEC.gradient


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("length", "padded"), [(1, False), (2, False), (LENGTH, False), (LENGTH, True)])
@torch.no_grad()
def test_logits_of_a_prompt(name: str, dtype: Any, length: int, padded: bool) -> None:
    model, ids = build(name, dtype), tokens(length)
    mask = left_padded(ids) if padded else None
    wanted, got = both_ways(name, lambda: model(ids, attention_mask=mask).logits)
    kept = ids > 0 if mask is None else mask > 0  # what is written where only padding came before means nothing
    assert got.dtype == wanted.dtype
    assert difference(got[kept], wanted[kept]) <= LOGITS[dtype]
    assert dtype != torch.float32 or (got[kept] - wanted[kept]).abs().max() <= 1e-4


@torch.no_grad()
def test_float64_is_computed_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against transformers kept from rounding to float32, mixer by mixer: the norms between them round in either."""
    narrow = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else narrow(x))
    for name in ("mamba", "falcon_mamba", "zamba"):
        model = build(name, torch.float64)
        mixer = mixers(model)[0]
        x = torch.randn(BATCH, LENGTH, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        wanted, got = both_ways(name, lambda mixer=mixer, x=x: mixer(x))
        assert difference(got, wanted) <= 1e-13, name


@torch.no_grad()
@pytest.mark.parametrize(("padded", "beams"), [(False, 1), (True, 1), (False, 2)])
def test_generated_tokens(name: str, padded: bool, beams: int) -> None:
    model, ids = build(name), tokens()
    mask = left_padded(ids) if padded else torch.ones_like(ids)

    def generate() -> Any:
        return model.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=False, num_beams=beams)

    wanted, got = both_ways(name, generate)
    assert wanted.shape == (BATCH, LENGTH + 20)
    assert len(wanted[:, LENGTH:].unique()) > 4, "a model that repeats itself tests nothing"
    assert torch.equal(got, wanted)


def states(cache: Any) -> list[Any]:
    mixed = [layer for layer in cache.layers if hasattr(layer, "conv_states")]
    return [state for layer in mixed for state in (layer.conv_states[0], layer.recurrent_states[0])]


def mixers(model: Any) -> list[Any]:
    return [module for module in model.modules() if type(module).__name__ in MIXERS.values()]


def decode(model: Any, ids: Any, prompt: int) -> tuple[Any, Any]:
    """Logits of a prompt and then of a token at a time, and the cache."""
    out = model(ids[:, :prompt], use_cache=True)
    cache, logits, kept = out.cache, [out.logits], states(out.cache)
    for t in range(prompt, ids.shape[1]):
        logits.append(model(ids[:, t : t + 1], cache=cache, use_cache=True).logits)
    assert all(a is b for a, b in zip(states(cache), kept, strict=True)), "states are changed in place"
    return torch.cat(logits, 1), cache


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("prompt", [2, 5])
def test_steps_with_a_cache(name: str, dtype: Any, prompt: int) -> None:
    model, ids = build(name, dtype), tokens()
    (wanted, old), (got, new) = both_ways(name, lambda: decode(model, ids, prompt))
    assert difference(got, wanted) <= 2 * LOGITS[dtype]
    for mine, theirs in zip(states(new), states(old), strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        assert difference(mine, theirs) <= 2 * LOGITS[dtype]
    if dtype != torch.bfloat16:
        assert difference(got, model(ids).logits) <= LOGITS[torch.float32]


def gradients(model: Any, ids: Any) -> dict[str, Any]:
    model.zero_grad()
    model(ids, labels=ids, attention_mask=left_padded(ids)).loss.backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_of_all_parameters(name: str, dtype: Any) -> None:
    model, ids = build(name, dtype).train(), tokens()
    wanted, got = both_ways(name, lambda: gradients(model, ids))
    assert got.keys() == wanted.keys() == dict(model.named_parameters()).keys()
    # the gradient tolerance of the scan, twice for the layers and as much for the sums of transformers, which lose as much
    bound = {torch.float32: 4 * GRADIENT.float32, torch.float64: 1e-5}[dtype]
    worst = max(wanted, key=lambda key: difference(got[key], wanted[key]))
    assert difference(got[worst], wanted[worst]) <= bound, worst


def test_gradients_of_steps_with_a_cache_are_those_of_the_sequence(name: str) -> None:
    """transformers cannot: the state it keeps for the gradient is the one it overwrites."""
    model, ids = build(name), tokens(7)
    patch_transformers(name)

    def gradients_of(logits: Any) -> dict[str, Any]:
        model.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
        return {key: p.grad.clone() for key, p in model.named_parameters()}

    wanted = gradients_of(model(ids, use_cache=False).logits)
    got = gradients_of(decode(model, ids, 4)[0])
    worst = max(wanted, key=lambda key: difference(got[key], wanted[key]))
    assert difference(got[worst], wanted[worst]) <= 4 * GRADIENT.float32, worst


@torch.no_grad()
def test_the_state_weighs_in_the_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all other tests would compare what passes it by."""
    model, ids, scan = build(name), tokens(), modeling(name).mamba_selective_scan
    wanted = model(ids).logits

    def stateless(u: Any, dt: Any, A: Any, B: Any, C: Any, **options: Any) -> Any:
        return scan(u, dt, A, B, torch.zeros_like(C), **options)

    monkeypatch.setattr(modeling(name), "mamba_selective_scan", stateless)
    assert difference(model(ids).logits, wanted) > 0.1


@torch.no_grad()
def test_a_patched_model_calls_our_functions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, int] = {}

    def count(owner: Any, function: str) -> None:
        called = getattr(owner, function)

        def counted(*arguments: Any, **options: Any) -> Any:
            calls[function] = calls.get(function, 0) + 1
            return called(*arguments, **options)

        monkeypatch.setattr(owner, function, counted)

    for owner, function in (
        (ssmcore.torch, "selective_scan"),
        (ssmcore.torch, "causal_conv1d"),
        (ssmcore.torch, "selective_state_update"),
    ):
        count(owner, function)
    model, ids = build(name), tokens()
    layers = len(mixers(model))
    scans = layers * getattr(model.config, "n_mamba_heads", 1)
    decode(model, ids, LENGTH - 1)
    assert calls == {}
    patch_transformers(name)
    decode(model, ids, LENGTH - 1)
    assert calls == {"selective_scan": scans, "causal_conv1d": layers, "selective_state_update": scans}
    calls.clear()
    unpatch_transformers()
    decode(model, ids, LENGTH - 1)
    assert calls == {}


def functions(name: str) -> dict[str, Any]:
    return {key: value for key, value in vars(modeling(name)).items() if inspect.isroutine(value)}


def test_unpatching_puts_the_same_objects_back() -> None:
    before = {name: functions(name) for name in MODELS}
    unpatch_transformers()
    assert {name: functions(name) for name in MODELS} == before
    patch_transformers(MODELS[:2])
    patched = functions(MODELS[0])
    assert sum(patched[key] is not before[MODELS[0]][key] for key in patched) == 5
    patch_transformers()
    patch_transformers()
    assert functions(MODELS[0]) == patched
    assert all(functions(name) != before[name] for name in MODELS)
    unpatch_transformers()
    for name in MODELS:
        now = functions(name)
        assert now.keys() == before[name].keys()
        assert all(now[key] is before[name][key] for key in now), name


def test_tensors_elsewhere_go_to_the_function_that_was_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for function in _mixers.REPLACEMENTS:
        original = getattr(modeling(name), function, None)
        if original is not None:

            def noted(*arguments: Any, original: Any = original, function: str = function, **options: Any) -> Any:
                seen.append(function)
                return original(*arguments, **options)

            noted.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
            monkeypatch.setattr(modeling(name), function, noted)
    patch_transformers(name)
    model, ids = build(name).to("meta"), tokens(3).to("meta")
    with torch.no_grad():
        cache = model.train()(ids, use_cache=True).cache
        model(ids[:, :1], cache=cache, use_cache=True)
    model(ids)
    assert set(seen) == {f for f in _mixers.REPLACEMENTS if f != "mamba_inner_fn" or name in ("mamba", "falcon_mamba")}
    unpatch_transformers()


@torch.no_grad()
def test_an_activation_the_kernels_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = build("mamba"), tokens()
    for layer in model.backbone.layers:
        layer.mixer.activation = "gelu"
    wanted, got = both_ways("mamba", lambda: decode(model, ids, 5)[0])
    assert difference(got, wanted) <= 2 * LOGITS[torch.float32]


def test_packed_sequences_are_refused_as_before() -> None:
    mixer = build("mamba").backbone.layers[0].mixer
    patch_transformers("mamba")
    with pytest.raises(ValueError, match="packed sequences"):
        mixer(torch.randn(1, 6, 20), seq_idx=torch.zeros(1, 6, dtype=torch.int32))


@torch.no_grad()
def test_a_compiled_model() -> None:
    model, ids = build("mamba"), tokens()
    wanted = decode(model, ids, LENGTH - 2)[0]
    patch_transformers("mamba")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert difference(decode(compiled, ids, LENGTH - 2)[0], wanted) <= 2 * LOGITS[torch.float32]


def other_forward(self: Any, hidden_states: Any, cache: Any = None) -> Any:
    return hidden_states


@pytest.mark.parametrize(
    ("target", "value", "message"),
    [
        ("mamba_selective_scan", None, "expected a function mamba_selective_scan, got none"),
        (
            "mamba_selective_scan",
            lambda x, dt: x,
            r"expected mamba_selective_scan\(hidden_states, dt, .*\), got \(x, dt\)",
        ),
        ("FalconMambaMixer", None, "expected a class FalconMambaMixer, got none"),
        ("FalconMambaMixer.forward", other_forward, "expected FalconMambaMixer.forward to call causal_conv1d_fn"),
    ],
)
def test_another_version_is_refused_by_name(
    target: str, value: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = functions("mamba")
    owner: Any = modeling("falcon_mamba")
    *path, attribute = target.split(".")
    for step in path:
        owner = getattr(owner, step)
    if value is None:
        monkeypatch.delattr(owner, attribute)
    else:
        monkeypatch.setattr(owner, attribute, value)
    with pytest.raises(ImportError, match=rf"'falcon_mamba': {message}.* in transformers {transformers.__version__}"):
        patch_transformers(("mamba", "falcon_mamba"))
    assert functions("mamba") == before, "all or nothing"


@pytest.mark.parametrize(
    ("package", "remedy"), [("transformers", "pip install transformers"), ("torch", r"pip install 'ssmcore\[torch\]'")]
)
def test_what_is_not_installed_is_named(package: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"expected {package} to be installed.*{remedy}"):
        patch_transformers("mamba")


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ssmcore.ArgumentError, match=r"models: expected one of 'mamba', .*, got 'mamba2'"):
        patch_transformers(("mamba", "mamba2"))
