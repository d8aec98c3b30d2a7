"""Rows of a data set, from a local file or folder or from the Hugging Face hub, or a clear error."""

from __future__ import annotations

import contextlib
import csv
import datetime
import gzip
import io
import itertools
import json
import math
import re
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from softtokens.files import expanded
from softtokens.types import UserError

JSON_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
ENDINGS = (*JSON_ENDINGS, ".parquet", ".csv")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

Row = dict[str, Any]


def load_rows(
    source: str,
    *,
    split: str | None = None,
    config: str | None = None,
    limit: int | None = None,
    usual_split: str | None = None,
) -> list[Row]:
    """The first `limit` rows (None: all) of a file, a data set folder or a hub data set `owner/name`.

    A file is one split, so `split` and `config` do not matter there. usual_split: the split to take from a folder of
    several if `split` is None and it has this one. Local data leaves nothing in the cache of the datasets library; a
    hub data set is downloaded into it once.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; give 1 or more, or leave it out to read every row.")
    if not source:
        raise UserError("the name of the data set is empty; give a file, a folder, or owner/name of the hub.")
    path = Path(expanded(source))
    if path.is_dir():
        rows = _read_folder(path, split, config, limit, usual_split)
    elif path.exists():
        rows = _read_file(path, limit)
    elif is_hub_name(source):
        rows = _read_hub(source, split, config, limit)
    else:
        raise UserError(
            f"there is no file or folder {source!r}. Give the path of one ({', '.join(ENDINGS)}), or a data set of "
            "the Hugging Face hub as owner/name."
        )
    if not rows:
        raise UserError(f"{source} holds no rows; at least 1 is needed.")
    return rows


def is_hub_name(source: str) -> bool:
    # data/train.jsonl looks like a hub name but must be a file, missing or not.
    return bool(_HUB_NAME.fullmatch(source)) and not source.startswith(".") and not source.lower().endswith(ENDINGS)


def column_in(rows: Sequence[Row], names: Sequence[str], *, source: str, advice: str) -> str:
    """The first of `names` that is a column of the rows; `advice` is what the user can do where there is none."""
    present = dict.fromkeys(column for row in rows for column in row)
    for name in names:
        if name in present:
            return name
    raise UserError(
        f"{source} has no column {' or '.join(map(repr, names))}; it has {', '.join(map(repr, present))}. {advice}"
    )


def text_at(row: Row, column: str, *, where: str) -> str:
    """A required text; numbers and dates become text."""
    return as_text(present_at(row, column, where=where), what=f"{where}: {column!r}")


def present_at(row: Row, column: str, *, where: str) -> Any:
    value = row.get(column)
    if value is None:
        raise UserError(f"{where}: {column!r} is missing or null. Fill it in or remove the row.")
    return value


def as_text(value: object, *, what: str) -> str:
    text = _written(value)
    if text is None:
        kind = "" if isinstance(value, (float, Decimal)) else f", a {type(value).__name__}"
        raise UserError(f"{what} is {_shown(value)}{kind}; it has to be plain text or a finite number.")
    if not text.strip():
        raise UserError(f"{what} is empty. Fill it in or remove the row.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{what} holds half a surrogate pair, which no tokenizer reads ({error}).") from error
    return text


def _written(value: object) -> str | None:
    """A text, number or date as people write it; None for anything else. Python would write 0.00001 as 1e-05."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, (float, Decimal)):
        return format(Decimal(str(value)), "f") if math.isfinite(value) else None
    if isinstance(value, datetime.datetime) and value.time() == datetime.time() and value.tzinfo is None:
        return str(value.date())  # a date in a column of timestamps
    return str(value) if isinstance(value, (datetime.date, datetime.time)) else None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _read_file(path: Path, limit: int | None) -> list[Row]:
    name = path.name.lower()
    if name.endswith(JSON_ENDINGS):
        return list(itertools.islice(_json_rows(path), limit))
    if name.endswith(".csv"):
        return list(itertools.islice(_csv_rows(path), limit))
    if not name.endswith(ENDINGS):
        raise UserError(
            f"{path} is not a kind of file that can be read here; its name has to end in {', '.join(ENDINGS)}."
        )
    if path.stat().st_size == 0:
        return []
    return _read_local("parquet", limit, what=str(path), data_files=str(path), split="train")


def _json_rows(path: Path) -> Iterator[Row]:
    """Rows of JSON, one per line or all in one list.

    Not through the datasets library: it guesses types (an answer `2020-01-01` comes back as a date), drops lone
    surrogates and does not say in which line a file is broken.
    """
    open_file = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with open_file(path, "rb") as file:
            if _begins_with_list(file):
                yield from _checked(_parsed(file.read(), str(path)), path)
            else:
                lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
                for number, line in lines:
                    try:
                        row = _parsed(line, f"{path}, line {number}")
                    except UserError:
                        _require_no_single_object(line + file.read(), path)
                        raise
                    yield from _checked([row], path, f"line {number}")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read: {error}. Check that the file is complete and that its extension is right."
        ) from error


