// Generations side by side: one strip per model and setting, one cell per thought step. Whatever a model said is set as
// text (textContent), never as markup.
"use strict";
(() => {
  const HOTTEST = 2; // nats at which a cell has its full colour
  const KNOWN = /^(base|hard|fuzzy|soft)$/;
  const VERDICTS = { right: "✓ right", wrong: "✗ wrong", no_answer: "no answer", grader_timeout: "grader timed out", grader_error: "grader failed" };

  function element(tag, properties, ...children) {
    const node = Object.assign(document.createElement(tag), properties || {});
    node.append(...children);
    return node;
  }
  const text = (value, className) => element("bdi", { textContent: value, className: className || "" });
  const short = (value, digits = 3) => value === undefined ? "–" : Number(value.toPrecision(digits)).toString();
  const visible = (token) => token.replace(/ /g, "␣").replace(/\n/g, "⏎") || "∅";

  function remember(key, state) {
    try { sessionStorage.setItem(key, JSON.stringify(state)); } catch { /* a page from a file may have no storage */ }
  }
  function recall(key) {
    try { return JSON.parse(sessionStorage.getItem(key)) || {}; } catch { return {}; }
  }

  function select(label, options, value, change) {
    const field = element("select", {}, ...options.map(([id, name]) => element("option", { value: id, textContent: name })));
    field.value = value;
    field.addEventListener("change", () => change(field.value));
    return element("label", {}, label + " ", field);
  }

  function details(step, index, kind) {
    const facts = [["entropy", `${short(step.e)} nats`], ["effective support", short(step.n)], ["largest weight", short(step.m)], ["noise", short(step.z)]];
    const list = element("dl", {}, ...facts.flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: value })]));
    const rows = step.t.map(([token, weight]) => {
      const bar = element("span", { className: "weight" });
      bar.style.setProperty("--w", Math.max(0, Math.min(1, weight)));
      return element("li", {}, text(visible(token), "token"), bar, element("span", { className: "number", textContent: (100 * weight).toFixed(weight < 0.001 ? 2 : 1) + " %" }));
    });
    const title = element("p", {}, `step ${index + 1}: `, text(visible(step.s), "token"), ` ${kind}`);
    return element("div", { className: "mixture" }, title, rows.length ? element("ol", {}, ...rows) : element("p", { className: "missing", textContent: "a token was fed, no mixture" }), list);
  }

  function strip(generation, at, choose) {
    const mode = KNOWN.test(generation.mode) ? generation.mode : "unknown";
    const verdict = element("span", { className: `verdict ${generation.verdict === "right" ? "right" : "not-right"}`, textContent: VERDICTS[generation.verdict] || "not graded" });
    const head = element("header", {}, element("span", { className: "swatch" }), text(generation.model, "model"), text(generation.cell, "cell"), verdict);
    const body = element("article", { className: `strip mode-${mode}` }, head);
    if (generation.prompt) body.append(element("p", { className: "asked" }, text(generation.prompt)));
    const steps = generation.steps || [];
    if (steps.length) {
      const cells = steps.map((step, i) => {
        const mixed = step.n !== undefined && step.n >= 1.05 ? short(step.n, 2) : "";
        const cell = element("button", { type: "button", className: "step", tabIndex: i === Math.min(at, steps.length - 1) ? 0 : -1 }, text(visible(step.s), "token"), element("small", { textContent: mixed }));
        cell.style.setProperty("--heat", Math.sqrt(Math.min(1, (step.e || 0) / HOTTEST)).toFixed(3));
        cell.setAttribute("aria-label", `step ${i + 1}: ${step.s}, entropy ${short(step.e)}`);
        cell.title = `step ${i + 1}, entropy ${short(step.e)} nats\n` + step.t.map(([token, weight]) => `${visible(token)}  ${(100 * weight).toFixed(1)} %`).join("\n");
        if (i === at) cell.setAttribute("aria-current", "step");
        cell.addEventListener("click", () => choose(i));
        return element("li", {}, cell);
      });
      body.append(element("ol", { className: "steps" }, ...cells));
    } else {
      body.append(element("p", { className: "said" }, text(generation.text || "∅")));
    }
    body.append(element("p", { className: "answer" }, element("span", { textContent: `stopped by ${generation.stop || "?"}, answer ` }), text(generation.answer || "∅", "token")));
    if (steps.length) body.append(at < steps.length ? details(steps[at], at, generation.cell.startsWith("hard") ? "fed, chosen from" : "heaviest in the mixture of") : element("p", { className: "missing", textContent: `ended after ${steps.length} steps` }));
    return body;
  }

  function viewer(place, groups) {
    const memory = `${location.pathname}#${place.dataset.viewer}`;
    const cells = [...new Set(groups.flatMap((g) => g.of.map((t) => t.cell)))];
    const comparing = !groups.some((g) => g.mixed);
    const own = (t) => t.mode === "base" ? t.cell === "hard-sample" : t.cell === `${t.mode}-sample`;
    const anyOwn = groups.some((g) => g.of.some(own));
    const state = { group: 0, verdict: "all", cell: comparing && anyOwn ? "own" : "all", step: 0, ...recall(memory) };
    if (!groups[state.group]) state.group = 0;
    if (!["all", "own", ...cells].includes(state.cell)) state.cell = "all";

    const chosen = (group) => group.of.filter((t) =>
      (state.verdict === "all" || (state.verdict === "right") === (t.verdict === "right")) &&
      (state.cell === "all" || (state.cell === "own" ? own(t) : t.cell === state.cell)));

    function change(changes) {
      Object.assign(state, changes);
      remember(memory, state);
      draw();
    }
    function go(by) {
      for (let i = 1; i <= groups.length; i++) {
        const next = (state.group + by * i + groups.length * i) % groups.length;
        if (chosen(groups[next]).length) return change({ group: next, step: 0 });
      }
    }

    function controls() {
      const back = element("button", { type: "button", textContent: "‹", title: "previous (p)" });
      const on = element("button", { type: "button", textContent: "›", title: "next (n)" });
      back.addEventListener("click", () => go(-1));
      on.addEventListener("click", () => go(1));
      const parts = [
        element("span", { className: "turn" }, back, select("", groups.map((g, i) => [String(i), g.title]), String(state.group), (v) => change({ group: Number(v), step: 0 })), on),
        select("verdict", [["all", "all"], ["right", "right"], ["wrong", "not right"]], state.verdict, (v) => change({ verdict: v })),
      ];
      if (comparing) parts.push(select("thinking", [...(anyOwn ? [["own", "each as it was trained"]] : []), ["all", "every setting"], ...cells.map((c) => [c, c])], state.cell, (v) => change({ cell: v })));
      return element("div", { className: "controls" }, ...parts);
    }

    function draw() {
      const focused = document.activeElement && place.contains(document.activeElement) ? place_of(document.activeElement) : null;
      const group = groups[state.group];
      const shown = chosen(group);
      const question = element("div", { className: "question" }, text(group.prompt), element("p", {}, "expected: ", text(group.expected || "∅", "token")));
      const strips = element("div", { className: "strips" }, ...shown.map((t) => strip(t, state.step, (i) => change({ step: i }))));
      const none = element("p", { className: "missing", textContent: "No generation of this problem passes the filter." });
      place.replaceChildren(controls(), ...(comparing ? [question] : []), shown.length ? strips : none);
      if (focused) focus(...focused);
    }
    // where the focus is, so that drawing again does not lose it: a step of a strip, or a control by its number
    function place_of(node) {
      const rows = [...place.querySelectorAll(".strip")];
      const row = rows.findIndex((s) => s.contains(node));
      return row >= 0 ? ["strip", row] : ["control", [...place.querySelectorAll(".controls button, .controls select")].indexOf(node)];
    }
    function focus(kind, index) {
      const at = kind === "strip"
        ? (place.querySelectorAll(".strip")[index] || place).querySelector(".step[tabindex='0']")
        : place.querySelectorAll(".controls button, .controls select")[index];
      if (at) at.focus({ preventScroll: kind !== "strip" });
    }
    place.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
      const rows = [...place.querySelectorAll(".strip")];
      const row = rows.findIndex((s) => s.contains(event.target));
      const longest = Math.max(1, ...chosen(groups[state.group]).map((t) => (t.steps || []).length));
      const steps = { ArrowRight: state.step + 1, ArrowLeft: state.step - 1, Home: 0, End: longest - 1 };
      if (event.key in steps && row >= 0) change({ step: Math.max(0, Math.min(longest - 1, steps[event.key])) });
      else if (event.key === "ArrowDown" && row >= 0) focus("strip", Math.min(rows.length - 1, row + 1));
      else if (event.key === "ArrowUp" && row >= 0) focus("strip", Math.max(0, row - 1));
      else if (event.key === "n") go(1);
      else if (event.key === "p") go(-1);
      else return;
      event.preventDefault();
    });
    if (!chosen(groups[state.group]).length) state.group = Math.max(0, groups.findIndex((g) => chosen(g).length));
    draw();
  }

  const data = JSON.parse(document.getElementById("data").textContent);
  document.querySelectorAll("[data-viewer]").forEach((place) => viewer(place, data.viewers[place.dataset.viewer]));
})();
