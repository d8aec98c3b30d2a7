import datetime
import decimal
import gzip
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softtokens.tasks.files import as_text, is_hub_name, load_rows
from softtokens.types import UserError

ROWS = [{"question": f"q{i} \u2028 é", "answer": str(i), "note": None if i else "first"} for i in range(5)]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache nobody else uses, to see that local files leave nothing in it; and no network."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    yield tmp_path / "cache"
    assert not (tmp_path / "cache").exists()


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(path, rows=ROWS):
    import datasets

    name = path.name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(jsonl(rows).encode()))
    elif name.endswith(".jsonl"):
        path.write_text(jsonl(rows))
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows, indent=1))
    else:
        getattr(datasets.Dataset.from_list(rows), {".parquet": "to_parquet", ".csv": "to_csv"}[path.suffix])(str(path))
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.JSON", "a.parquet", "a.csv"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name, capfd):
    expected = ROWS
    if name.endswith(".csv"):
        expected = [{**row, "note": row["note"] or ""} for row in ROWS]
    path = tmp_path / name
    write(path) if name != "a.JSON" else path.write_text("\ufeff\n" + json.dumps(ROWS))
    capfd.readouterr()
    assert load_rows(str(path)) == expected
    assert load_rows(str(path), limit=2, split="nothing to choose") == expected[:2]
    assert load_rows(str(path), limit=99) == expected
    assert capfd.readouterr() == ("", "")


def test_texts_stay_what_they_are(tmp_path):
    """No guessed dates, numbers or missing values."""
    texts = ["2020-01-01", "05", "1e5", "None", "NA", "12:30:00", "", "{question}", "  x ", "a\0b", "\ud800"]
    path = tmp_path / "a.jsonl"
    assert load_rows(write(path, [{"answer": text} for text in texts])) == [{"answer": text} for text in texts]
    path = tmp_path / "a.csv"
    texts = [text for text in texts if "\0" not in text and text.isprintable()]
    path.write_text("answer,n\n" + "".join(f'"{text}",1\n' for text in texts))
    assert [row["answer"] for row in load_rows(str(path))] == texts


