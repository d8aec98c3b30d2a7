"""Whatever the files contain stays text in the page; the page runs only its own scripts and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
import subprocess
import sys

import pytest

from softtokens.report.page import harmless_json
from softtokens.report.sanitize import shown

from .hostile import RUN, TEXTS, write_hostile

OWN_SCRIPTS = 5


class Elements(html.parser.HTMLParser):
    """What a browser would make of the markup."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag if tag in self.inside else ""
        if self._open:
            self.inside[tag].append("")

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open:
            self.inside[self._open][-1] += data


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory):
    from softtokens.config.commands import ReportConfig
    from softtokens.report.build import report

    folder = write_hostile(tmp_path_factory.mktemp("hostile"))
    return report(ReportConfig(runs=(str(folder),))).read_text()


def test_hostile_text_makes_no_element(hostile_page):
    elements = Elements(hostile_page)
    tags = [tag for tag, _ in elements.tags]
    assert tags.count("script") == OWN_SCRIPTS + 1  # plus the data
    assert tags.count("style") == 1
    assert {"img", "iframe", "object", "textarea", "b", "i"}.isdisjoint(tags)
    for _, attributes in elements.tags:
        assert not any(name.startswith("on") or name in ("style", "srcdoc") for name in attributes)
        assert attributes.get("href", "#").startswith(("#", "data:,"))


def test_hostile_text_is_there_as_text(hostile_page):
    assert "&lt;script&gt;" + RUN + "&lt;/script&gt;" in hostile_page
    assert "{{ 7*7 }}" in hostile_page
    assert "49" not in re.findall(r"<bdi>([^<]*)</bdi>", hostile_page)


def test_nothing_unseen_is_in_the_page(hostile_page):
    outside = re.sub(r"<script>.*?</script>", "", hostile_page, flags=re.DOTALL)
    assert not re.findall(
        "[\x00-\x08\x0b-\x1f\x7f\u200b\u200f\u061c\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]", outside
    )
    assert "⟨U+202E⟩evil" in json.dumps(json.loads(data(hostile_page)), ensure_ascii=False)


def test_a_megabyte_line_is_cut(hostile_page):
    assert len(hostile_page) < 4e6
    assert "1,000,003 characters in all" in hostile_page


def data(page: str) -> str:
    (content,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    return content


def test_data_is_json_without_markup(hostile_page):
    content = data(hostile_page)
    assert not set("<>&\u2028\u2029") & set(content)
    assert json.loads(content)["viewers"]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_harmless_json_is_the_same_json(text):
    if not any(0xD800 <= ord(c) < 0xE000 for c in text):
        assert json.loads(harmless_json({text: [text]})) == {text: [text]}
    assert not set("<>&\u2028\u2029") & set(harmless_json(text))


def test_the_policy_names_every_script_and_style_by_its_hash(hostile_page):
    elements = Elements(hostile_page)
    (policy,) = (a["content"] for tag, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy")
    own = [s for s in elements.inside["script"] if not s.startswith("{")]
    assert len(own) == OWN_SCRIPTS
    for content in [*own, *elements.inside["style"]]:
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\u202eb", "a⟨U+202E⟩b"), ("\0", "⟨U+0000⟩"), ("line\nline", "line\nline"), (None, ""), (7, "7")],
)
def test_shown(text, expected):
    assert shown(text) == expected


def test_shown_says_how_long_a_cut_text_is():
    assert shown("y" * 50, 10) == "yyyyyyyyyy … (50 characters in all)"


def test_a_report_needs_no_torch(quickstart_folder):
    script = (
        "import sys\nfrom softtokens import cli\n"
        f"code = cli.main(['report', {str(quickstart_folder)!r}])\n"
        "print(code, *[m for m in ('torch', 'transformers', 'datasets', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0", done.stdout + done.stderr
    assert (quickstart_folder / "report.html").is_file()
