"""The one adapter over transformers: any causal language model that can be driven by embeddings."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softtokens.endings import Endings, endings_from
from softtokens.models import attention, thought_head
from softtokens.models.chat import Chat
from softtokens.models.files import find, load_model, without_progress_bars
from softtokens.models.kv import SlotKV
from softtokens.models.prefix import PrefixKV, PromptStates
from softtokens.models.probe import probe, require_same_decoding, require_same_logits
from softtokens.models.recompute import Recompute
from softtokens.models.table import table_of
from softtokens.models.tokens import owned_ids
from softtokens.ops.denormals import flushing_denormals
from softtokens.ops.vocabulary import Vocabulary, full_precision
from softtokens.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Mask = Tensor | dict[str, Tensor]  # of all layers, or by the type of a layer
log = logging.getLogger(__name__)
_STATE_FILE = "softtokens.json"
# Attention looks at a multiple of this many positions: on the CPU so that a row gets the same bits beside longer ones
# and alone, on a GPU so that a few recordings serve all lengths.
_VIEW_STEP = {"cpu": 16, "cuda": 128}
_NOWHERE = 2**31 - 1  # position of padding: after everything, so that nothing sees it


class HFPolicy:
    """A transformers causal language model and its tokenizer, as `models.policy.Policy`.

    mask_unused: give vocabulary rows that no token of the tokenizer owns the logit -inf (they would otherwise get
    probability: some models have hundreds). embedding_rms: from an earlier training; by default that of the table now.
    template: prompt text with {question} in it that the model was trained with, if known. chat: how a chat template
    made its prompts in training, if one did. endings: how its thoughts ended in training. like: a policy around the
    same architecture, whose checks are not repeated: the model may be without data.
    Raises UserError when the model cannot be driven by embeddings, with the reason.
    """

    eos_ids: frozenset[int]
    embedding_rms: float
    _transform: dict[str, Any]

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        mask_unused: bool = True,
        embedding_rms: float | None = None,
        template: str | None = None,
        chat: Chat | None = None,
        endings: Endings | None = None,
        like: HFPolicy | None = None,
    ):
        attention.register()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.mask_unused = mask_unused
        self.template, self.chat, self.endings = template, chat, endings
        self.logits_rounding: torch.dtype | None = None  # see ops.vocabulary
        config = model.config.get_text_config()
        self.context_length = int(getattr(config, "max_position_embeddings", 2**20))
        self.eos_ids = _eos_ids(model, tokenizer)
        self._window, self._mask_by_layer_type = _sliding_window(config)
        model.set_attn_implementation(attention.NAME)
        self._recompute: Recompute | None = None
        rows = table_of(model).shape[0]
        owned = owned_ids(tokenizer, rows) if mask_unused else range(rows)
        self._size = owned[-1] + 1
        self._owned = torch.tensor(owned, device=_with_data(self.device)) if len(owned) < self._size else None
        if like is not None:
            self.eos_ids, self._transform, self.embedding_rms = like.eos_ids, like._transform, like.embedding_rms
            self._recompute = like._recompute and Recompute(self.hidden_states, self.context_length)
            return
        if not self.eos_ids & set(owned):
            log.warning(
                "neither the tokenizer nor the model names an end-of-sequence token%s; every answer runs to its limit "
                "(max_answer_tokens). Set eos_token in tokenizer_config.json if there is one.",
                " that the tokenizer has" if self.eos_ids else "",
            )
        _require_rows_for(tokenizer, rows)
        self._transform = probe(model, self._size)
        self._drive(type(model).__name__)
        if embedding_rms is None:
            table = self.vocabulary.table.detach()
            embedding_rms = float(full_precision(table).square().mean().sqrt()) * self.vocabulary.table_scale
        self.embedding_rms = embedding_rms

    def around(self, model: PreTrainedModel) -> HFPolicy:
        """The same policy with another model of the same architecture."""
        policy = HFPolicy(
            model,
            self.tokenizer,
            mask_unused=self.mask_unused,
            template=self.template,
            chat=self.chat,
            endings=self.endings,
            like=self,
        )
        policy.logits_rounding = self.logits_rounding
        return policy

    def _drive(self, name: str) -> None:
        """Decode with our cache where that gives what the model gives, else without any."""
        try:
            require_same_decoding(self, name)
        except UserError as error:
            self._recompute = Recompute(self.hidden_states, self.context_length)
            try:
                require_same_decoding(self, name)
                require_same_logits(self, self.model, name)
            except UserError:
                raise error from None
            log.warning("%s; every step of it runs the whole sequence again, which is slow", error)

    @property
    def device(self) -> torch.device:
        return table_of(self.model).device

    @property
    def vocabulary(self) -> Vocabulary:
        head = self.model.get_output_embeddings()
        return Vocabulary(
            head=head.weight,
            table=table_of(self.model),
            size=self._size,
            owned=None if self._owned is None else self._owned.to(head.weight.device),
            bias=head.bias,
            rounding=self.logits_rounding,
            thought_head=thought_head.head_of(self.model),
            **self._transform,
        )

    @property
    def has_cache(self) -> bool:
        return self._recompute is None

    def step(self, inputs: Tensor, positions: Tensor, kv: SlotKV, view: int) -> Tensor:
        if self._recompute is not None:
            return self._recompute.step(inputs, positions, kv, view)
        kv.write_at, kv.view = positions, view
        mask = self._mask(positions[:, None], torch.arange(view, device=positions.device)[None])
        return self._body(inputs[:, None], positions[:, None], mask, kv)[:, 0]

    def view(self, positions: int) -> int:
        step = _VIEW_STEP[self.device.type]
        return -(-positions // step) * step

    def prompt_states(self, prompts: list[list[int]]) -> PromptStates:
        ids, lengths = self._padded(prompts)
        inputs = self.vocabulary.embed(ids)
        if self._recompute is not None:
            return self._recompute.prompt_states(inputs, lengths)
        kv = PrefixKV()
        query = torch.arange(ids.shape[1], device=self.device)
        hidden = self._body(inputs, query.expand_as(ids), self._mask(query[None], query[None]), kv)
        return PromptStates(hidden[torch.arange(len(prompts), device=self.device), lengths - 1], kv.layers, lengths)

    def continuation(self, inputs: Tensor, prompts: PromptStates, prompt_of_row: Tensor) -> Tensor:
        if self._recompute is not None:
            return self._recompute.continuation(inputs, prompts, prompt_of_row)
        lengths = prompts.lengths[prompt_of_row][:, None]
        longest = next(iter(prompts.layers.values()))[0].shape[2]
        query = lengths + torch.arange(inputs.shape[1], device=inputs.device)
        prompt = torch.arange(longest, device=inputs.device).expand(len(query), longest)
        key = torch.cat((torch.where(prompt < lengths, prompt, _NOWHERE), query), dim=1)
        return self._body(inputs, query, self._mask(query, key), PrefixKV(prompts, prompt_of_row))

    def hidden_states(self, inputs: Tensor) -> Tensor:
        positions = torch.arange(inputs.shape[1], device=inputs.device).expand(inputs.shape[:2])
        return self._body(inputs, positions, None, None)

    def _body(self, inputs: Tensor, positions: Tensor, mask: Mask | None, kv: SlotKV | PrefixKV | None) -> Tensor:
        inputs = inputs.to(self.model.dtype)
        output = self.model.base_model(
            inputs_embeds=inputs,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=kv,
            use_cache=kv is not None,
        )
        return output.last_hidden_state

    def _padded(self, prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids with zeros on the right, [prompts, longest or more], and lengths [prompts]."""
        longest = min(self.view(max(map(len, prompts))), self.context_length)
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        return ids.to(self.device), torch.tensor([len(p) for p in prompts], device=self.device)

    def _mask(self, query: Tensor, key: Tensor) -> Mask:
        """Which keys each query sees, by the position of either, [rows, queries] and [rows, keys]: itself and what is
        before. bool [rows, 1, queries, keys], in the form the model expects. Ready masks spare the model from making
        its own."""
        query, key = query[:, None, :, None], key[:, None, None, :]
        full = key <= query
        if self._window is None:
            return full
        sliding = full & (key > query - self._window)
        if self._mask_by_layer_type:
            return {"full_attention": full, "sliding_attention": sliding}
        return sliding

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """An ordinary Hugging Face folder, loadable by AutoModelForCausalLM (of a model with adapters: a peft folder),
        plus our own small state file, and one of the thought head if there is any. weights: to be saved in the place of
        the model's own."""
        has_head = thought_head.head_of(self.model) is not None
        if has_head:
            weights, of_head = thought_head.split(self.model.state_dict() if weights is None else weights)
        with without_progress_bars():
            self.model.save_pretrained(folder, state_dict=weights)
        if has_head:
            thought_head.save(of_head, Path(folder))
        self.tokenizer.save_pretrained(folder)
        state = {
            "embedding_rms": self.embedding_rms,
            "template": self.template,
            "chat": None if self.chat is None else dataclasses.asdict(self.chat),
            "endings": None if self.endings is None else dataclasses.asdict(self.endings),
            "thought_head": has_head,
        }
        (Path(folder) / _STATE_FILE).write_text(json.dumps(state) + "\n")


