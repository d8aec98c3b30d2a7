"""The page in a browser: nothing hostile runs, nothing is complained about, traces can be walked with the keyboard.

Needs Chromium and the browser extra; skipped, with the reason, where one is missing.
"""

from __future__ import annotations

import os
import shutil

import pytest

from softtokens.config.commands import ReportConfig
from softtokens.report.build import build, report

from .conftest import trace, write_evaluation, write_lines, write_run
from .hostile import TEXTS, write_hostile

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the browser extra)")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """Open a file; `page.said` collects what the browser complains of."""
    contexts = []

    def open_page(path, *, width=1280, dark=False):
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.messages, page.asked = [], []
        page.on("console", lambda message: page.messages.append(message.text))
        page.on("pageerror", lambda error: page.messages.append(str(error)))
        page.on("dialog", lambda dialog: page.messages.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """A whole report, with two problems to step through, one right and one wrong."""
    folder = tmp_path_factory.mktemp("quickstart")
    for mode in ("hard", "fuzzy", "soft"):
        write_run(folder / mode, mode)
    write_evaluation(folder / "eval", runs=folder)
    for model in ("base", "hard", "fuzzy", "soft"):
        cell = "hard-sample" if model == "base" else f"{model}-sample"
        rows = [trace(model, cell, 1), trace(model, cell, 2, verdict="wrong" if model == "soft" else "right")]
        write_lines(folder / "eval/traces" / model / "arithmetic" / f"{cell}.jsonl", rows)
    return report(ReportConfig(runs=(str(folder),)))


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_stands(open_page, quickstart, width, dark):
    page = open_page(quickstart, width=width, dark=dark)
    assert page.messages == []
    assert page.asked == [quickstart.as_uri()]
    assert page.locator(".chart svg[class^=plot]").count() > 20
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) == dark


@pytest.mark.slow
def test_one_colour_per_mode_everywhere(open_page, quickstart):
    page = open_page(quickstart)
    for mode, colour in {"hard": "rgb(200, 80, 27)", "soft": "rgb(20, 102, 176)"}.items():
        swatch = page.locator(f"#verdict .mode-{mode} .swatch").evaluate("e => getComputedStyle(e).backgroundColor")
        key = page.locator("#pass-at-k-arithmetic .legend li", has_text=mode).locator("line")
        assert swatch == key.evaluate("e => getComputedStyle(e).stroke") == colour


def test_hostile_text_does_not_run(open_page, tmp_path):
    page = open_page(report(ReportConfig(runs=(str(write_hostile(tmp_path)),))))
    assert page.messages == []
    assert len(page.asked) == 1
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("({}).hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    page.locator("#traces select").nth(2).select_option("soft-sample")
    for _ in TEXTS:  # every step, with its mixture, in every strip
        page.locator("#traces .step[tabindex='0']").first.press("ArrowRight")
    page.locator("#traces .step[tabindex='0']").first.press("n")
    assert page.locator("#traces .strip").count() > 5
    text = page.locator("#traces").inner_text()
    assert TEXTS["closing"][:40] in text
    assert "⟨U+202E⟩evil" in text
    assert "⟨U+0000⟩" in text
    assert page.evaluate("window.hacked") is None
    assert page.messages == []


@pytest.mark.slow
def test_traces_by_keyboard(open_page, quickstart):
    page = open_page(quickstart)
    traces = page.locator("#traces")
    assert traces.locator(".strip").count() == 4  # each model as it was trained
    assert [m.strip() for m in traces.locator(".strip .model").all_inner_texts()] == ["base", "hard", "fuzzy", "soft"]
    traces.locator(".step").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert traces.locator(".step[aria-current]").all_inner_texts()[0].startswith("4")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("step 3: 4")
    page.keyboard.press("End")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('.strip').querySelector('.model').textContent") == "hard"
    assert "step 5" in traces.locator(".strip").nth(1).inner_text()
    problem = traces.locator("select").first
    before = problem.input_value()
    page.keyboard.press("n")
    assert problem.input_value() != before
    page.keyboard.press("p")
    assert problem.input_value() == before


@pytest.mark.slow
def test_traces_by_mouse_and_filter(open_page, quickstart):
    page = open_page(quickstart)
    traces = page.locator("#traces")
    traces.locator(".step").nth(3).click()
    assert "step 4" in traces.locator(".mixture").first.inner_text()
    assert "90.0 %" in traces.locator(".mixture").first.inner_text()
    traces.locator("select").nth(1).select_option("wrong")
    traces.get_by_title("next (n)").click()
    assert traces.locator(".strip .model").all_inner_texts() == ["soft"]
    traces.locator("select").nth(1).select_option("right")
    assert traces.locator(".strip").count() == 3


@pytest.mark.slow
def test_the_legend_hides_a_series(open_page, quickstart):
    page = open_page(quickstart)
    figure = page.locator("#pass-at-k-arithmetic")
    before = figure.locator("[aria-label=line] path").count()
    figure.locator(".legend button").first.click()
    assert figure.locator("[aria-label=line] path").count() == before - 3  # one line in each of three panels
    assert figure.locator(".legend button").first.get_attribute("aria-pressed") == "false"


@pytest.mark.slow
def test_hovering_tells_the_number(open_page, quickstart):
    page = open_page(quickstart)
    dot = page.locator("#pass-at-k-arithmetic .panel").first.locator("[aria-label=dot] circle").first
    dot.scroll_into_view_if_needed()
    dot.hover(force=True)
    assert "k 1:" in page.locator("#pass-at-k-arithmetic [aria-label=tip]").first.text_content(timeout=5000)


@pytest.mark.slow
def test_a_page_of_a_going_run_reloads_and_keeps_its_place(open_page, tmp_path):
    folder = write_run(tmp_path / "run", steps=20)
    config = ReportConfig(runs=(str(folder),))
    page = open_page(build(config, reload_seconds=0.3))
    page.evaluate("scrollTo({top: 900, behavior: 'instant'})")
    write_run(folder, steps=33)
    build(config, reload_seconds=0.3)
    page.locator("#trained", has_text="33").wait_for(timeout=5000)
    assert page.evaluate("scrollY") == 900
    page.locator("#pause").click()
    write_run(folder, steps=44)
    build(config)
    page.wait_for_timeout(4000)  # longer than the page waits after the last interaction
    assert "33" in page.locator("#trained").inner_text()
    assert page.messages == []
