"""The weights that the optimizer updates, and those that compute: the same ones, bfloat16 copies, or shards. Updated
values are always float32: in bfloat16, updates at these learning rates round away.

Updated values are always float32: in bfloat16, updates at these learning rates round away.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from softtokens.models.blocks import blocks, known_blocks
from softtokens.models.hf import HFPolicy
from softtokens.models.size import ModelSize
from softtokens.world.processes import World, alone

M = TypeVar("M", bound=nn.Module)


class Weights:
    """The parameters of a policy in float32, complete in every process.

    parameters: by name, what the optimizer updates and whose `.grad` it reads. policy: scores rollouts, with gradient,
    inside `run`. sampler: makes rollouts. size, blocks: of the policy's model, none where it does not name its blocks.
    """

    gradient_scale = 1.0  # the loss is multiplied by this to undo how gradients are reduced
    in_step = False  # whether processes must run the same number of passes
    shares_prompts = True  # whether one pass over the prompts can serve several backward passes
    shards = 1  # over how many processes gradients and optimizer state are split

    def __init__(self, policy: HFPolicy, world: World | None = None):
        self.policy = self.sampler = policy
        self.world = world or alone(policy.device)
        self.parameters = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
        self.size, self.blocks = ModelSize.of(policy.model), known_blocks(policy.model)

    def run(self, function: Callable[[], Any]) -> Any:
        """Call it where the policy's weights are at hand."""
        return function()

    def take_gradients(self) -> list[Tensor]:
        """The gradient that has gathered in all processes, summed over them; the next one starts at zero."""
        gradients = self._taken()
        self.world.sum_(gradients)
        return gradients

    def put_gradients(self, gradients: list[Tensor] | None) -> None:
        """None: forget them."""
        for parameter, gradient in zip(self.parameters.values(), gradients or repeat(None), strict=False):
            parameter.grad = gradient

    def _taken(self) -> list[Tensor]:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters.values()]
        self.put_gradients(None)
        return gradients

    @torch.no_grad()
    def refresh(self) -> None:
        """After an update: what computes follows what was updated."""

    def complete(self) -> dict[str, Tensor] | None:
        """Everything a model folder holds, float32, in the main process's memory (empty in the others); None where the
        policy's model is that already."""
        return None


class WithMasters(Weights):
    """The model computes in bfloat16; float32 master weights are updated."""

    def __init__(self, policy: HFPolicy, world: World | None = None):
        super().__init__(policy, world)
        self._computing = self.parameters
        self.parameters = {name: p.detach() for name, p in self._computing.items()}
        for parameter in policy.model.parameters():  # not buffers: rotary frequencies stay as they are
            parameter.data, parameter.grad = parameter.data.to(torch.bfloat16), None
        for name, parameter in self._computing.items():
            parameter.register_post_accumulate_grad_hook(_into(self.parameters[name]))

    @torch.no_grad()
    def refresh(self) -> None:
        torch._foreach_copy_(list(self._computing.values()), list(self.parameters.values()))

    def complete(self) -> dict[str, Tensor]:
        names = _saved(self.policy.model)
        return {name: self.parameters.get(name, tensor).float() for name, tensor in names.items()}


