// Figures: panels of series, drawn by Observable Plot at the width that there is. Colours are the page's own variables,
// so that dark mode costs nothing; a mode has one colour everywhere.
"use strict";
(() => {
  const DASHES = ["", "6,3", "2,3", "9,3,2,3"];
  const NARROWEST = 270; // pixels of a panel
  const colour = (series) => `var(--${/^(base|hard|fuzzy|soft|paper)$/.test(series.mode) ? series.mode.replace("paper", "paper-mode") : "unknown"})`;
  const number = (value) => value === null || value === undefined ? "–"
    : Math.abs(value) >= 1000 ? value.toLocaleString("en", { maximumFractionDigits: 0 })
    : Number(value.toPrecision(4)).toString();

  // 0.001 as 10⁻³ where it would be long
  const power = (value) => {
    const exponent = Math.round(Math.log10(value));
    if (Math.abs(exponent) < 4) return number(value);
    return "10" + String(exponent).replace(/./g, (c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] || "⁻");
  };
  const RANK = ["base", "hard", "fuzzy", "soft"];
  const byMode = ([, a], [, b]) => (RANK.indexOf(a.mode) + 9) % 9 - (RANK.indexOf(b.mode) + 9) % 9;

  function element(tag, properties, ...children) {
    const node = Object.assign(document.createElement(tag), properties || {});
    node.append(...children);
    return node;
  }

  function points(series, scale) {
    const times = (value) => value === null || value === undefined ? NaN : scale * value;
    return series.x.map((x, i) => ({
      series, x, y: times(series.y[i]), low: times(series.low ? series.low[i] : null), high: times(series.high ? series.high[i] : null),
    }));
  }

  function told(panel, p) {
    const interval = isNaN(p.low) || isNaN(p.high) ? "" : ` [${number(p.low)}, ${number(p.high)}]`;
    return `${p.series.name}\n${panel.x} ${number(p.x)}: ${number(p.y)}${interval}`;
  }

  function marksOf(panel, series, ticks) {
    const scale = panel.share ? 100 : 1;
    const positive = (p) => (!panel.x_log || p.x > 0) && (!panel.y_log || !(p.y <= 0));
    const marks = [Plot.gridY({ stroke: "var(--rule)", strokeOpacity: 1, ticks })];
    if (panel.line_at !== null) marks.push(Plot.ruleY([scale * panel.line_at], { stroke: "var(--warn)", strokeDasharray: "3,3" }));
    const drawn = series.map((s) => points(s, scale).filter(positive));
    series.forEach((s, i) => {
      if (s.low && s.kind === "line") {
        marks.push(Plot.areaY(drawn[i], { x: "x", y1: "low", y2: "high", fill: colour(s), fillOpacity: 0.14 }));
      } else if (s.low) {
        marks.push(Plot.ruleX(drawn[i], { x: "x", y1: "low", y2: "high", stroke: colour(s), strokeOpacity: 0.7, strokeWidth: 1.5 }));
      }
    });
    series.forEach((s, i) => {
      const stroke = { stroke: colour(s), strokeOpacity: s.faint ? 0.28 : 1, strokeWidth: s.faint ? 1 : 1.8 };
      if (s.kind === "line" && drawn[i].length > 1) {
        marks.push(Plot.lineY(drawn[i], { x: "x", y: "y", strokeDasharray: DASHES[s.dash % DASHES.length], ...stroke }));
      }
      if (s.kind === "points" || drawn[i].length < 2 || (drawn[i].length < 12 && !s.faint)) {
        marks.push(Plot.dot(drawn[i], { x: "x", y: "y", r: 2.6, fill: s.dash % 2 ? "var(--paper)" : colour(s), stroke: colour(s) }));
      }
    });
    const touched = drawn.filter((_, i) => !series[i].faint).flat();
    marks.push(Plot.dot(touched, Plot.pointer({ x: "x", y: "y", r: 4, stroke: "var(--ink)", strokeWidth: 1.4, maxRadius: 60 })));
    marks.push(Plot.tip(touched, Plot.pointer({
      x: "x", y: "y", title: (p) => told(panel, p), maxRadius: 60, fill: "var(--paper)", stroke: "var(--faint)", fontSize: 12, lineWidth: 28,
    })));
    return marks;
  }

  // the lowest and highest value of a figure, so that its panels can share an axis
  function reach(panels, hidden) {
    const values = panels.flatMap((p) => [p.line_at, p.y_zero ? 0 : null, ...p.series.filter((s) => !hidden.has(s.name)).flatMap((s) => [...s.y, ...(s.low || []), ...(s.high || [])])]
      .filter((v) => v !== null && v !== undefined).map((v) => (p.share ? 100 * v : v)));
    if (!values.length) return undefined;
    const low = Math.min(...values), high = Math.max(...values);
    return low < high ? [low, high] : low > 0 ? [0, 1.25 * low] : [low, low + 1]; // a constant has no range of its own
  }

  // powers of ten inside the reach, at most six of them
  function decades([low, high]) {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    const every = Math.max(1, Math.ceil((last - first + 1) / 6));
    const found = [];
    for (let i = first; i <= last; i += every) found.push(10 ** i);
    return found.length > 1 ? found : undefined;
  }

  function logarithmic(panel, hidden) {
    const positive = panel.series.filter((s) => !hidden.has(s.name)).flatMap((s) => s.y).concat(panel.line_at).filter((v) => v > 0);
    const domain = positive.length ? [Math.min(...positive) / 1.3, Math.max(...positive) * 1.3] : [0.1, 1];
    return { type: "log", domain, ticks: decades(domain), tickFormat: power, clamp: true };
  }

  function drawPanel(panel, hidden, width, domain) {
    const series = panel.series.filter((s) => !hidden.has(s.name));
    const xs = [...new Set(panel.series.flatMap((s) => s.x))].sort((a, b) => a - b);
    const x = { label: panel.x, labelArrow: "none", nice: false, ...(panel.x_log ? { type: "log", base: 2, ticks: xs.length <= 10 ? xs : 6, tickFormat: number } : { tickFormat: number, ticks: Math.max(3, Math.round(width / 80)) }) };
    const y = { label: panel.y, labelArrow: "none", nice: !panel.y_log, zero: panel.y_zero, ticks: 5, tickFormat: number, ...(domain ? { domain } : {}) };
    if (panel.y_log) Object.assign(y, logarithmic(panel, hidden));
    const labels = { fontSize: 11 };
    return Plot.plot({
      width, height: Math.round(Math.min(300, Math.max(190, width * 0.58))), marginLeft: 46, marginRight: 14, marginBottom: 36, marginTop: 24,
      style: { fontSize: "11px", background: "none", overflow: "visible" },
      x, y, marks: [Plot.axisX({ ...labels, tickSize: 4, ticks: x.ticks }), Plot.axisY({ ...labels, tickSize: 0, ticks: y.ticks }), ...marksOf(panel, series, y.ticks)],
      ariaLabel: `${panel.title}: ${panel.y} by ${panel.x}`,
    });
  }

  function key(series, stroked) {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    line.setAttribute("width", 22);
    line.setAttribute("height", 8);
    const stroke = document.createElementNS(line.namespaceURI, "line");
    const look = { x1: 0, x2: 22, y1: 4, y2: 4, "stroke-width": 2, "stroke-dasharray": DASHES[series.dash % DASHES.length], stroke: stroked };
    Object.entries(look).forEach(([name, value]) => stroke.setAttribute(name, value));
    line.append(stroke);
    return line;
  }

  function drawFigure(place, figure) {
    const hidden = new Set();
    const named = new Map(figure.panels.flatMap((p) => p.series).filter((s) => !s.faint).map((s) => [s.name, s]).sort(byMode));
    const legend = element("ul", { className: "legend" });
    const panels = element("div", { className: "panels" });
    const modes = (name) => new Set(figure.panels.flatMap((p) => p.series).filter((s) => s.name === name).map((s) => s.mode));
    for (const [name, series] of named) {
      const button = element("button", { type: "button", title: "show or hide" }, key(series, modes(name).size > 1 ? "var(--quiet)" : colour(series)), element("bdi", { textContent: name }));
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        hidden.has(name) ? hidden.delete(name) : hidden.add(name);
        button.setAttribute("aria-pressed", String(!hidden.has(name)));
        draw();
      });
      legend.append(element("li", {}, button));
    }
    let last = 0;
    function draw() {
      const width = place.clientWidth;
      const columns = Math.max(1, Math.min(figure.panels.length, 3, Math.floor((width + 26) / (NARROWEST + 26))));
      const each = Math.min(620, Math.floor((width - 26 * (columns - 1)) / columns));
      panels.style.gridTemplateColumns = `repeat(${columns}, minmax(0, ${each}px))`;
            panels.replaceChildren(...figure.panels.map((panel) =>
        element("div", { className: "panel" }, element("h4", { textContent: panel.title }), drawPanel(panel, hidden, each, reach(figure.same_y ? figure.panels : [panel], hidden)))));
      last = width;
    }
    place.append(...(named.size ? [legend] : []), panels);
    draw();
    new ResizeObserver(() => requestAnimationFrame(() => { if (Math.abs(place.clientWidth - last) > 1) draw(); })).observe(place);
  }

  const data = JSON.parse(document.getElementById("data").textContent);
  document.querySelectorAll("[data-figure]").forEach((place) => drawFigure(place, data.figures[place.dataset.figure]));
})();
