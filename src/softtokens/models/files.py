"""From a folder, a run or a hub name to a model that matches its files, and its tokenizer."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from softtokens.files import expanded
from softtokens.models import lora, thought_head
from softtokens.models.blocks import known_blocks
from softtokens.models.checkpoint_paths import best_checkpoint
from softtokens.models.lora import Misfit
from softtokens.types import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)
TINY = "tiny"


@dataclasses.dataclass(frozen=True)
class Source:
    """name: as the user gave it. folder: where its files are; None: on the hub. cached: take them from the hub's cache
    without asking the hub."""

    name: str
    folder: Path | None
    cached: bool = False

    @property
    def adapters(self) -> Path | None:
        """The folder, if it is a folder of adapters."""
        return self.folder if self.folder is not None and lora.is_folder(self.folder) else None

    @property
    def options(self) -> dict[str, Any]:
        """Arguments for transformers' `from_pretrained`. Code that comes with a model is never run."""
        place = self.name if self.folder is None else str(self.folder.resolve())
        return {
            "pretrained_model_name_or_path": place,
            "local_files_only": self.cached,
            "trust_remote_code": False,
        }

    def base(self) -> Source:
        """The model that holds the weights: the base of adapters, else the source itself."""
        adapters = self.adapters
        if adapters is None:
            return self
        base = find(lora.base_of(adapters))
        if base.adapters is not None:
            raise UserError(
                f"{adapters / lora.CONFIG_FILE} names as its base {base.name!r}, which holds adapters itself; merge "
                f"those first (softtokens export {base.name} NEW_FOLDER) and name the new folder there"
            )
        return base


def find(name: str) -> Source:
    """UserError when there is no such folder, or when the hub says that it has no such model."""
    path = tiny_checkpoint() if name == TINY else best_checkpoint(Path(expanded(name)))
    _require_folder(name, path)
    return Source(name, path) if path.exists() else Source(name, None, cached=_only_cached(name))


def tiny_checkpoint() -> Path:
    """The folder of the embedded checkpoint: a 1-3 M parameter Llama that knows the arithmetic task."""
    return Path(__file__).resolve().parent.parent / "assets" / "tiny-llama"


def load_model(
    source: Source, dtype: torch.dtype, *, merge_adapters: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and its tokenizer. UserError, naming the files and weights, if they do not belong to one model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _require_loadable(source)
    base = source.base()
    _require_loadable(base)
    try:
        with _without_noise():
            tokenizer = AutoTokenizer.from_pretrained(**(source if _has_tokenizer(source) else base).options)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **base.options,
                dtype=dtype,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # reported below with both sizes
                output_loading_info=True,
            )
            model, report = loaded
            if lora.has_adapters(model):
                raise UserError(
                    f"model is {base.name!r}, a hub repository of adapters; download it (hf download {base.name} "
                    "--local-dir FOLDER) and give the folder"
                )
            _require_all_weights(base.name, model, report)
            if source.adapters is not None:
                model = lora.load(model, source.adapters, merge=merge_adapters)
    except UserError:
        raise
    except Exception as error:  # transformers raises many types here, all caused by the named model
        raise UserError(
            f"model {source.name!r} could not be loaded: {first_line(error)} "
            "Give a folder with config.json, a tokenizer and *.safetensors, or a hub name reachable from here."
        ) from error
    _require_finite(model, source.name)
    return model, tokenizer


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, a run or a hub name, without its model. UserError where there is none."""
    from transformers import AutoTokenizer

    source = find(str(name))
    try:
        return AutoTokenizer.from_pretrained(**(source if _has_tokenizer(source) else source.base()).options)
    except UserError:
        raise
    except Exception as error:  # as in `load_model`
        raise UserError(
            f"the tokenizer of model {str(name)!r} could not be loaded: {first_line(error)} "
            "Give a folder with a tokenizer, or a hub name reachable from here."
        ) from error


def load_without_weights(name: str | Path) -> PreTrainedModel:
    """The model of a folder, a run or a hub name without data (on the meta device), for its shapes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    source = find(str(name))
    base = source.base()
    try:
        config = AutoConfig.from_pretrained(**base.options)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # as in `load_model`
        raise UserError(
            f"the configuration of model {str(name)!r} could not be loaded: {first_line(error)} "
            "Give a folder with config.json, or a hub name reachable from here."
        ) from error
    if source.adapters is not None:
        lora.add_as_in(model, source.adapters)
    return model


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Silence progress bars and transformers' messages about weights that do not fit; we raise errors for these."""

    def is_no_report(record: logging.LogRecord) -> bool:
        return not any(words in record.getMessage() for words in ("LOAD REPORT", "checkpoint seem corrupted"))

    loggers = [logging.getLogger(f"transformers.{name}") for name in ("modeling_utils", "integrations.peft")]
    with without_progress_bars():
        for logger in loggers:
            logger.addFilter(is_no_report)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(is_no_report)


