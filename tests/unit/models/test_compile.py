import numpy as np
import pytest
import torch

from posttrain.layout import Segment, build_batch
from posttrain.models.compile import compile_parts
from posttrain.models.packed import prepare_packed, score_batch


def make_batch(*lengths):
    rows = [np.arange(3, 3 + n) for n in lengths]
    segments = [Segment(row, np.array([0.0] + [1.0] * (len(row) - 1))) for row in rows]
    packed = build_batch(segments).items()
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in packed}


def refuse(*args, **kwargs):
    raise AssertionError("torch.compile was called")


@pytest.mark.parametrize(
    ("wanted", "tokens", "frozen"), [(False, 10**12, 0), ("auto", 10**6, 0), ("auto", 10**12, 1)]
)
def test_nothing_is_compiled_unless_wanted_or_worth_it(
    make_model, wanted, tokens, frozen, monkeypatch
):
    monkeypatch.setattr(torch, "compile", refuse)
    model = make_model()
    for parameter in list(model.parameters())[:frozen]:
        parameter.requires_grad_(False)
    assert not compile_parts(model, wanted, device="cpu", tokens=tokens)


def test_auto_compiles_where_much_is_to_be_trained(make_model, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: forward)
    assert compile_parts(make_model(), "auto", device="cpu", tokens=10**12)


def test_where_it_fails_one_line_is_said_and_the_model_is_as_it_was(
    make_model, monkeypatch, capsys
):
    def compile_badly(forward, dynamic):
        def run(*args):
            raise RuntimeError("no C++ compiler\nand a long trace")

        return run

    monkeypatch.setattr(torch, "compile", compile_badly)
    model = make_model()
    ids = torch.arange(3, 9)[None]
    expected = model(ids).logits
    assert not compile_parts(model, True, device="cpu", tokens=1)
    assert torch.equal(model(ids).logits, expected)
    said = capsys.readouterr()
    assert "it fails here: RuntimeError: no C++ compiler" in said.out + said.err
    assert "long trace" not in said.out + said.err


# torch's compiler does what torch itself warns of; it filters that where warnings are no errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")
@pytest.mark.slow
def test_compiled_gradients_equal_those_without_at_any_length(make_model):
    models = [make_model(attn_implementation="posttrain_sdpa") for _ in range(2)]
    for model in models:
        prepare_packed(model)
    state = torch.random.get_rng_state()
    assert compile_parts(models[1], True, device="cpu", tokens=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    for lengths in ((40, 11), (7,), (30, 30, 33)):
        batch = make_batch(*lengths)
        for model in models:
            model.zero_grad()
            score_batch(model, batch).logprobs_N.sum().backward()
        plain, compiled = (dict(model.named_parameters()) for model in models)
        for name, parameter in plain.items():
            error = (compiled[name].grad - parameter.grad).norm()
            assert error <= 1e-5 * parameter.grad.norm(), name