@flushing_denormals()
def load_policy(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    mask_unused: bool = True,
    merge_adapters: bool = True,
) -> HFPolicy:
    """A policy from a local folder, a hub name, or "tiny", the checkpoint that ships with the package. The folder of a
    training run stands for its best checkpoint. A peft folder brings its base model along.

    merge_adapters: add the adapters of a peft folder into the weights, else leave them beside, to be trained. Weights
    must be safetensors; code that comes with a model is never run. Raises UserError with the way out.
    """
    source = find(str(name))
    model, tokenizer = load_model(source, dtype, merge_adapters=merge_adapters)
    state_file = None if source.folder is None else source.folder / _STATE_FILE
    state = json.loads(state_file.read_text()) if state_file is not None and state_file.is_file() else {}
    model.to(device)  # type: ignore[arg-type]  # transformers' wrapper hides the signature
    if source.folder is not None and (state.get("thought_head") or (source.folder / thought_head.FILE).is_file()):
        thought_head.load(model, source.folder)
    return HFPolicy(
        model,
        tokenizer,
        mask_unused=mask_unused,
        embedding_rms=state.get("embedding_rms"),
        template=state.get("template"),
        chat=None if state.get("chat") is None else Chat(**state["chat"]),
        endings=None if state.get("endings") is None else endings_from(state["endings"]),
    )


