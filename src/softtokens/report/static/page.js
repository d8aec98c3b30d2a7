// The page around the figures: which section is being read; and, while a run goes on, loading itself again without
// losing the reader's place.
"use strict";
(() => {
  const links = new Map([...document.querySelectorAll(".contents a")].map((a) => [a.hash.slice(1), a]));
  const seen = new Set();
  const watch = new IntersectionObserver((entries) => {
    entries.forEach((e) => (e.isIntersecting ? seen.add(e.target.id) : seen.delete(e.target.id)));
    const first = [...links.keys()].find((id) => seen.has(id));
    links.forEach((a, id) => (id === first ? a.setAttribute("aria-current", "true") : a.removeAttribute("aria-current")));
  }, { rootMargin: "-10% 0px -60% 0px" });
  document.querySelectorAll("main section").forEach((section) => watch.observe(section));
  if (matchMedia("(max-width: 75rem)").matches) document.querySelector(".contents details").open = false;

  const { reload } = JSON.parse(document.getElementById("data").textContent);
  if (!reload) return;
  const QUIET = 3000; // milliseconds without a key or click before the page may change under the reader's hands
  const memory = `${location.pathname}#place`;
  const live = document.querySelector(".live");
  let touched = 0, paused = false;
  history.scrollRestoration = "manual"; // figures are drawn before the place is found again
  try {
    const place = JSON.parse(sessionStorage.getItem(memory));
    if (place) {
      window.scrollTo({ top: place.y, behavior: "instant" });
      paused = place.paused;
    }
  } catch { /* a page from a file may have no storage; then it starts at the top */ }
  ["keydown", "pointerdown", "wheel", "touchmove"].forEach((name) => addEventListener(name, () => { touched = Date.now(); }, { passive: true }));
  const button = document.getElementById("pause");
  const keep = () => {
    try { sessionStorage.setItem(memory, JSON.stringify({ y: scrollY, paused })); } catch { /* see above */ }
  };
  const show = () => { button.textContent = paused ? "go on" : "pause"; live.classList.toggle("paused", paused); };
  button.addEventListener("click", () => { paused = !paused; keep(); show(); });
  show();
  setInterval(() => {
    if (paused || document.hidden || Date.now() - touched < QUIET) return;
    keep();
    location.reload();
  }, 1000 * reload);
})();
