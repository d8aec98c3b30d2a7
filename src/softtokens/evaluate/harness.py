"""Multiple-choice tasks of lm-eval by name, scored by our policy through lm-eval's own Python API (extra `harness`)."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from softtokens.evaluate.choices import describe_scores
from softtokens.evaluate.nll import ChoiceScores, continuation_log_probs
from softtokens.files import expanded
from softtokens.models.hf import HFPolicy
from softtokens.models.tokens import prompt_ids
from softtokens.types import UserError

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM


class Harness:
    """lm-eval with its tasks. Raises UserError when it is not installed or does not know a task."""

    def __init__(self, names: Sequence[str], include: str | None = None):
        if importlib.util.find_spec("lm_eval") is None:
            raise UserError("harness needs lm-eval, which is not installed: pip install 'softtokens[harness]'")
        from lm_eval.tasks import TaskManager

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        # indexing lm-eval's own tasks takes a while; skip it if the user's folder has all of them
        include = None if include is None else expanded(include)
        self._manager = None if include is None else TaskManager(include_path=include, include_defaults=False)
        if self._manager is None or not set(names) <= set(self._manager.all_tasks):
            self._manager = TaskManager(include_path=include)
        for name in names:
            if name not in self._manager.all_tasks:
                raise UserError(
                    f"harness is {name!r}, which is not an lm-eval task; `lm-eval ls tasks` lists them, and "
                    "--harness-tasks FOLDER adds your own"
                )

    def score(self, policy: HFPolicy, model: str, name: str, *, limit: int | None) -> dict[str, Any]:
        """The content of choices/MODEL/NAME.json; of a group such as mmlu the items of all its tasks together."""
        from lm_eval import simple_evaluate

        adapter = adapter_of(policy)
        try:
            evaluation = simple_evaluate(
                model=adapter, tasks=[name], task_manager=self._manager, limit=limit, bootstrap_iters=0
            )
        except UserError:
            raise
        except Exception as error:  # anything from data sets to the tasks' own code may fail
            raise UserError(f"lm-eval task {name!r} failed: {type(error).__name__}: {error}") from error
        scores, has_normalized = _scores(adapter, name, evaluation["samples"])
        described = describe_scores(scores, model, name, "lm-eval")
        if not has_normalized:
            described["accuracy_normalized"] = described["per_item"]["correct_normalized"] = None
        return described | {"lm_eval": {"results": _plain(evaluation["results"]), "limit": limit}, "limit": limit}


def adapter_of(policy: HFPolicy) -> LM:
    """The policy as an `lm_eval.api.model.LM`: likelihoods only."""
    from lm_eval.api.model import TemplateLM

    class PolicyLM(TemplateLM):
        def __init__(self) -> None:
            super().__init__()
            self.tokenizer = policy.tokenizer

        @property
        def eot_token_id(self) -> int:
            return min(policy.eos_ids)

        @property
        def prefix_token_id(self) -> int:
            bos = policy.tokenizer.bos_token_id
            return self.eot_token_id if bos is None else bos

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
            del kwargs
            if add_special_tokens is False or not string:
                return policy.tokenizer.encode(string, add_special_tokens=False)
            return prompt_ids(policy, [("a text of the lm-eval task", string)])[0]

        def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

        def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
            del kwargs
            pairs = [_fitting(context, ids, policy.context_length) for _, context, ids in requests]
            return continuation_log_probs(policy, pairs)

        def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> NoReturn:
            raise UserError("lm-eval's perplexity tasks are not supported; choose multiple-choice tasks")

        def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> NoReturn:
            raise UserError("lm-eval tasks that generate text are not supported; use --task for those")

    return PolicyLM()


def _fitting(context: list[int], ids: list[int], length: int) -> tuple[list[int], list[int]]:
    """Cut the beginning of a context that is too long, as lm-eval does."""
    if len(ids) >= length:
        raise UserError(f"a choice has {len(ids)} tokens, but the model's context is {length}")
    return context[-(length - len(ids)) :], ids


def _scores(adapter: Any, name: str, samples: dict[str, list[dict[str, Any]]]) -> tuple[ChoiceScores, bool]:
    correct, normalized, nll = [], [], []
    for logged in samples.values():
        first = {sample["doc_id"]: sample for sample in reversed(logged)}  # lm-eval logs one entry per filter
        for _, sample in sorted(first.items()):
            if "acc" not in sample or not isinstance(sample.get("arguments"), Sequence):
                raise UserError(f"lm-eval task {name!r} is not multiple choice; only those are supported")
            correct.append(sample["acc"])
            normalized.append(sample.get("acc_norm", np.nan))
            nll.append(_right_nll(adapter, sample))
    has_normalized = bool(np.isfinite(normalized).all())
    return ChoiceScores(np.array(correct), np.nan_to_num(normalized), np.array(nll)), has_normalized


def _right_nll(adapter: Any, sample: dict[str, Any]) -> float:
    """Nats per token of the right choice; NaN where lm-eval does not identify it."""
    right, texts = sample["target"], [continuation for _, continuation in sample["arguments"]]
    if isinstance(right, str):
        stripped = [text.strip() for text in texts]
        right = stripped.index(right.strip()) if right.strip() in stripped else int(right) if right.isdigit() else -1
    if isinstance(right, bool) or not isinstance(right, int) or not 0 <= right < len(texts):
        return float("nan")
    context, continuation = sample["arguments"][right]
    if context == "":
        tokens = adapter.tok_encode(continuation, add_special_tokens=False)
    else:
        tokens = adapter._encode_pair(context, continuation)[1]
    return -float(sample["resps"][right][0][0]) / max(len(tokens), 1)


def _plain(results: dict[str, Any]) -> dict[str, Any]:
    """The numbers and texts of lm-eval's own results."""
    return {
        task: {key: value for key, value in values.items() if isinstance(value, (int, float, str))}
        for task, values in results.items()
    }