def _require_rows_for(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Tokens that were added to a tokenizer may lie beyond the table (Gemma's for images do), ordinary ones may not."""
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"the model's embedding table has {rows:,} rows and its tokenizer {tokenizer.vocab_size:,} tokens, so some "
            "texts cannot be fed; the tokenizer is another model's. Put the model's own into its folder."
        )


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = [ids] if isinstance(ids, int) else list(ids or [])
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return frozenset(ids)


def _sliding_window(config: PreTrainedConfig) -> tuple[int | None, bool]:
    """The window of sliding layers (None: all layers see everything), and whether masks go by layer type."""
    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return None, False
    if window < 1:
        raise UserError(f"config.json has sliding_window {window}, in which no token is seen; set it to null for none")
    if layer_types is None:
        return window, False
    kinds = set(layer_types)
    if not kinds <= {"full_attention", "sliding_attention"}:
        raise UserError(f"model has layers of type {sorted(kinds)}; only full and sliding attention can be driven")
    return (window, True) if "sliding_attention" in kinds else (None, False)


def resolve_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first CUDA device if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device is {name!r}; it must be auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device is {name!r}; it must be auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device is {name!r}, but torch sees no CUDA device; use auto or cpu")
    return device


def _with_data(device: torch.device) -> torch.device:
    """The CPU for tensors of a model that is without data yet."""
    return torch.device("cpu") if device.type == "meta" else device