class Sharded(Weights):
    """FSDP2: parameters, gradients and optimizer state are split over the processes, and each block is gathered while
    it computes. Rollouts use a full copy in every process, refreshed in place after each update, because gathering the
    blocks for every token would be several times slower.

    load: called in the main process only, which sends the weights to the others one by one. A machine therefore holds
    the model once, however many processes it has.
    """

    in_step = True
    shares_prompts = False

    def __init__(self, load: Callable[[], HFPolicy], world: World, *, hybrid: bool, dtype: torch.dtype):
        loaded: list[HFPolicy] = []

        def without_weights() -> HFPolicy:
            loaded.append(load())
            return loaded[0].around(_empty_like(loaded[0].model, torch.device("meta")))

        policy = world.from_main(without_weights)
        whole = _empty_like(policy.model, world.device, dtype).requires_grad_(False)
        filling = _Filling(policy.model, loaded[0].model if loaded else None, whole, world)
        mesh = world.mesh(hybrid=hybrid)
        size, units = ModelSize.of(policy.model), blocks(policy.model)  # before sharding, which renames their classes
        precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for block in units:
            filling.fill(block)  # only one block is materialised at a time
            fully_shard(block, mesh=mesh, mp_policy=precision)
        filling.fill(policy.model)
        self._root = _Root(policy.model)
        fully_shard(self._root, mesh=mesh, mp_policy=precision)
        super().__init__(policy, world)
        self.size, self.blocks = size, units
        self.sampler = policy.around(whole)
        self._copies = dict(whole.named_parameters())
        self.shards = mesh.size() // (mesh.size(0) if hybrid else 1)
        self.gradient_scale = float(world.size)  # FSDP takes the mean over processes

    def run(self, function: Callable[[], Any]) -> Any:
        return self._root(function)

    def take_gradients(self) -> list[Tensor]:
        return self._taken()  # already summed

    @torch.no_grad()
    def refresh(self) -> None:
        for name, parameter in self.parameters.items():
            self._copies[name].copy_(complete(parameter))

    @torch.no_grad()
    def complete(self) -> dict[str, Tensor]:
        weights = {}
        for name, tensor in _saved(self.policy.model).items():
            whole = complete(tensor)
            if self.world.is_main:
                weights[name] = whole.detach().cpu()
        return weights


class _Filling:
    """Gives a model without data its weights, part by part, on the world's device. source: the model that has them, in
    the main process. whole: a copy of the model that gets them too, in its own precision."""

    def __init__(self, model: nn.Module, source: nn.Module | None, whole: nn.Module, world: World):
        self._world = world
        self._source = dict(_tensors(source)) if source is not None else {}
        self._whole = dict(_tensors(whole))
        # keeps the tensors too: an id could be reused once its tensor is freed
        self._empty = {id(tensor): (name, tensor) for name, tensor in _tensors(model)}
        self._filled: dict[int, Tensor] = {}  # by the id of the tensor it replaces, so tied parameters stay tied

    @torch.no_grad()
    def fill(self, part: nn.Module) -> None:
        for module in part.modules():
            both: list[dict[str, Any]] = [module._parameters, module._buffers]
            for tensors in both:
                for key, tensor in tensors.items():
                    if tensor is not None and id(tensor) in self._empty:
                        tensors[key] = self._tensor(tensor)

    def _tensor(self, empty: Tensor) -> Tensor:
        if id(empty) not in self._filled:
            name = self._empty[id(empty)][0]
            full = torch.empty_like(empty, device=self._world.device)
            if name in self._source:
                full.copy_(self._source.pop(name))
            self._world.broadcast_(full)
            self._whole[name].copy_(full)
            is_parameter = isinstance(empty, nn.Parameter)
            self._filled[id(empty)] = nn.Parameter(full, empty.requires_grad) if is_parameter else full
        return self._filled[id(empty)]


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, each once."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _empty_like(model: M, device: torch.device, dtype: torch.dtype | None = None) -> M:
    """The same modules around new tensors without values. dtype: of the parameters; buffers keep theirs."""
    replaced: dict[int, Tensor] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device=device, dtype=dtype or parameter.dtype)
        replaced[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
    for buffer in model.buffers():
        replaced[id(buffer)] = torch.empty_like(buffer, device=device)
    return copy.deepcopy(model, replaced)


def complete(tensor: Tensor) -> Tensor:
    """The full tensor, of which this process may hold a part. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_gradient(weights: Weights) -> Iterator[Tensor]:
    """The `.grad` of each parameter, complete, one at a time; zeros where there is none. All processes must call it."""
    for parameter in weights.parameters.values():
        yield complete(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class _Root(nn.Module):
    """Calls what it is given while embedding, head and last norm are gathered; blocks gather themselves."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


def total_norm(gradients: list[Tensor]) -> float:
    """The norm over all entries and all processes."""
    norm = torch.nn.utils.get_total_norm(gradients)
    return float(complete(norm))


def _into(master: Tensor) -> Callable[[Tensor], None]:
    """A hook that adds up gradients in float32: in bfloat16 small parts of a sum would be lost."""

    def move(parameter: Tensor) -> None:
        assert parameter.grad is not None, "the hook runs after the gradient has come"
        gradient = parameter.grad.float()
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        parameter.grad = None

    return move


def _saved(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, each once, and the buffers that belong to a model's state."""
    kept = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    return dict(model.named_parameters()) | buffers
