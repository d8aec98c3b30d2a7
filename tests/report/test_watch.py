"""A report that follows a run."""

from __future__ import annotations

import threading

import pytest

from softtokens.config.commands import ReportConfig
from softtokens.report import build, watch
from softtokens.types import UserError

from .conftest import write_run


class Enough(Exception):
    pass


def test_writes_at_once_and_after_each_change(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run")
    written, pauses = [], iter(["nothing", "more", "nothing", "checkpoint", "end"])

    def pause(seconds):
        match next(pauses):
            case "more":
                with open(folder / "metrics.jsonl", "a") as file:
                    file.write('{"step": 11, "reward": 3}\n')
            case "checkpoint":
                (folder / "checkpoints").mkdir()
                (folder / "checkpoints" / "trainer.json").write_text("{}")
            case "end":
                raise Enough

    monkeypatch.setattr(watch.time, "sleep", pause)
    with pytest.raises(Enough):
        watch.watch([str(folder)], lambda: written.append(True))
    assert len(written) == 2


def test_a_page_that_takes_long_is_written_less_often(tmp_path, monkeypatch):
    clock = iter([0.0, 30.0])

    def pause(seconds):
        assert seconds == 30.0
        raise Enough

    monkeypatch.setattr(watch.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(watch.time, "sleep", pause)
    with pytest.raises(Enough):
        watch.watch([str(write_run(tmp_path / "run"))], lambda: None)


def test_stopping_leaves_a_page_that_stays(tmp_path, monkeypatch, capsys):
    folder = write_run(tmp_path / "run")
    page = folder / "report.html"

    def stop(seconds):
        assert '"reload":5.0' in page.read_text()
        assert "still going" in page.read_text()
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", stop)
    assert build.report(ReportConfig(runs=(str(folder),), watch=True)) == page
    assert '"reload":null' in page.read_text()
    assert "still going" not in page.read_text()
    assert "press Ctrl-C to stop" in capsys.readouterr().out


def test_the_report_is_not_what_it_watches(tmp_path):
    folder = write_run(tmp_path / "run")
    before = watch.fingerprint([str(folder)])
    build.build(ReportConfig(runs=(str(folder),)))
    assert watch.fingerprint([str(folder)]) == before


def test_a_reader_never_sees_half_a_page(tmp_path):
    folder = write_run(tmp_path / "run")
    config = ReportConfig(runs=(str(folder),))
    page, halves, done = build.build(config), [], threading.Event()

    def read():
        while not done.is_set():
            halves.append(not page.read_text().rstrip().endswith("</html>"))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(5):
        build.build(config)
    done.set()
    reader.join()
    assert halves
    assert not any(halves)


def test_a_run_that_starts_anew_is_waited_for(tmp_path, monkeypatch, capsys):
    folder = write_run(tmp_path / "run")
    pauses = iter(["clear", "stop"])

    def pause(seconds):
        if next(pauses) == "stop":
            write_run(folder)
            raise KeyboardInterrupt
        for file in ("config.json", "metrics.jsonl"):
            (folder / file).unlink()

    monkeypatch.setattr(watch.time, "sleep", pause)
    page = build.report(ReportConfig(runs=(str(folder),), watch=True))
    assert "The page stays as it is until the files change" in capsys.readouterr().err
    assert '"reload":null' in page.read_text()


def test_what_is_wrong_from_the_start_ends_it(tmp_path):
    with pytest.raises(UserError, match="neither a training run"):
        build.report(ReportConfig(runs=(str(tmp_path),), watch=True))
