"""Placement of sharded weights without devices: sharding is stubbed, and meta tensors stand for a GPU's."""

import pytest
import torch

from softtokens.models import lora
from softtokens.models.size import ModelSize
from softtokens.train import weights as weights_module
from softtokens.train.objective import TermWeights
from softtokens.train.weights import Sharded, Weights, WithMasters
from softtokens.world.processes import World, alone


@pytest.fixture
def unsharded(monkeypatch):
    """Modules passed to the sharding stub, in order; they stay whole."""
    sharded = []

    def stub(module, *, mesh, mp_policy):
        del mesh, mp_policy
        sharded.append([p.device.type for p in module.parameters()])
        return module

    monkeypatch.setattr(weights_module, "fully_shard", stub)
    monkeypatch.setattr(World, "mesh", lambda self, hybrid: _Mesh())
    return sharded


class _Mesh:
    def size(self, dimension: int | None = None) -> int:
        del dimension
        return 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "llama-untied"])
def test_weights_and_the_copy_for_rollouts_are_on_the_device_of_the_world(make_policy, unsharded, family, dtype):
    device = torch.device("meta")
    sharded = Sharded(lambda: make_policy(family), alone(device), hybrid=False, dtype=dtype)
    assert sharded.sampler.device == sharded.policy.device == device
    for tensors in (sharded.policy.model, sharded.sampler.model):
        assert {x.device for x in [*tensors.parameters(), *tensors.buffers()]} == {device}
    assert {p.dtype for p in sharded.sampler.model.parameters()} == {dtype}
    assert {p.dtype for p in sharded.parameters.values()} == {torch.float32}
    # one block at a time is whole: the last call is for the root, those before it see their own block alone
    assert all(set(kinds) == {"meta"} for kinds in unsharded) and len(unsharded) == 2 + 1


@pytest.mark.parametrize("family", ["llama", "llama-untied", "gpt2"])
def test_both_get_the_weights_that_were_loaded(make_policy, unsharded, family):
    loaded = make_policy(family)
    sharded = Sharded(lambda: loaded, alone(torch.device("cpu")), hybrid=False, dtype=torch.float32)
    for model in (sharded.policy.model, sharded.sampler.model):
        ours, theirs = model.state_dict(), loaded.model.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        buffers = zip(model.buffers(), loaded.model.buffers(), strict=True)
        assert all(torch.equal(a, b) for a, b in buffers)  # rotary frequencies are in no state_dict
        assert len(list(model.parameters())) == len(list(loaded.model.parameters()))  # tied parameters are still tied
    assert not any(p.requires_grad for p in sharded.sampler.model.parameters())
    assert len(sharded.blocks) == 2 and sharded.size == ModelSize.of(loaded.model)


def test_a_step_of_them_is_that_of_whole_weights(make_policy, make_batch, unsharded):
    batch = make_batch("soft")
    batch.accumulate(TermWeights())
    expected = [p.grad.clone() for p in batch.parameters]
    sharded = Sharded(lambda: batch.policy, alone(torch.device("cpu")), hybrid=False, dtype=torch.float32)
    batch.accumulate(TermWeights(), sharded)
    for parameter, gradient in zip(sharded.parameters.values(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for parameter in sharded.parameters.values():
            parameter.add_(1.0)
    sharded.refresh()
    for name, parameter in sharded.sampler.model.named_parameters():
        assert torch.equal(parameter, sharded.parameters[name])


def test_adapters_are_sharded_and_the_rest_is_not_trained(make_policy, unsharded):
    policy = make_policy("llama")
    lora.add(policy.model, 2, None, (), seed=0)
    sharded = Sharded(lambda: policy, alone(torch.device("meta")), hybrid=False, dtype=torch.float32)
    assert sharded.parameters and all("lora_" in name for name in sharded.parameters)


def test_only_the_main_process_loads(make_policy, unsharded, monkeypatch):
    """The others get modules without data through the world, and values one by one."""
    loaded, sent = make_policy("llama"), []
    monkeypatch.setattr(World, "broadcast_", lambda self, tensor: sent.append(tensor.shape))
    monkeypatch.setattr(World, "from_main", lambda self, make: loaded.around(_on_meta(loaded.model)))

    def never():
        raise AssertionError("loaded twice")

    sharded = Sharded(never, alone(torch.device("cpu")), hybrid=False, dtype=torch.float32)
    tensors = [*loaded.model.parameters(), *loaded.model.buffers()]
    assert sorted(sent) == sorted(x.shape for x in tensors)
    assert sharded.policy.device.type == "cpu"


def _on_meta(model):
    return weights_module._empty_like(model, torch.device("meta"))


def test_masters_are_the_loaded_weights_and_not_a_copy(make_policy):
    policy = make_policy("llama")
    before = {name: p.data_ptr() for name, p in policy.model.named_parameters()}
    masters = WithMasters(policy).parameters
    assert {name: p.data_ptr() for name, p in masters.items()} == before
    assert Weights(policy).shards == 1