def test_rows_may_differ_and_lines_may_be_empty_or_huge(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": "x", "b": [1, "y"]}\n{"a": "' + b"x" * 1_000_000 + b'"}')
    assert load_rows(str(path)) == [{"a": 1}, {"a": "x", "b": [1, "y"]}, {"a": "x" * 1_000_000}]


def test_limit_reads_no_further_than_it_must(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\nbroken')
    assert load_rows(str(path), limit=2) == [{"a": 1}, {"a": 2}]


def test_folder_in_hub_layout(tmp_path, capfd):
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.jsonl")
    assert load_rows(str(folder)) == ROWS
    write(folder / "test.jsonl", ROWS[:1])
    assert load_rows(str(folder), split="test") == ROWS[:1]
    assert load_rows(str(folder), split="train", limit=3) == ROWS[:3]
    assert capfd.readouterr() == ("", "")
    with pytest.raises(UserError, match=r"set has the splits train, test; set split"):
        load_rows(str(folder))
    with pytest.raises(UserError, match=r"validation"):
        load_rows(str(folder), split="validation")


def test_folder_of_configurations(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "a.jsonl", ROWS[:2])
    write(folder / "b.jsonl", ROWS[2:])
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in "ab")
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert load_rows(str(folder), config="b") == ROWS[2:]
    with pytest.raises(UserError, match=r"set cannot be read.*\['a', 'b'\]"):
        load_rows(str(folder), config="c")


def test_folder_saved_by_the_datasets_library(tmp_path):
    import datasets

    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data, "test": data.select([4])}).save_to_disk(tmp_path / "two")
    assert load_rows(str(tmp_path / "one"), limit=2) == ROWS[:2]
    assert load_rows(str(tmp_path / "two"), split="test") == ROWS[4:]
    with pytest.raises(UserError, match=r"split is 'x'; .*two has train, test"):
        load_rows(str(tmp_path / "two"), split="x")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": \n', r"a\.jsonl, line 3 is not valid JSON"),
        ("a.jsonl", '{"a": 1}\n"text"\n', r"a\.jsonl, line 2 is 'text'; each row has to be an object"),
        ("a.jsonl", '{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl, line 2 is not valid JSON: .*utf-8"),
        ("a.jsonl", '{"a": ' + "[" * 100_000, r"a\.jsonl, line 1 is not valid JSON: .*recursion"),
        ("a.jsonl", '{"a": ' + "1" * 5000 + "}", r"a\.jsonl, line 1 is not valid JSON: .*limit"),
        ("a.jsonl", "", r"a\.jsonl holds no rows"),
        ("a.jsonl", "\n \n", r"a\.jsonl holds no rows"),
        ("a.json", '[{"a": 1},\n{"a" 2}]', r"a\.json is not valid JSON: .*line 2"),
        ("a.json", '{\n "a": [\n  {"q": 1}\n ]\n}', r"a\.json holds one JSON object over .* lines, with the keys 'a'"),
        ("a.jsonl", '\n{"q": 1,\n"a": 2}\n', r"one JSON object over several lines, with the keys 'q', 'a'.*row a line"),
        ("a.json", '{\n "a": 1\n}\n{\n "a": 2\n}', r"a\.json, line 1 is not valid JSON"),
        ("a.json", '[{"a": 1}, 7]', r"a\.json, item 1 is 7; each row"),
        ("a.json", "[]", r"a\.json holds no rows"),
        ("a.jsonl.gz", "not gzip", r"a\.jsonl\.gz cannot be read"),
        ("a.jsonl.gz", "", r"a\.jsonl\.gz holds no rows"),
        ("a.csv", "", r"a\.csv holds no rows"),
        ("a.csv", "question,answer\n", r"a\.csv holds no rows"),
        ("a.csv", "q,a\n1,2\n3,4,5\n", r"a\.csv, line 3 has 3 cells, but .* 2 columns"),
        ("a.csv", 'q,a\n"1,2\n', r"a\.csv, line 2 is not valid CSV"),
        ("a.csv", "q,a\n\xff,2\n", r"a\.csv cannot be read: .*utf-8"),
        ("a.csv", "q,a\n" + "x" * 200_000 + ",2\n", r"a\.csv, line 2 is not valid CSV: .*limit"),
        ("a.parquet", "not parquet", r"a\.parquet cannot be read"),
        ("a.parquet", "", r"a\.parquet holds no rows"),
        ("a.txt", "text", r"a\.txt is not a kind of file that can be read here; .*\.jsonl.*\.parquet"),
        ("a", "text", r"not a kind of file"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        load_rows(str(tmp_path / name))


def test_half_a_gzip_file(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(os.urandom(1000).hex().encode() + b"\n")[:-300])
    with pytest.raises(UserError, match=r"a\.jsonl\.gz cannot be read: .*the file is complete"):
        load_rows(str(path))


def test_an_empty_folder(tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match="set cannot be read"):
        load_rows(str(tmp_path / "set"))


@pytest.mark.parametrize("source", ["no/such/file", "data/train.jsonl", "/no/such.parquet", "./a", "a b/c"])
def test_a_missing_file_is_not_looked_for_on_the_hub(source):
    with pytest.raises(UserError, match=r"there is no file or folder .*owner/name"):
        load_rows(source)


def test_an_empty_name_is_not_the_current_folder():
    with pytest.raises(UserError, match="name of the data set is empty"):
        load_rows("")


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_has_to_leave_something(limit):
    with pytest.raises(UserError, match=f"limit is {limit}; give 1 or more"):
        load_rows("anything", limit=limit)


def test_without_network_a_hub_name_says_how_to_go_on():
    with pytest.raises(UserError, match=r"openai/gsm8k.*Without network, give the path of a local copy"):
        load_rows("openai/gsm8k", config="main", split="train")


def test_hub_rows(monkeypatch):
    import datasets

    def load_dataset(name, config, *, split):
        assert (name, config) == ("owner/name", "main")
        data = datasets.Dataset.from_list(ROWS)
        return data if split else datasets.DatasetDict({"train": data})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_rows("owner/name", config="main", split="train", limit=3) == ROWS[:3]
    assert load_rows("owner/name", config="main") == ROWS


def test_a_hub_name_nobody_has(monkeypatch):
    import datasets

    def load_dataset(*arguments, **options):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'owner/nme' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"owner/nme is neither a local file nor a data set .*spelling"):
        load_rows("owner/nme")


def test_progress_bars_are_left_as_they_were(tmp_path):
    import datasets

    path = write(tmp_path / "a.parquet")
    for set_bars in (datasets.disable_progress_bars, datasets.enable_progress_bars):
        set_bars()
        before = datasets.are_progress_bars_disabled()
        load_rows(path)
        assert datasets.are_progress_bars_disabled() == before


def test_hub_names():
    assert is_hub_name("openai/gsm8k") and is_hub_name("m-a-p/x_1.5")
    for name in ("gsm8k", "a/b/c", "a/b.jsonl", "../b", "~/b", "a/b.CSV", "a\\b/c d"):
        assert not is_hub_name(name)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "True, a bool"),
        (["a" * 100], r"\['a+\.\.\., a list"),
        (float("nan"), "nan"),
        (" \n", "is empty"),
        ("\ud800", "surrogate"),
    ],
)
def test_what_is_no_text(value, message):
    with pytest.raises(UserError, match=f"here.*{message}"):
        as_text(value, what="here")
    assert (as_text(7, what="here"), as_text(0.5, what="here"), as_text(" x ", what="here")) == ("7", "0.5", " x ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00001, "0.00001"),
        (-2.5e-7, "-0.00000025"),
        (1e16, "10000000000000000"),
        (6.02e23, "602" + "0" * 21),
        (0.1, "0.1"),
        (2.0, "2.0"),
        (2**64 + 1, "18446744073709551617"),
        (decimal.Decimal("1E-7"), "0.0000001"),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 13, 5), "2024-02-29 13:05:00"),
        (datetime.time(13, 5), "13:05:00"),
    ],
)
def test_numbers_and_dates_are_written_as_people_write_them(value, text):
    assert as_text(value, what="it") == text


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), decimal.Decimal("Infinity")])
def test_a_number_without_a_value_is_refused(value):
    with pytest.raises(UserError, match=r"it is .*(inf|nan|Inf).*has to be plain text or a finite number"):
        as_text(value, what="it")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_a_number_has_its_value_and_no_exponent(value):
    text = as_text(value, what="it")
    assert float(text) == value and "e" not in text.lower()


def test_columns_of_parquet_keep_the_numbers_that_were_meant(tmp_path):
    import pyarrow
    import pyarrow.parquet

    columns = {
        "single": pyarrow.array([0.1, None], pyarrow.float32()),
        "half": pyarrow.array([np.float16(0.1), None], pyarrow.float16()),
        "double": pyarrow.array([0.1, 1e-5]),
        "whole": pyarrow.array([2**53 + 1, None]),
        "day": pyarrow.array([datetime.date(2024, 2, 29), None]),
    }
    path = str(tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    first, second = load_rows(path)
    assert first == {"single": 0.1, "half": 0.1, "double": 0.1, "whole": 2**53 + 1, "day": datetime.date(2024, 2, 29)}
    assert second == {"single": None, "half": None, "double": 1e-5, "whole": None, "day": None}
