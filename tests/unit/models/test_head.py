import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from posttrain.models import head
from posttrain.models.head import OutputLayer, score_tokens

N, E, V = 23, 16, 101


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    hidden = torch.randn(N, E, requires_grad=True)
    weight = torch.randn(V, E, requires_grad=True)
    bias = torch.randn(V, requires_grad=True)
    return hidden, weight, bias, torch.randint(0, V, (N,))


def score(hidden, weight, bias, targets):
    return score_tokens(hidden, OutputLayer(weight, bias), targets)


def set_rows(monkeypatch, rows):
    monkeypatch.setattr(head, "_CHUNK_ELEMENTS", rows * V)
    monkeypatch.setattr(head, "_CHUNK_ROWS", 1)


def naive(hidden, weight, bias, targets):
    logp = (hidden @ weight.T + (0 if bias is None else bias)).log_softmax(-1)
    chosen = logp.gather(-1, targets[:, None])[:, 0]
    entropy = torch.distributions.Categorical(logits=logp).entropy()
    return chosen, entropy, (logp.argmax(-1) == targets).float()


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("rows", [1, 4, 23, 1000])
def test_scores_and_gradients_equal_naive_logits_whatever_the_chunk(
    inputs, rows, with_bias, monkeypatch
):
    set_rows(monkeypatch, rows)
    hidden, weight, bias, targets = inputs
    bias = bias if with_bias else None
    expected = naive(hidden, weight, bias, targets)
    found = score(hidden, weight, bias, targets)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf is not None]
    upstream = torch.randn(N)
    wanted = torch.autograd.grad((expected[0] * upstream).sum(), leaves)
    given = torch.autograd.grad((found[0] * upstream).sum(), leaves)
    for ours, theirs in zip(given, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_no_operation_makes_as_many_elements_as_all_logits(inputs, monkeypatch):
    set_rows(monkeypatch, 3)
    hidden, weight, bias, targets = inputs
    with LargestTensor() as seen:
        logprobs, _, _ = score(hidden, weight, bias, targets)
        logprobs.sum().backward()
    assert seen.elements == max(V * E, 3 * V)
    assert seen.elements < N * V
    with LargestTensor() as seen:
        naive(hidden, weight, bias, targets)
    assert seen.elements >= N * V, "the measure itself must see the logits of the naive way"


def test_even_one_row_longer_than_a_chunk_is_scored(inputs, monkeypatch):
    set_rows(monkeypatch, 1)
    torch.testing.assert_close(score(*inputs)[0], naive(*inputs)[0])


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_what_is_frozen_gets_no_gradient(inputs, frozen):
    hidden, weight, bias, targets = inputs
    leaves = {"hidden": hidden, "weight": weight, "bias": bias}
    leaves[frozen].requires_grad_(False)
    score(hidden, weight, bias, targets)[0].sum().backward()
    assert [name for name, leaf in leaves.items() if leaf.grad is None] == [frozen]


def test_entropy_of_even_odds_is_the_logarithm_of_the_vocabulary():
    logprobs, entropy, _ = score(torch.zeros(2, E), torch.randn(V, E), None, torch.tensor([0, 5]))
    torch.testing.assert_close(entropy, torch.full((2,), V).log())
    torch.testing.assert_close(logprobs, -torch.full((2,), V).log())


def test_certainty_has_no_entropy_and_stays_finite():
    weight = torch.zeros(V, E)
    weight[7] = 1e4
    logprobs, entropy, correct = score(
        torch.ones(1, E, requires_grad=True), weight, None, torch.tensor([7])
    )
    assert (float(logprobs.detach()), float(entropy), float(correct)) == (0.0, 0.0, 1.0)


def test_under_autocast_products_are_bf16_and_the_sum_is_fp32(inputs):
    hidden, weight, bias, targets = inputs
    with torch.autocast("cpu", torch.bfloat16):
        found = score(hidden, weight, bias, targets)
        found[0].sum().backward()
    logits = (hidden.bfloat16() @ weight.bfloat16().T).float() + bias
    expected = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=1e-6)
    assert {score.dtype for score in found} == {torch.float32}
    assert {leaf.grad.dtype for leaf in (hidden, weight, bias)} == {torch.float32}


