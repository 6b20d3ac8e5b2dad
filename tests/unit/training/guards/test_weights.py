import pytest
import torch
from safetensors.torch import save_file

from posttrain.errors import VerificationError
from posttrain.training.guards.weights import WeightWatch, check_saved, describe_change


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))


def test_weights_that_did_not_move_are_refused(model):
    watch = WeightWatch(model)
    with pytest.raises(VerificationError, match="no trainable weight has changed"):
        watch.check_moved(model)


def test_the_share_of_moved_tensors_counts_trainable_ones_and_names_the_others(model):
    model[0].weight.requires_grad = False
    watch = WeightWatch(model)
    with torch.no_grad():
        model[1].bias[1] += 1e-6
        model[0].weight += 1
    change = watch.check_moved(model)
    assert change.moved_share == pytest.approx(1 / 3)
    assert change.unmoved == ("0.bias", "1.weight")
    assert "2 are as they were: 0.bias, 1.weight" in describe_change(change)[1]


def test_the_change_is_measured_by_the_norm_at_the_start(model):
    watch = WeightWatch(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.1
    change = watch.check_moved(model)
    assert change.delta == pytest.approx(0.1, rel=1e-5)
    assert len(describe_change(change)) == 1


def test_the_change_of_a_large_tensor_is_estimated_from_a_part():
    torch.manual_seed(0)
    model = torch.nn.Linear(400, 400, bias=False)
    watch = WeightWatch(model)
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1e-3 * torch.randn(400, 400)
    true = float((model.weight.detach() - before).norm() / before.norm())
    assert watch.check_moved(model).delta == pytest.approx(true, rel=0.03)


def test_a_saved_model_without_a_trained_weight_is_refused(model, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model[1].weight += 1
    whole = {f"renamed.{name}": value for name, value in model.state_dict().items()}
    save_file(whole, tmp_path / "model.safetensors")
    check_saved(model, tmp_path)
    save_file(before, tmp_path / "model.safetensors")
    with pytest.raises(VerificationError, match=r"1\.weight and 0 other trained weights are not"):
        check_saved(model, tmp_path)
    check_saved(model, tmp_path, apart=("1.",))


def test_experts_that_are_saved_one_by_one_must_be_there_as_they_were_trained(tmp_path):
    model = torch.nn.ModuleDict({"layer": torch.nn.Module()})
    model["layer"].experts = torch.nn.Module()
    model["layer"].experts.up = torch.nn.Parameter(torch.randn(2, 3, 4))
    parts = {
        f"layer.experts.{number}.up": part.clone()
        for number, part in enumerate(model["layer"].experts.up.detach())
    }
    save_file(parts, tmp_path / "model.safetensors")
    check_saved(model, tmp_path)
    parts["layer.experts.1.up"][0, 0] += 1e-3
    save_file(parts, tmp_path / "model.safetensors")
    with pytest.raises(VerificationError, match=r"layer\.experts\.up and 0 other trained weights"):
        check_saved(model, tmp_path)
