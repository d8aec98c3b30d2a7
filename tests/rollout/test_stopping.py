"""The stop automaton against the rule on text, and the forced text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softtokens.rollout.stopping import (
    BOX,
    STOP_PHRASE,
    decode_text,
    forced_ids,
    stop_table,
    stops_by_text,
    token_texts,
)

PIECES = ["The", " final", " answer", " is", ":", ": ", " ", "The final answer is:", "The final", "\n", "T", "so."]


@pytest.fixture(scope="module")
def table(tokenizer):
    return stop_table(tokenizer, len(tokenizer) + 7)


def run(table, ids):
    state = 0
    for token in ids:
        state = int(table.next_state[state, token])
    return state


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=12))
def test_the_automaton_agrees_with_the_rule_on_text(tokenizer, table, pieces):
    # as a model would write it: tokens in any segmentation, not only the tokenizer's own
    ids = [i for piece in pieces for i in tokenizer.encode(piece)]
    for end in range(len(ids) + 1):
        text = decode_text(tokenizer, ids[:end])
        assert (run(table, ids[:end]) == table.complete) == stops_by_text(text), text
        if ids[:end] and "\ufffd" not in text:
            assert bool(table.ends_in_space[ids[end - 1]]) == (text[-1] in " \t\n")


def test_random_token_sequences(tokenizer, table):
    generator = torch.Generator().manual_seed(0)
    phrase = tokenizer.encode(STOP_PHRASE)
    stops = 0
    for _ in range(300):
        ids = torch.randint(len(tokenizer), (12,), generator=generator).tolist()
        cut = int(torch.randint(len(phrase) + 1, (1,), generator=generator))
        ids = ids[:3] + phrase[:cut] + phrase
        state = run(table, ids)
        stops += state == table.complete
        assert (state == table.complete) == stops_by_text(decode_text(tokenizer, ids))
    assert stops > 200


def test_token_texts_add_up_to_the_text(tokenizer):
    texts = token_texts(tokenizer, len(tokenizer) + 7)
    ids = tokenizer.encode("Tom has 4 apples.  The final answer is: \\boxed{12}")
    assert "".join(texts[i] for i in ids) == decode_text(tokenizer, ids)
    assert texts[-7:] == [""] * 7


def test_forced_texts_complete_the_thoughts(tokenizer):
    for (with_phrase, space), ids in forced_ids(tokenizer).items():
        thoughts = ("4. The final answer is:" if with_phrase else "4 + 4") + (" " if space else "")
        text = thoughts + decode_text(tokenizer, ids)
        assert text.endswith("The final answer is: " + BOX)
        assert text.count("The final answer is:") == 1


def test_a_phrase_of_white_space_is_refused(tokenizer):
    with pytest.raises(ValueError, match="phrase"):
        stop_table(tokenizer, 10, phrase="  ")


def test_sentencepiece_style_tokenizers(table):
    """Pieces that begin with a word mark, a leading space that decoding drops, and byte fall-back."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["▁The", "▁final", "▁answer", "▁is", ":", "▁", "▁so", "T", "he", "▁a", "a", "x", "<0xC3>", "<0xA9>", "▁:"]
    vocab = {piece: i for i, piece in enumerate(["<unk>", *words, "\\", "boxed", "{"])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    automaton = stop_table(tokenizer, len(tokenizer))
    for pieces, stops in [
        (["▁The", "▁final", "▁answer", "▁is", ":"], True),
        (["▁so", "▁", "T", "he", "▁final", "▁answer", "▁is", ":", "▁"], True),
        (["▁The", "▁final", "▁answer", "▁is", "▁:"], False),
        (["▁The", "▁final", "▁answer", "▁is", ":", "x"], False),
        (["▁The", "▁final", "<0xC3>", "<0xA9>", "▁answer", "▁is", ":"], False),
    ]:
        ids = [vocab[piece] for piece in pieces]
        assert (run(automaton, ids) == automaton.complete) == stops == stops_by_text(decode_text(tokenizer, ids))
