"""The report of whole folders."""

from __future__ import annotations

import re


def test_a_quickstart_folder_becomes_one_page(page, quickstart_folder):
    text = page(quickstart_folder)
    assert text.startswith("<!doctype html>")
    assert "What was trained" in text
    assert "Solved: arithmetic" in text
    assert len(text) < 5e6


def test_the_page_loads_nothing(page, quickstart_folder):
    """No address outside the page stands where a browser would fetch it."""
    markup = re.sub(r"<(script|style)\b.*?</\1>", "", page(quickstart_folder), flags=re.DOTALL)
    assert re.findall(r'(?:src|href|action|srcset)\s*=\s*"(?!#|data:)', markup) == []
    assert "default-src &#39;none&#39;" in markup
