"""Which checkpoint of a run is used, also if the run was copied without its links."""

import json

import pytest

from softtokens.models.checkpoint_paths import best_checkpoint, checkpoint_name, checkpoints


@pytest.fixture
def run(tmp_path):
    """Without links: steps 999,999 and 1,000,000, whose names do not sort as text, and the best one before."""
    for step, best in ((998000, 998000), (999999, 998000), (1000000, 998000)):
        folder = tmp_path / "checkpoints" / checkpoint_name(step)
        folder.mkdir(parents=True)
        (folder / "trainer.json").write_text(json.dumps({"step": step, "best_step": best}))
    (tmp_path / "checkpoints/step-of-mine").mkdir()
    return tmp_path


def test_checkpoints_are_in_the_order_of_their_steps(run):
    assert [path.name for path in checkpoints(run)] == ["step-998000", "step-999999", "step-1000000"]


def test_without_links_the_newest_checkpoint_says_which_is_best(run, tmp_path_factory):
    root = run / "checkpoints"
    assert best_checkpoint(run) == root / "step-998000"
    for content in ('{"best_step": null}', '{"best_step": 5}', "{", "[]"):
        (root / "step-1000000/trainer.json").write_text(content)
        assert best_checkpoint(run) == root / "step-1000000"
    (root / "last").symlink_to("step-999999")
    assert best_checkpoint(run) == root / "last"
    (root / "best").symlink_to("step-998000")
    assert best_checkpoint(run) == root / "best"
    model = tmp_path_factory.mktemp("model")
    assert best_checkpoint(model) == model
