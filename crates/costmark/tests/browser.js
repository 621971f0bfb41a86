// Put at the end of a copy of the page by tests/report.rs: uses the page as a reader would and
// leaves what it found as JSON in the document.
"use strict";
(async () => {
  const found = { errors: window.testErrors };
  const until = async (ready) => {
    for (let i = 0; i < 2000 && !ready(); i++) {
      await new Promise((next) => setTimeout(next, 50));
      // The page is unpacked by another thread, whose time is real: without some work here the
      // browser's virtual time is over before a busy machine has let that thread run.
      for (let n = 0, sum = 0; n < 3e6; n++) sum += Math.sqrt(n);
    }
    return ready();
  };
  found.drawn = await until(() => document.documentElement.dataset.drawn === "all");

  // Every chart: what was drawn, its name, its text, its table.
  found.charts = [...document.querySelectorAll("figure")].map((figure) => ({
    id: figure.id,
    marks: figure.querySelectorAll(".plot .scatterlayer path, .plot .barlayer path").length,
    named: Boolean(figure.querySelector('.plot[role="img"][aria-labelledby]')),
    summary: figure.querySelector("figcaption").textContent.length,
    rows: figure.querySelectorAll("table tbody tr").length,
  }));

  document.querySelectorAll("details").forEach((d) => { d.open = true; });

  // Controls: reached by keyboard, labelled, and heard.
  const controls = [...document.querySelectorAll("input, select, button, summary, [tabindex]")];
  found.unreachable = controls
    .filter((c) => c.getClientRects().length)
    .filter((c) => { c.focus(); return document.activeElement !== c; })
    .map((c) => c.outerHTML.slice(0, 80));
  found.unlabelled = [...document.querySelectorAll("input, select")]
    .filter((c) => !c.labels.length && !c.getAttribute("aria-label"))
    .map((c) => c.id);
  const set = (id, value) => {
    const input = document.getElementById(id);
    input.value = value;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const margins = () =>
    [...document.querySelectorAll("#margin-table tbody tr")].map((row) => Number(row.dataset.margin));
  found.margins_at_start = margins();
  for (const [id, value] of Object.entries(window.testPrices)) set(id, value);
  found.margins = margins();
  found.words = document.getElementById("margin-words").textContent;
  found.even = [...document.querySelectorAll("#margin-table tbody tr")].map((row) => row.cells[4].textContent);
  // A wrong value changes nothing and is marked.
  set("utilization", "-3");
  found.marked = document.getElementById("utilization").getAttribute("aria-invalid");
  found.after_wrong = margins();
  set("utilization", window.testPrices.utilization);
  // The slider does what the number does.
  const bar = document.querySelector('input[data-for="utilization"]');
  bar.value = 25;
  bar.dispatchEvent(new Event("input", { bubbles: true }));
  found.shown_by_slider = document.getElementById("utilization").value;
  found.margins_at_quarter = margins();

  // Contrast of every text against what is behind it (WCAG 2.2, 1.4.3).
  const rgb = (text) => (text.match(/[\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const part = (x) => (x /= 255, x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (node) => {
    for (let n = node; n; n = n.parentElement) {
      const c = rgb(getComputedStyle(n).backgroundColor);
      if (c.length === 3 || c[3] > 0.99) return c;
    }
    return rgb(getComputedStyle(document.documentElement).backgroundColor).length === 3
      ? rgb(getComputedStyle(document.documentElement).backgroundColor) : [255, 255, 255];
  };
  found.least_contrast = 99;
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const ink = rgb(node instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(node))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < found.least_contrast) {
      found.least_contrast = contrast;
      found.least_contrast_at = node.outerHTML.slice(0, 120);
    }
  }
  found.dark = matchMedia("(prefers-color-scheme: dark)").matches;
  found.wider_than_screen = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  found.scripts_run = window.hostile === undefined ? 0 : window.hostile;
  found.foreign = [...document.querySelectorAll("img, iframe, object, embed, link, script[src]")].length;
  const pre = document.createElement("pre");
  pre.id = "found";
  pre.textContent = JSON.stringify(found);
  document.body.replaceChildren(pre);
})();
