"""Show a model's thoughts: shadow text, the mixtures behind it, and the answer."""

from __future__ import annotations

import dataclasses
import logging

import torch
from rich.markup import escape
from rich.table import Table

from softtokens.cli.progress import console
from softtokens.config.commands import GenerateConfig
from softtokens.config.endings import EndingsConfig
from softtokens.config.task import template_variables
from softtokens.config.thought import AS_TRAINED, SETTINGS
from softtokens.ending_setup import endings_of
from softtokens.evaluate.evaluated_models import thought_in_training
from softtokens.models import thought_head
from softtokens.models.chat import Chat, rendered
from softtokens.models.hf import HFPolicy, load_policy, resolve_device
from softtokens.ops.mixture import tempered_softmax
from softtokens.ops.random import evaluation_seed
from softtokens.rollout.batches import sample_problems
from softtokens.rollout.limits import Limits
from softtokens.rollout.record import Rollout
from softtokens.rollout.replay import hidden_before_thoughts
from softtokens.rollout.stopping import decode_text
from softtokens.tasks.files import as_text
from softtokens.tasks.prompt import MATH_MESSAGE, MATH_TEMPLATE, PLACE, PromptForm, check_template
from softtokens.thoughts import Thought, build_thought
from softtokens.types import UserError

log = logging.getLogger(__name__)
_SHOWN_TOKENS = 5


def generate(config: GenerateConfig) -> None:
    """Print thoughts and answer of `config.samples` rollouts."""
    dtype = getattr(torch, config.dtype)
    policy = load_policy(config.model, device=resolve_device(config.device), dtype=dtype)
    chat = _chat(config, policy)
    trained = policy.template if (policy.chat is None) == (chat is None) else None  # else it is of other prompts
    template = config.template or trained or (MATH_TEMPLATE if chat is None else MATH_MESSAGE)
    if template == PLACE and config.template is None and chat is None:
        log.info(
            "the model was trained on complete prompts, so the question is used as the prompt; --template changes that"
        )
    question = as_text(config.question, what="question")
    form = PromptForm(check_template(template), chat is not None, None if chat is None else chat.system)
    problem = form.problem(0, question, "", {})
    if chat is not None:
        (problem,) = rendered([problem], policy.tokenizer, chat)
    thought = _thought(config, policy)
    endings = policy.endings if config.endings == EndingsConfig() else None
    if endings is None:
        endings = endings_of(config.endings, policy.tokenizer, chat, max_answer_tokens=config.max_answer_tokens)
    limits = Limits(config.max_thought_steps, config.max_answer_tokens, answer_temperature=0.0, endings=endings)
    seed = evaluation_seed(config.seed)
    rollout = sample_problems(policy, thought, [problem], [range(config.samples)], limits, seed=seed)
    for row in range(rollout.rows):
        if config.samples > 1:
            console.rule(f"sample {row + 1}")
        what = "thoughts" if thought.is_drawn_token else "thoughts (the token that stands for each step)"
        console.print(f"[bold]{what}[/]: {_plain(rollout.thought_texts[row])}", highlight=False)
        console.print(f"[bold]answer[/]: {_plain(rollout.answer_texts[row])}", highlight=False)
        stop = rollout.stop_reasons[row]
        console.print(f"[dim]{int(rollout.thought_lengths[row])} thought steps, ended by {stop}[/]")
        if config.trace:
            console.print(trace_table(policy, thought, rollout.take(torch.tensor([row]))))


def _chat(config: GenerateConfig, policy: HFPolicy) -> Chat | None:
    """How a chat template makes the prompt: as the flags ask, else as in training; None for plain text."""
    trained, variables = policy.chat, template_variables(config.chat_kwargs)
    if trained is None and not config.chat:
        if config.system is not None or variables:
            given = "system" if config.system is not None else "chat_kwargs"
            raise UserError(f"{given} is given, but the prompt is plain text; add --chat, or drop it")
        return None
    trained = trained or Chat()
    return Chat(trained.system if config.system is None else config.system, variables or trained.variables)


def _thought(config: GenerateConfig, policy: HFPolicy) -> Thought:
    """How the model thinks. UserError for as-trained with a model that belongs to no training run."""
    if config.setting == AS_TRAINED:
        settings, greedy = thought_in_training(config.model), False
        if settings is None:
            raise UserError(
                f"setting is as-trained, but no training run belongs to {config.model!r}; give a run directory or a "
                f"checkpoint in one, or another setting: {', '.join(SETTINGS)}"
            )
    else:
        settings, greedy = SETTINGS[config.setting].thought, SETTINGS[config.setting].is_greedy
    if config.gamma is not None:
        settings = dataclasses.replace(settings, gamma=config.gamma)
    thought = build_thought(settings, policy.embedding_rms, greedy=greedy)
    thought_head.require(policy.model, thought.new_head)
    return thought


@torch.no_grad()
def trace_table(policy: HFPolicy, thought: Thought, rollout: Rollout) -> Table:
    """One row per thought step of a single rollout: the heaviest tokens of its mixture, entropy, effective support."""
    vocabulary = policy.vocabulary
    hidden = hidden_before_thoughts(policy, thought, rollout)
    distribution = thought.at(hidden, vocabulary)
    concentration = distribution.concentration
    temperature = thought.temperature or 1.0
    weights = tempered_softmax(distribution.logits, temperature)
    table = Table(title=f"mixtures (weights at temperature {temperature:g}; entropy in nats at temperature 1)")
    for column in ("step", "fed" if thought.is_drawn_token else "token", "entropy", "support", "heaviest tokens"):
        table.add_column(column, justify="right" if column in ("step", "entropy", "support") else "left")
    tokens = rollout.ids[rollout.is_thought]
    for step in range(len(tokens)):
        top = weights[step].topk(min(_SHOWN_TOKENS, weights.shape[1]))
        heavy = "  ".join(
            f"{_shown(policy, int(i))} {float(w):.3f}" for w, i in zip(top.values, top.indices, strict=True) if w > 5e-4
        )
        table.add_row(
            str(step + 1),
            escape(_shown(policy, int(tokens[step]))),
            f"{float(concentration.entropy[step]):.3f}",
            f"{float(concentration.effective_support[step]):.2f}",
            escape(heavy),
        )
    return table


def _plain(text: str) -> str:
    """Text safe for the terminal. Model output is untrusted: no markup, and no control characters."""
    return escape("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text))


def _shown(policy: HFPolicy, token: int) -> str:
    return repr(decode_text(policy.tokenizer, [token]))