def _begins_with_list(file: io.BufferedIOBase) -> bool:
    for line in file:
        content = line.lstrip(b"\xef\xbb\xbf \t\r\n")
        if content:
            file.seek(0)
            return content.startswith(b"[")
    return False


def _require_no_single_object(content: bytes, path: Path) -> None:
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(content.decode("utf-8-sig"))
        if isinstance(value, dict):
            raise UserError(
                f"{path} holds one JSON object over several lines, with the keys {', '.join(map(repr, value))}. "
                "Write one row a line, or a list of rows: [{...}, {...}]."
            )


def _parsed(content: bytes, where: str) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (
        ValueError,
        RecursionError,
    ) as error:  # ValueError: not UTF-8, not JSON, or an integer beyond Python's limit
        raise UserError(f"{where} is not valid JSON: {error}.") from error


def _checked(values: Any, path: Path, place: str = "") -> Iterator[Row]:
    for number, value in enumerate(values):
        if not isinstance(value, dict):
            raise UserError(
                f"{path}, {place or f'item {number}'} is {_shown(value)}; each row has to be an object with columns, "
                'such as {"question": ..., "answer": ...}.'
            )
        yield value


def _csv_rows(path: Path) -> Iterator[Row]:
    """Every cell stays the text it is; the datasets library would read 05 as 5.0 and the word None as missing."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = next(reader, [])
            for cells in reader:
                if cells and len(cells) != len(columns):
                    raise UserError(
                        f"{path}, line {reader.line_num} has {len(cells)} cells, but the first line names "
                        f"{len(columns)} columns. Put texts with commas between double quotes."
                    )
                if cells:  # skip empty lines
                    yield dict(zip(columns, cells, strict=True))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num} is not valid CSV: {error}.") from error


def _read_folder(
    path: Path, split: str | None, config: str | None, limit: int | None, usual_split: str | None
) -> list[Row]:
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        import datasets

        with _datasets_errors(str(path)):
            return _first_rows(datasets.load_from_disk(str(path)), split, limit, str(path), usual_split)
    return _read_local(str(path), limit, what=str(path), name=config, split=split, usual_split=usual_split)


def _read_local(
    builder: str, limit: int | None, *, what: str, split: str | None, usual_split: str | None = None, **options: Any
) -> list[Row]:
    with (
        tempfile.TemporaryDirectory(prefix="softtokens-", ignore_cleanup_errors=True) as cache,
        _datasets_errors(what),
    ):
        import datasets

        # Streaming reads only `limit` rows and builds no Arrow copy.
        data = datasets.load_dataset(builder, split=split, streaming=True, cache_dir=cache, **options)
        return _first_rows(data, split, limit, what, usual_split)


def _read_hub(name: str, split: str | None, config: str | None, limit: int | None) -> list[Row]:
    with _datasets_errors(name):
        import datasets

        return _first_rows(datasets.load_dataset(name, config, split=split), split, limit, name)


def _first_rows(
    data: Any, split: str | None, limit: int | None, what: str, usual_split: str | None = None
) -> list[Row]:
    if isinstance(data, dict):  # the splits of a data set
        split = usual_split if split is None and usual_split in data else split
        if split is None and len(data) > 1:
            raise UserError(f"{what} has the splits {', '.join(map(str, data))}; set split to one of them.")
        if split is not None and split not in data:
            raise UserError(f"split is {split!r}; {what} has {', '.join(map(str, data))}.")
        data = data[split if split is not None else next(iter(data))]
    short = _short_floats(data.features or {})
    with contextlib.closing(iter(data)) as rows:  # a stream that is not read to its end leaves its file open
        return [
            {name: _shortest(value, short[name]) if name in short else value for name, value in row.items()}
            for row in itertools.islice(rows, limit)
        ]


def _short_floats(features: Any) -> dict[str, str]:
    kinds = {name: getattr(kind, "dtype", None) for name, kind in features.items()}
    return {name: kind for name, kind in kinds.items() if kind in ("float16", "float32")}


def _shortest(value: float | None, dtype: str) -> float | None:
    """The shortest decimal that the column's type holds as this number: 0.1, not 0.10000000149011612."""
    import numpy as np

    return None if value is None else float(str(np.dtype(dtype).type(value)))


@contextlib.contextmanager
def _datasets_errors(what: str) -> Iterator[None]:
    """Quiet progress bars, and the datasets library's errors as one sentence that says what to do."""
    import datasets

    bars_were_on = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    except UserError:
        raise
    except ConnectionError as error:
        raise UserError(
            f"the Hugging Face hub cannot be reached, and {what} is not in the local cache ({error}). Without network, "
            f"give the path of a local copy instead: a file ({', '.join(ENDINGS)}) or a data set folder."
        ) from error
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UserError(
            f"{what} is neither a local file nor a data set on the Hugging Face hub that you may read ({error}). Check "
            "the spelling, or log in with `hf auth login` if it is private or gated."
        ) from error
    except Exception as error:  # many types, from pyarrow, pandas and datasets itself
        raise UserError(f"{what} cannot be read: {type(error).__name__}: {error}") from error
    finally:
        if bars_were_on:
            datasets.enable_progress_bars()
