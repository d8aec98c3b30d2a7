"""Read an evaluation folder. Knows no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from softtokens.evaluate.folder import cell_folder, choices_file, preservation_file, read_main, read_result
from softtokens.files import expanded
from softtokens.types import UserError


@dataclasses.dataclass(frozen=True)
class Results:
    """Finished results of an evaluation. summaries: (model, task, cell) -> summary.json. choices: (model, name) ->
    file. preservation: model -> file."""

    main: dict[str, Any]
    summaries: dict[tuple[str, str, str], dict[str, Any]]
    choices: dict[tuple[str, str], dict[str, Any]]
    preservation: dict[str, dict[str, Any]]

    @property
    def models(self) -> list[str]:
        return [model["name"] for model in self.main["models"]]

    @property
    def tasks(self) -> list[str]:
        return [task["name"] for task in self.main["tasks"]]

    @property
    def cells(self) -> list[str]:
        return list(self.main["settings"])


def read_results(folder: str | Path) -> Results:
    """UserError when the folder is no evaluation, or holds results of another schema."""
    root = Path(expanded(folder))
    main = read_main(root)
    if main is None:
        raise UserError(f"{str(folder)!r} holds no evaluation.json; give a folder that softtokens evaluate wrote")
    models = [model["name"] for model in main["models"]]
    summaries = {}
    for model in models:
        for task in main["tasks"]:
            for cell in main["settings"]:
                result = read_result(cell_folder(root, model, task["name"], cell) / "summary.json")
                if result is not None:
                    summaries[model, task["name"], cell] = result
    choices = {}
    for model in models:
        for file in sorted(choices_file(root, model, "x").parent.glob("*.json")):
            result = read_result(file)
            if result is not None:
                choices[model, file.stem] = result
    preserved = {model: read_result(preservation_file(root, model)) for model in models}
    return Results(
        main, summaries, choices, {model: result for model, result in preserved.items() if result is not None}
    )