def test_no_scored_token_gives_empty_scores_and_zero_gradients(inputs):
    hidden, weight, bias, _ = inputs
    found = score(hidden[:0], weight, bias, torch.zeros(0, dtype=torch.long))
    assert [tuple(score.shape) for score in found] == [(0,)] * 3
    found[0].sum().backward()
    assert not weight.grad.any()


def make_layer(kind):
    """An output layer of a kind, its leaves, and its logits by the definition."""
    torch.manual_seed(1)
    weight, bias = torch.randn(V, E, requires_grad=True), torch.randn(V, requires_grad=True)
    first, second = torch.randn(3, E, requires_grad=True), torch.randn(V, 3, requires_grad=True)
    leaves, form = [weight], {}
    if kind == "bias":
        leaves.append(bias)
    if kind == "adapter":
        leaves += [first, second]
    if kind in ("scale", "all"):
        form["scale"] = 0.25
    if kind in ("cap", "all"):
        form["cap"] = 3.0
    if kind in ("temperature", "all"):
        form["temperature"] = 0.7
    if kind == "all":
        leaves += [bias, first, second]

    def layer(hidden):
        adapter = (
            (hidden @ first.T, second) if any(first is leaf for leaf in leaves) else (None, None)
        )
        return OutputLayer(
            weight, bias if any(bias is leaf for leaf in leaves) else None, *adapter, **form
        )

    def logits(hidden):
        raw = hidden @ weight.T + (bias if any(bias is leaf for leaf in leaves) else 0)
        raw = raw + (hidden @ first.T @ second.T if any(first is leaf for leaf in leaves) else 0)
        raw = raw * form.get("scale", 1.0)
        cap = form.get("cap")
        raw = raw if cap is None else cap * (raw / cap).tanh()
        return raw / form.get("temperature", 1.0)

    return layer, logits, leaves


KINDS = ["plain", "bias", "adapter", "scale", "cap", "temperature", "all"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("foreseen", ["no", "yes", "a multiple", "wrongly"])
def test_every_form_of_layer_equals_naive_logits(kind, foreseen, inputs, monkeypatch):
    set_rows(monkeypatch, 5)
    hidden, _, _, targets = inputs
    layer, logits, leaves = make_layer(kind)
    upstream = torch.randn(N)
    told = {"no": None, "yes": upstream, "a multiple": 3 * upstream, "wrongly": upstream.flip(0)}
    found = score_tokens(hidden, layer(hidden), targets, told[foreseen])
    logp = logits(hidden).log_softmax(-1)
    chosen = logp.gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(found[0], chosen, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], -(logp.exp() * logp).sum(-1), rtol=1e-4, atol=1e-5)
    assert torch.equal(found[2], (logp.argmax(-1) == targets).float())
    given = torch.autograd.grad((found[0] * upstream).sum(), [hidden, *leaves])
    wanted = torch.autograd.grad((chosen * upstream).sum(), [hidden, *leaves])
    for ours, theirs in zip(given, wanted, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


class Products(TorchDispatchMode):
    """Counts products with the output weight and its gradient."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        shapes = [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]
        if name in ("mm", "addmm_") and any(V in s and E in s for s in shapes):
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("foreseen", "products"), [(True, 3), (False, 4)])
def test_a_foreseen_loss_saves_the_second_product(inputs, foreseen, products):
    hidden, weight, _, targets = inputs
    upstream = -torch.ones(N) / N
    with Products() as seen:
        told = upstream if foreseen else None
        scores = score_tokens(hidden, OutputLayer(weight), targets, told)
        (scores[0] * upstream).sum().backward()
    assert seen.count == products


def test_of_equally_likely_tokens_the_first_is_the_top_one():
    targets = torch.tensor([0, 5])
    scores = score_tokens(torch.zeros(2, E), OutputLayer(torch.randn(V, E)), targets)
    assert scores[2].tolist() == [1.0, 0.0]
