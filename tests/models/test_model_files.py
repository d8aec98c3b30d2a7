"""A model that does not match its files is rejected, with a message that names the files and the weights."""

from __future__ import annotations

import json
import logging
import shutil
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import build_model
from softtokens.models import lora
from softtokens.models.files import find, load_without_weights
from softtokens.models.hf import HFPolicy, load_policy
from softtokens.types import UserError


def edit_weights(folder, edit) -> None:
    (file,) = folder.glob("*.safetensors")
    save_file({k: v.contiguous() for k, v in edit(load_file(file)).items()}, file, {"format": "pt"})


def edit_json(file, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def with_prefix(weights):
    return {f"_orig_mod.{name}": weight for name, weight in weights.items()}


@pytest.fixture
def folder(make_policy, tmp_path):
    make_policy().save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def adapters(folder, tmp_path):
    """A folder of adapters that change the model, whose base is `folder`."""
    policy = load_policy(folder)
    lora.add(policy.model, 2, None, (), seed=0)
    policy.save(tmp_path / "adapters")
    edit_weights(tmp_path / "adapters", lambda weights: {k: torch.full_like(v, 0.1) for k, v in weights.items()})
    return tmp_path / "adapters"


def weights_of(path, **options):
    return load_policy(path, **options).model.state_dict()


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def a_row_less(weights):
    return {k: v[:-1] if k == "model.embed_tokens.weight" else v for k, v in weights.items()}


def a_layer_less(weights):
    return {k: v for k, v in weights.items() if ".layers.1." not in k}


def a_bias_more(weights):
    return weights | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (with_prefix, r"missing \(.*model.embed.*unused \(_orig_mod.model.*comes from torch.compile"),
        (a_layer_less, r"9 weights are missing \(model.layers.1.input_layernorm.weight, .*, \.\.\.\)\."),
        (a_bias_more, r"1 weights are unused \(model.layers.0.self_attn.q_proj.bias\)"),
        (a_row_less, r"have another shape \(model.embed_tokens.weight is \[\d+, 32\], not \[\d+, 32\]"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_weights_that_are_not_those_of_the_configuration_are_refused(folder, edit, reason, capfd):
    edit_weights(folder, edit)
    with pytest.raises(UserError, match=rf"model '.*/model' is not what its config.json describes: .*{reason}"):
        load_policy(folder)
    assert capfd.readouterr().err == ""


def test_weights_for_other_uses_are_named_and_do_no_harm(folder, caplog):
    before = weights_of(folder)
    edit_weights(folder, lambda weights: weights | {"v_head.summary.weight": torch.zeros(1, 32)})
    edit_weights(
        folder, lambda weights: weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}
    )  # in every old Llama
    with caplog.at_level(logging.WARNING, logger="softtokens"):
        assert_same(weights_of(folder), before)
    assert "does not use: v_head.summary.weight" in caplog.text and "inv_freq" not in caplog.text


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.filterwarnings("error")
def test_adapters_that_do_not_fit_are_refused(adapters, merge, capfd):
    fitting = (adapters / "adapter_model.safetensors").read_bytes()
    edits = {
        r"missing \(.*unused \(_orig_mod\.": with_prefix,
        r"1 weights are missing \(": lambda weights: dict(list(weights.items())[1:]),
        r"1 weights are unused \(": lambda weights: weights | {"base_model.model.x.lora_A.weight": torch.zeros(2, 2)},
    }
    for reason, edit in edits.items():
        (adapters / "adapter_model.safetensors").write_bytes(fitting)
        edit_weights(adapters, edit)
        with pytest.raises(UserError, match=rf"adapters in '.*/adapters' do not fit their base .*{reason}"):
            load_policy(adapters, merge_adapters=merge)
        assert capfd.readouterr().err == ""


def test_adapters_on_adapters_are_refused(adapters, tmp_path):
    shutil.copytree(adapters, tmp_path / "second")
    edit_json(tmp_path / "second/adapter_config.json", base_model_name_or_path=str(adapters))
    with pytest.raises(UserError, match=r"second/adapter_config.json names as its base .* which holds adapters itself"):
        load_policy(tmp_path / "second")


@pytest.mark.filterwarnings("error")
def test_the_base_of_adapters_is_looked_for_beside_them(adapters, folder, monkeypatch):
    expected = weights_of(adapters)
    assert any(not torch.equal(weight, expected[name]) for name, weight in weights_of(folder).items())
    edit_json(adapters / "adapter_config.json", base_model_name_or_path="../model")
    assert_same(weights_of(adapters), expected)
    assert load_without_weights(adapters).num_parameters() > 0
    monkeypatch.setenv("MODELS", str(folder.parent))
    edit_json(adapters / "adapter_config.json", base_model_name_or_path="$MODELS/model")
    assert_same(weights_of(adapters), expected)
    for gone in ("../moved", "/nowhere/model"):
        edit_json(adapters / "adapter_config.json", base_model_name_or_path=gone)
        with pytest.raises(UserError, match=rf"adapter_config.json names as its base model .*'{gone}', a folder that"):
            load_policy(adapters)


def test_adapters_of_a_run_from_another_machine_find_the_model_of_the_run(adapters, folder, tmp_path):
    expected = weights_of(adapters)
    checkpoint = tmp_path / "run/checkpoints/step-000001"
    shutil.copytree(adapters, checkpoint)
    edit_json(checkpoint / "adapter_config.json", base_model_name_or_path="/another/machine/model")
    (tmp_path / "run/config.json").write_text(json.dumps({"model": str(folder)}))
    assert_same(weights_of(tmp_path / "run"), expected)
    (tmp_path / "run/config.json").write_text(json.dumps({"model": "/another/machine/model"}))
    with pytest.raises(UserError, match=r"adapter_config.json names as its base model"):
        load_policy(tmp_path / "run")


def test_adapters_beside_a_configuration_and_without_a_tokenizer_are_loaded(adapters, folder):
    expected = weights_of(adapters)
    for file in adapters.glob("*token*"):
        file.unlink()
    shutil.copy(folder / "config.json", adapters)
    assert_same(weights_of(adapters), expected)


def test_adapters_beside_a_whole_model_are_refused(adapters, folder):
    shutil.copy(folder / "config.json", adapters)
    shutil.copy(folder / "model.safetensors", adapters)
    with pytest.raises(UserError, match=r"holds adapters \(adapter_config.json\) and a whole model"):
        load_policy(adapters)


def test_a_window_in_which_nothing_is_seen_is_refused(tokenizer):
    with pytest.raises(UserError, match=r"config.json has sliding_window 0, in which no token is seen"):
        HFPolicy(build_model("mistral", 310, sliding_window=0), tokenizer)


def test_the_hub_is_asked_once_for_a_name(monkeypatch):
    """transformers would ask for several files, each with half a minute of retries when there is no network."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    def answering(error):
        def model_info(self, name, timeout):
            if error is not None:
                raise error

        monkeypatch.setattr(HfApi, "model_info", model_info)

    answering(RepositoryNotFoundError("not found", response=Mock()))
    with pytest.raises(UserError, match="'owner/name', which is neither a folder here nor a model of the Hugging Face"):
        find("owner/name")
    answering(ConnectionError("no network"))
    assert find("owner/name").options["local_files_only"]
    for answer in (None, HfHubHTTPError("too many requests", response=Mock())):
        answering(answer)
        assert not find("owner/name").options["local_files_only"]
