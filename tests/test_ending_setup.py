"""The endings that a configuration names, for tokenizers of thinking and of other models."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging

import pytest
import torch

from chat_tokenizers import TEMPLATES, chat_tokenizer
from conftest import build_model
from softtokens.config.endings import EndingsConfig
from softtokens.ending_setup import endings_of
from softtokens.endings import PAPER, THINK, Ending, Endings, endings_from
from softtokens.models.chat import Chat
from softtokens.models.hf import HFPolicy, load_policy
from softtokens.ops.random import Keys
from softtokens.rollout.decode import sample_rollout
from softtokens.rollout.limits import Limits
from softtokens.rollout.stopping import forced_ids
from softtokens.thoughts import Hard
from softtokens.types import UserError


def chosen(tokenizer, chat=None, *, answer=512, **settings) -> Endings:
    return endings_of(EndingsConfig(**settings), tokenizer, chat, max_answer_tokens=answer)


@pytest.mark.parametrize("name", TEMPLATES)
def test_auto_knows_the_thinking_models_by_their_templates(tokenizer, name, caplog):
    own = chat_tokenizer(tokenizer, TEMPLATES[name])  # every one of them has the tokens <think> and </think>
    with caplog.at_level(logging.INFO, logger="softtokens"):
        endings = chosen(own, Chat())
    thinks = name in ("qwen3", "deepseek_r1_distill")
    assert endings == (THINK if thinks else PAPER)
    assert ("thoughts end with </think>" in caplog.text) == thinks


def test_auto_is_the_paper_where_nothing_says_otherwise(tokenizer):
    qwen = chat_tokenizer(tokenizer, TEMPLATES["qwen3"])
    assert chosen(qwen) == PAPER  # plain prompts
    assert chosen(qwen, Chat(None, {"enable_thinking": False})) == PAPER
    assert chosen(qwen, Chat(None, {"enable_thinking": True})) == THINK
    assert chosen(qwen, Chat(), preset="paper") == PAPER
    several = copy.deepcopy(tokenizer)
    several.chat_template = TEMPLATES["qwen3"]
    assert chosen(several, Chat()) == PAPER  # </think> is no token of it


def test_think_needs_the_token(tokenizer):
    own = chat_tokenizer(tokenizer, TEMPLATES["smollm2"])
    assert chosen(own, preset="think") == THINK
    with pytest.raises(UserError, match=r"</think> is \d+ tokens of this tokenizer.*--thought-end '</think>'"):
        chosen(tokenizer, preset="think")


def test_a_short_answer_after_thinking_is_warned_of(tokenizer, caplog):
    own = chat_tokenizer(tokenizer, TEMPLATES["deepseek_r1_distill"])
    chosen(own, Chat(), answer=32)
    assert "max_answer_tokens is 32, and after </think> the answer is a whole reply" in caplog.text


def test_forced_text_takes_the_place_of_the_presets(tokenizer):
    own = chat_tokenizer(tokenizer, TEMPLATES["qwen3"])
    think = chosen(own, Chat(), forced_text=r"\nSo \boxed{")
    assert think == Endings((Ending("think", "\nSo \\boxed{", "</think>"),), "\n</think>\nSo \\boxed{")
    assert chosen(own, forced_text="") == Endings(
        (Ending("phrase", "", "The final answer is: "),), "The final answer is: "
    )


def test_endings_of_ones_own(tokenizer, caplog):
    own = chat_tokenizer(tokenizer, TEMPLATES["smollm2"])
    number = own.convert_tokens_to_ids("</think>")
    endings = chosen(own, thought_end=("Answer:", f"id:{number}", "!", "eos"), forced_text=" ")
    assert endings == Endings(
        (
            Ending("answer", " ", "Answer:"),
            Ending(f"id-{number}", " ", token_ids=(number,)),
            Ending("end-3", " ", "!"),
            Ending("end-4", " ", "eos"),
        ),
        "Answer: ",
    )
    assert chosen(own, thought_end=(f"id:{number}",)).otherwise == "</think>"
    assert caplog.text == ""
    chosen(tokenizer, thought_end=("</think>",))
    assert "thought_end '</think>' is 8 tokens of this tokenizer, so it is matched as text" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "thinking"}, "preset is 'thinking'; it must be one of auto, paper, think"),
        ({"preset": "think", "thought_end": ("x",)}, "endings is think, and thought_end is given"),
        ({"thought_end": (" ",)}, "thought_end is ' '; it must be texts that are not only spaces"),
        ({"thought_end": ("id:x",)}, "thought_end is 'id:x'; it must be texts, or tokens as id:N"),
        ({"thought_end": ("x", "x")}, "it must be all different"),
        ({"thought_end": ("id:99999",)}, r"thought_end has the token 99999, but the tokenizer has 0 to \d+"),
    ],
)
def test_endings_that_do_not_exist(tokenizer, settings, message):
    with pytest.raises(UserError, match=message):
        chosen(tokenizer, **settings)


def test_endings_survive_json():
    endings = Endings((Ending("a", "x", token_ids=(3, 4)), Ending("b", "", "t")), "o")
    assert endings_from(json.loads(json.dumps(dataclasses.asdict(endings)))) == endings


@pytest.fixture
def thinker(tokenizer):
    """A model that likes to close its thoughts, and to end its answer as a chat turn ends."""
    own = chat_tokenizer(tokenizer, TEMPLATES["qwen3"], bos=None)
    own.eos_token = "<|im_end|>"
    model = build_model("llama-untied", len(own), logit_std=1.0)
    model.generation_config.eos_token_id = own.eos_token_id
    with torch.no_grad():
        likes = own.convert_tokens_to_ids(["</think>", "<|im_end|>"])
        model.get_output_embeddings().weight[likes] *= 2.5
    return HFPolicy(model, own)


def test_thoughts_end_where_the_model_closes_them_and_the_answer_where_its_turn_ends(thinker, tmp_path):
    tokenizer = thinker.tokenizer
    thinker.chat, thinker.endings = Chat("Be brief.", {"a": 1}), THINK
    thinker.save(tmp_path)
    assert (load_policy(tmp_path).chat, load_policy(tmp_path).endings) == (thinker.chat, THINK)
    rows, close = 64, tokenizer.convert_tokens_to_ids("</think>")
    keys = Keys(0, torch.zeros(rows, dtype=torch.int64), torch.arange(rows))
    limits = Limits(12, 12, endings=chosen(tokenizer, Chat()))
    rollout = sample_rollout(thinker, Hard(), [tokenizer.encode("4 apples<think>")], [0] * rows, keys, limits)
    after_close, after_limit = forced_ids(tokenizer, THINK)
    assert after_close[0] == tokenizer.encode("\n\n") and close in after_limit[0]
    assert {"think", "limit"} <= set(rollout.stop_reasons)
    ended = 0
    for row in range(rows):
        length, prompt = int(rollout.thought_lengths[row]), int(rollout.prompt_lengths[row])
        emitted = rollout.ids[row, prompt : int(rollout.lengths[row])].tolist()
        thoughts, rest = emitted[:length], emitted[length:]
        assert close not in thoughts[:-1]
        reason = rollout.stop_reasons[row]
        assert (thoughts[-1] == close) == (reason == "think")
        assert any(rest[: len(forced)] == forced for forced in (after_close if reason == "think" else after_limit))
        assert rollout.answer_texts[row].startswith("\n\n" if reason == "think" else "\n</think>\n\n")
        ended += rest[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in rest[:-1]
    assert ended > 5