def _has_tokenizer(source: Source) -> bool:
    """Whether the folder has a tokenizer. Adapters are often saved without one and use that of their base."""
    adapters = source.adapters
    return adapters is None or any(adapters.glob("tokenizer*")) or any(adapters.glob("vocab*"))


def _only_cached(name: str) -> bool:
    """Whether the hub cannot be reached. Asked once, because transformers would ask for each of several files and
    retry for half a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=10)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"model is {name!r}, which is neither a folder here nor a model of the Hugging Face hub that you may read; "
            "check the spelling, or log in with `hf auth login` if it is private"
        ) from error
    except HfHubHTTPError:
        return False  # transformers will report what it is
    except Exception:  # no network, or told to be offline
        return True
    return False


def _require_folder(name: str, path: Path) -> None:
    in_existing_folder = len(path.parts) > 1 and Path(path.parts[0]).is_dir()
    looks_local = path.is_absolute() or name.startswith((".", "~", "$")) or len(path.parts) > 2 or in_existing_folder
    if not path.exists():
        if looks_local:
            raise UserError(f"model is {name!r}, a folder that does not exist; give a model folder or a hub name")
        return
    if not path.is_dir():
        raise UserError(f"model is {name!r}, which is a file; give the folder that holds config.json and the weights")


def _require_loadable(source: Source) -> None:
    name, path = source.name, source.folder
    if path is None:
        return
    weights = [file.name for file in path.glob("*.safetensors") if file.name != thought_head.FILE]
    has_adapters = lora.is_folder(path)
    if not (path / "config.json").is_file() and not has_adapters:
        raise UserError(f"model folder {name!r} has no config.json; it is not a Hugging Face model folder")
    if (path / "metrics.jsonl").is_file():
        raise UserError(f"model is {name!r}, a training run that has no checkpoint yet; let it reach its first save")
    if not weights:
        raise UserError(
            f"model folder {name!r} holds no weights (*.safetensors). Other formats can run code when opened and are "
            "not loaded; save the model again with save_pretrained(..., safe_serialization=True)."
        )
    if has_adapters and any(not file.startswith("adapter_model") for file in weights):
        raise UserError(
            f"model folder {name!r} holds adapters ({lora.CONFIG_FILE}) and a whole model "
            f"({', '.join(sorted(weights))}); put one of them into a folder of its own"
        )


def _require_all_weights(name: str, model: PreTrainedModel, report: dict[str, Iterable]) -> None:
    """UserError when transformers found weights of the model missing or of another shape, or has left some of its
    blocks unused. What lies outside of the blocks (heads for other uses, parts for images) is named in a warning."""
    inside = tuple({f"{name.rpartition('.')[0]}." for name in _names_of_blocks(model)})
    unused = sorted(report["unexpected_keys"])
    of_blocks = [key for key in unused if inside and key.startswith(inside)]
    shapes = [f"{key} is {list(is_now)}, not {list(wanted)}" for key, is_now, wanted in report["mismatched_keys"]]
    misfit = Misfit(sorted(report["missing_keys"]), of_blocks, sorted(shapes))
    if misfit:
        raise UserError(
            f"model {name!r} is not what its config.json describes: in its *.safetensors {misfit.in_words(unused)}. "
            "Put the weights and the config.json of one model into the folder, saved by save_pretrained."
        )
    if unused:
        log.warning("%s", f"model {name!r} has weights that {type(model).__name__} does not use: {lora.a_few(unused)}")


def _names_of_blocks(model: PreTrainedModel) -> list[str]:
    blocks = {id(block) for block in known_blocks(model)}
    return [name for name, module in model.named_modules() if id(module) in blocks]


def _require_finite(model: PreTrainedModel, name: str) -> None:
    for parameter_name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise UserError(
                f"model {name!r} has numbers that are not finite in {parameter_name}; its training went wrong before "
                "it was saved. Use an earlier checkpoint."
            )
