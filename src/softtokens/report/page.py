"""A report as one self-contained HTML file, in which model output is only ever text.

Three safeguards: the templates escape; the data for the scripts contains no `<`, `>` or `&`; and the page's
Content-Security-Policy loads nothing and runs only the scripts whose hashes it lists.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import importlib.resources
import json
import math
from typing import Any

from softtokens.report.blocks import Figure, Report, Viewer
from softtokens.report.sanitize import all_shown, shown

_MOST_POINTS = 500  # per series; the CSV file has all of them
_ASSETS = importlib.resources.files("softtokens.report")
_SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "static/charts.js", "static/traces.js", "static/page.js")
# Observable Plot writes this into every drawing; the page's policy has to allow it by hash
_PLOT_STYLE = """:where(.plot-d6a7b5) {
  --plot-background: white;
  display: block;
  height: auto;
  height: intrinsic;
  max-width: 100%;
}
:where(.plot-d6a7b5 text),
:where(.plot-d6a7b5 tspan) {
  white-space: pre;
}"""
_HARMLESS = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def render(report: Report, *, version: str, made: str, reload_seconds: float | None = None) -> str:
    """The page. reload_seconds: how often it reloads itself while a run is in progress."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(lambda name: _asset(f"templates/{name}")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: shown(value) if type(value) is str else value,  # text marked as safe is our own
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [_asset(name) for name in _SCRIPTS]
    style = _asset("static/style.css")
    data = {
        "figures": {shown(figure.id): _drawn(figure) for figure in report.figures()},
        "viewers": {b.id: b.groups for s in report.sections for b in s.blocks if isinstance(b, Viewer)},
        "reload": reload_seconds,
    }
    return environment.get_template("page.html.j2").render(
        report=report,
        scripts=scripts,
        style=style,
        policy=_policy(scripts, [style, _PLOT_STYLE]),
        data=harmless_json(data),
        version=version,
        made=made,
        watching=reload_seconds is not None,
    )


def _drawn(figure: Figure) -> dict[str, Any]:
    """A figure as data for the scripts, with no more points than a screen can show and no more digits than a reader
    needs."""
    content: dict[str, Any] = dataclasses.asdict(figure)
    for panel in content["panels"]:
        for series in panel["series"]:
            last = len(series["x"]) - 1
            every = max(1, math.ceil(last / _MOST_POINTS))
            kept = [*range(0, last, every), last] if last > 0 else range(last + 1)
            for name in ("x", "y", "low", "high"):
                if series[name] is not None:
                    series[name] = [_rounded(series[name][i]) for i in kept]
    return all_shown(content)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def harmless_json(value: Any) -> str:
    """JSON that is safe inside a script element, whatever strings it holds."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True).translate(_HARMLESS)


def _policy(scripts: list[str], styles: list[str]) -> str:
    """A Content-Security-Policy that loads nothing and allows only these scripts and styles."""
    return (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src {' '.join(map(_hash, styles))}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@functools.cache
def _asset(name: str) -> str:
    return _ASSETS.joinpath(name).read_text(encoding="utf-8")
