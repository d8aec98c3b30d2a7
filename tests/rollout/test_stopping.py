"""The stop automaton compared with the rule on text, and the forced text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softtokens.endings import PAPER, Ending, Endings
from softtokens.rollout.stopping import decode_text, ending_by_text, forced_ids, stop_table, token_texts
from softtokens.types import UserError

PHRASE = PAPER.ways[0].text
SEVERAL = Endings(
    (
        Ending("answer", "12", "so. 4"),
        Ending("marker", "", "is:"),  # also the end of the paper's phrase
        Ending("inside", "x", "final answer"),  # the beginning of the next ending
        Ending("longer", " y", "final answer \nis no"),
    ),
    "z",
)
PIECES = ["The", " final", " answer", " is", ":", ": ", " ", "The final answer is:", "The final", "\n", "T", "so."]


@pytest.fixture(scope="module", params=[PAPER, SEVERAL], ids=["paper", "several"])
def endings(request):
    return request.param


@pytest.fixture(scope="module")
def table(tokenizer, endings):
    return stop_table(tokenizer, len(tokenizer) + 7, endings)


def ending_of(table, ids):
    """The ending that the automaton reports, None if there is none."""
    state = 0
    for token in ids:
        state = int(table.next_state[state, token])
    ending = int(table.ending[state])
    return None if ending == int(table.ending[0]) else ending  # an empty text has none


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=12))
def test_the_automaton_agrees_with_the_rule_on_text(tokenizer, endings, table, pieces):
    # a model may write tokens in any segmentation, not only the tokenizer's
    ids = [i for piece in pieces for i in tokenizer.encode(piece)]
    for end in range(len(ids) + 1):
        text = decode_text(tokenizer, ids[:end])
        assert ending_of(table, ids[:end]) == ending_by_text(text, endings), text
        if ids[:end] and "\ufffd" not in text:
            assert bool(table.ends_in_space[ids[end - 1]]) == (text[-1] in " \t\n")


def test_random_token_sequences(tokenizer, endings, table):
    generator = torch.Generator().manual_seed(0)
    phrase = tokenizer.encode(PHRASE)
    stops = 0
    for _ in range(300):
        ids = torch.randint(len(tokenizer), (12,), generator=generator).tolist()
        cut = int(torch.randint(len(phrase) + 1, (1,), generator=generator))
        ids = ids[:3] + phrase[:cut] + phrase
        stops += ending_of(table, ids) is not None
        assert ending_of(table, ids) == ending_by_text(decode_text(tokenizer, ids), endings)
    assert stops > 200


def test_token_texts_add_up_to_the_text(tokenizer):
    texts = token_texts(tokenizer, len(tokenizer) + 7)
    ids = tokenizer.encode("Tom has 4 apples.  The final answer is: \\boxed{12}")
    assert "".join(texts[i] for i in ids) == decode_text(tokenizer, ids)
    assert texts[-7:] == [""] * 7


def test_forced_texts_complete_the_thoughts(tokenizer):
    for thoughts, of_ending in zip(("4. The final answer is:", "4 + 4"), forced_ids(tokenizer, PAPER), strict=True):
        for space, ids in zip(("", " "), of_ending, strict=True):
            text = thoughts + space + decode_text(tokenizer, ids)
            assert text.endswith("The final answer is: \\boxed{")
            assert text.count("The final answer is:") == 1


def test_white_space_stands_once_between_thoughts_and_forced_text(tokenizer):
    texts = [[decode_text(tokenizer, ids) for ids in of_ending] for of_ending in forced_ids(tokenizer, SEVERAL)]
    assert texts == [[" 12", "12"], ["", ""], [" x", "x"], [" y", " y"], [" z", "z"]]


def test_single_tokens_end_thoughts(tokenizer):
    [four], [three] = tokenizer.encode("4"), tokenizer.encode("3")
    endings = Endings((Ending("number", "", token_ids=(four, three)), Ending("again", "", token_ids=(four,))), "x")
    table = stop_table(tokenizer, len(tokenizer), endings)
    assert table.ending_of_token[[four, three]].tolist() == [0, 0] and int((table.ending_of_token != 2).sum()) == 2
    assert (table.ending == 2).all()
    with pytest.raises(UserError, match="the ending far has the token id 999999; the model has 0 to"):
        stop_table(tokenizer, len(tokenizer), Endings((Ending("far", "", token_ids=(999_999,)),), ""))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ending("a", "x", "  "), "the ending a has the text '  ' and no token ids"),
        (lambda: Ending("limit", "x", "so"), "the name of an ending is 'limit'"),
        (lambda: Endings((Ending("a", "", "so"), Ending("a", "", "thus")), ""), "the endings are named a, a"),
    ],
)
def test_endings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_sentencepiece_style_tokenizers():
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
    automaton = stop_table(tokenizer, len(tokenizer), PAPER)
    for pieces, stops in [
        (["▁The", "▁final", "▁answer", "▁is", ":"], True),
        (["▁so", "▁", "T", "he", "▁final", "▁answer", "▁is", ":", "▁"], True),
        (["▁The", "▁final", "▁answer", "▁is", "▁:"], False),
        (["▁The", "▁final", "▁answer", "▁is", ":", "x"], False),
        (["▁The", "▁final", "<0xC3>", "<0xA9>", "▁answer", "▁is", ":"], False),
    ]:
        ids = [vocab[piece] for piece in pieces]
        expected = 0 if stops else None
        assert ending_of(automaton, ids) == expected == ending_by_text(decode_text(tokenizer, ids), PAPER)
