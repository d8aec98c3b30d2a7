import signal

from safetensors.torch import load_file

from softtokens.train.checkpoint import newest_checkpoint


def test_ctrl_c_is_a_sentence_and_leaves_whole_checkpoints(flags, tmp_path, start, wait_for):
    run = tmp_path / "run"
    process = start(flags(run, "--steps", "5000", "--validate-every", "0"))
    wait_for((run / "checkpoints/step-000004").exists, process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.strip().splitlines() == [
        "softtokens: stopped by Ctrl-C. What was saved is whole; go on with the same command and --resume."
    ]
    folder, progress = newest_checkpoint(run)  # warns, which is an error here, if one is not whole
    assert progress.step >= 4
    assert load_file(folder / "model.safetensors").keys()
    assert (run / "checkpoints/last").exists()
