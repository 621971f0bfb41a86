// Charts and controls of a costmark report. Words and tables stand in the page without it.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const { runs, list } = JSON.parse($("data").textContent);
  // Okabe and Ito's colours, told apart with any kind of colour vision; shapes and dashes say the
  // same again.
  const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999"];
  const SHAPES = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
  const colour = (i) => COLOURS[i % COLOURS.length];
  const shape = (i) => SHAPES[i % SHAPES.length];
  const dash = (i) => DASHES[i % DASHES.length];

  // Plotly reads tags and entities in texts: names from outside stay names.
  const plain = (text) =>
    String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const cut = (text, n = 28) => (text.length > n ? "…" + text.slice(1 - n) : text);
  // One for each number of digits: making them takes longer than all else that a chart needs.
  const FORMATS = Array.from({ length: 9 }, (_, digits) =>
    new Intl.NumberFormat("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  const whole = (x) => FORMATS[0].format(x);
  const short = (x) => {
    if (x === null || !Number.isFinite(x)) return "–";
    const size = Math.abs(x);
    const digits = size === 0 || size >= 99.95 ? 0 : Math.min(8, 2 - Math.floor(Math.log10(size)));
    return FORMATS[digits].format(x);
  };
  const usd = (x) => {
    const size = Math.abs(x ?? NaN);
    return "$" + (size >= 1 && size < 99.995 ? x.toFixed(2) : short(x));
  };
  // Adding 0 takes the sign off what rounds to nothing.
  const percent = (x) => (Math.round(x * 1000) / 10 + 0).toFixed(1) + " %";
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const clear = (hex) => hex + "33";

  async function inflate(base64) {
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).blob();
  }

  // ---- Money ----------------------------------------------------------------------------

  const NAMES = ["usd_per_hour", "utilization", "list_input", "list_cached", "list_output"];
  // What the controls say of each run.
  const priced = runs.map((run) => ({
    usd_per_hour: run.usd_per_hour,
    utilization: run.utilization,
    list_input: list.input,
    list_cached: list.cached,
    list_output: list.output,
  }));
  const chosen = () => Number($("priced-run")?.value ?? 0);

  // Costs were computed at the run's price and utilization and are proportional to
  // price / utilization.
  const factor = (r) =>
    priced[r].usd_per_hour / priced[r].utilization / (runs[r].usd_per_hour / runs[r].utilization);
  const scaled = (interval, k) =>
    interval && { value: interval.value * k, low: scale(interval.low, k), high: scale(interval.high, k) };
  const scale = (x, k) => (x === null ? null : x * k);

  function margin(r, level) {
    const p = priced[r];
    const revenue =
      ((level.input_tokens - level.cached_tokens) * p.list_input +
        level.cached_tokens * p.list_cached +
        level.output_tokens * p.list_output) / 1e6;
    const rate = level.total_tok_per_s;
    // What these tokens take at the median throughput.
    const seconds = (level.input_tokens + level.output_tokens) / rate.value;
    const whole = (p.usd_per_hour / 3600) * seconds;
    const at = (cost) => (revenue > 0 ? 1 - cost / revenue : null);
    const cogs = whole / p.utilization;
    return {
      value: at(cogs),
      low: rate.low ? at((cogs * rate.value) / rate.low) : null,
      high: rate.high ? at((cogs * rate.value) / rate.high) : null,
      utilization: revenue > 0 ? whole / revenue : null,
      usd_per_hour: seconds > 0 ? (revenue * p.utilization * 3600) / seconds : null,
    };
  }

  const range = (i, show) => (i.low === null || i.high === null ? "" : ` (${show(i.low)} to ${show(i.high)})`);

  function tellMargins() {
    const body = $("margin-table").tBodies[0];
    body.replaceChildren();
    let best = null;
    runs.forEach((run, r) =>
      run.levels.forEach((level) => {
        const m = margin(r, level);
        const k = factor(r);
        const name = runs.length > 1 ? `${run.name}, ${level.label}` : level.label;
        const cell = (i) => (i ? usd(i.value * k) : "–");
        const even = m.utilization === null ? "–"
          : m.utilization > 1 ? "never: over 100 %" : percent(m.utilization);
        const row = body.insertRow();
        row.dataset.margin = m.value;
        const head = document.createElement("th");
        head.scope = "row";
        head.textContent = name;
        row.append(head);
        for (const text of [cell(level.usd_per_mtok_output), cell(level.usd_per_mtok_blended),
          m.value === null ? "–" : percent(m.value) + range(m, percent), even, usd(m.usd_per_hour)]) {
          const td = row.insertCell();
          td.className = "figure";
          td.textContent = text;
        }
        if (r === chosen() && m.value !== null && (!best || m.value > best.m.value)) best = { m, name };
      }));
    const words = $("margin-words");
    words.textContent = best
      ? `Best margin: ${percent(best.m.value)}${range(best.m, percent)} at ${best.name}.`
      : "No revenue at these prices.";
    words.dataset.value = best ? best.m.value : "";
  }

  const slider = (name) => document.querySelector(`input[data-for="${name}"]`);
  // Prices move on a logarithmic slider, a factor of 20 up and down; utilization on a linear one.
  const SPAN = 20;
  const toSlider = (name, x, start) =>
    name === "utilization" ? x : (1000 * Math.log((x / start) * SPAN)) / Math.log(SPAN * SPAN);
  const fromSlider = (name, s, start) =>
    name === "utilization" ? s : (start / SPAN) * Math.pow(SPAN * SPAN, s / 1000);
  const starts = {};

  function showControls() {
    const p = priced[chosen()];
    for (const name of NAMES) {
      const value = name === "utilization" ? p[name] * 100 : p[name];
      starts[name] = name === "usd_per_hour" ? runs[chosen()].usd_per_hour
        : Math.max(list[name.replace("list_", "")] || 0, 0.01);
      $(name).value = Number(value.toPrecision(4));
      const bar = slider(name);
      [bar.min, bar.max, bar.step] = name === "utilization" ? [1, 100, 1] : [0, 1000, 1];
      bar.value = toSlider(name, value, starts[name]);
      bar.setAttribute("aria-valuetext", $(name).value);
    }
  }

  function take(name, value) {
    const x = name === "utilization" ? value / 100 : value;
    const fits = Number.isFinite(x) && (name.startsWith("list") ? x >= 0 : x > 0) &&
      (name !== "utilization" || x <= 1);
    $(name).setAttribute("aria-invalid", String(!fits));
    if (!fits) return;
    // A list price is the same for every machine; an hour's price is the machine's own.
    if (name.startsWith("list")) priced.forEach((p) => { p[name] = x; });
    else priced[chosen()][name] = x;
    repriced();
  }

  let waiting = false;
  function repriced() {
    tellMargins();
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      ["cost", "margin", "hardware", "pareto"].forEach(draw);
    });
  }

  for (const name of NAMES) {
    $(name).addEventListener("input", (event) => {
      take(name, event.target.valueAsNumber);
      slider(name).value = toSlider(name, event.target.valueAsNumber, starts[name]);
    });
    slider(name).addEventListener("input", (event) => {
      const value = Number(fromSlider(name, event.target.valueAsNumber, starts[name]).toPrecision(4));
      $(name).value = value;
      event.target.setAttribute("aria-valuetext", value);
      take(name, value);
    });
  }
  document.querySelector("form.controls").addEventListener("submit", (event) => event.preventDefault());
  $("priced-run")?.addEventListener("change", () => { showControls(); tellMargins(); });

  // ---- Charts ---------------------------------------------------------------------------

  const all = runs.flatMap((run) => run.levels);
  const loads = all.every((l) => l.concurrency !== null)
    ? { of: (l) => l.concurrency, title: "requests in flight", log: true }
    : all.every((l) => l.requests_per_s !== null)
      ? { of: (l) => l.requests_per_s, title: "requests offered per second", log: true }
      : { of: (l) => l.short, title: "load", log: false };

  function loadAxis() {
    if (!loads.log) return { title: { text: loads.title }, type: "category" };
    const values = [...new Set(all.map(loads.of))].sort((a, b) => a - b);
    return { title: { text: loads.title }, type: "log", tickvals: values, ticktext: values.map(String) };
  }

  // A search tries rates up and down, after a burst of all requests at once.
  const isSearch = all.some((l) => l.requests_per_s !== null) &&
    all.every((l) => l.short === "max" || l.short === `${l.requests_per_s}/s`);
  // By load where that is a number, otherwise as the plan has them.
  function inOrder(levels) {
    const of = loads.log ? loads.of : isSearch ? (l) => l.requests_per_s ?? Infinity : null;
    return of ? [...levels].sort((a, b) => of(a) - of(b)) : levels;
  }

  function bandAndLine(levels, of, name, i, hover, showlegend = true) {
    const points = inOrder(levels).map((l) => ({ x: loads.of(l), y: of(l) })).filter((p) => p.y);
    const banded = points.filter((p) => p.y.low !== null && p.y.high !== null);
    const traces = [];
    if (banded.length > 1) {
      traces.push({
        x: [...banded.map((p) => p.x), ...banded.map((p) => p.x).reverse()],
        y: [...banded.map((p) => p.y.high), ...banded.map((p) => p.y.low).reverse()],
        fill: "toself", fillcolor: clear(colour(i)), line: { width: 0 }, mode: "lines",
        hoverinfo: "skip", showlegend: false, legendgroup: name,
      });
    }
    traces.push({
      x: points.map((p) => p.x), y: points.map((p) => p.y.value), name: plain(cut(name)),
      mode: "lines+markers", legendgroup: name, showlegend,
      line: { color: colour(i), dash: dash(i) }, marker: { color: colour(i), symbol: shape(i), size: 9 },
      text: points.map((p) => plain(name) + ": " + hover(p.y)), hoverinfo: "text",
    });
    return traces;
  }

  const LEGEND = { orientation: "h", y: 1, yanchor: "bottom", x: 0, traceorder: "normal" };
  const charts = {
    cost: () => ({
      data: runs.length === 1
        ? ["output", "input", "blended"].flatMap((kind, i) =>
          bandAndLine(runs[0].levels, (l) => scaled(l["usd_per_mtok_" + kind], factor(0)), kind, i,
            (y) => usd(y.value) + range(y, usd)))
        : runs.flatMap((run, r) =>
          bandAndLine(run.levels, (l) => scaled(l.usd_per_mtok_output ?? l.usd_per_mtok_blended, factor(r)),
            run.name, r, (y) => usd(y.value) + range(y, usd))),
      layout: { xaxis: loadAxis(), yaxis: { title: { text: "USD per million tokens" }, type: "log" } },
    }),
    margin: () => ({
      data: runs.flatMap((run, r) =>
        bandAndLine(run.levels, (l) => { const m = margin(r, l); return m.value === null ? null : m; },
          runs.length > 1 ? run.name : "gross margin", r, (y) => percent(y.value) + range(y, percent))),
      layout: { xaxis: loadAxis(), yaxis: { title: { text: "gross margin" }, tickformat: ".0%", zeroline: true,
        zerolinewidth: 2 } },
    }),
    tradeoff: () => {
      const data = [];
      const shapes = [];
      runs.forEach((run, r) => [["ttft_ms", "TTFT p50"], ["itl_ms", "ITL p50"]].forEach(([key, name], k) => {
        const levels = inOrder(run.levels.filter((l) => l[key]));
        const i = runs.length > 1 ? r : k;
        data.push({
          x: levels.map((l) => l.output_tok_per_s.value), y: levels.map((l) => l[key].value),
          error_y: bars(levels.map((l) => l[key])), mode: "lines+markers+text",
          name: plain(runs.length > 1 ? `${cut(run.name)}, ${name}` : name),
          line: { color: colour(i), dash: dash(k) }, marker: { color: colour(i), symbol: shape(k), size: 9 },
          textposition: k ? "bottom right" : "top left", texttemplate: " %{customdata} ",
          customdata: levels.map((l) => plain(l.short)),
          text: levels.map((l) => `${plain(l.label)}: ${short(l.output_tok_per_s.value)} tok/s, ${name} ${short(l[key].value)} ms`),
          hoverinfo: "text", cliponaxis: false,
        });
      }));
      const limit = (key, name) => {
        const value = all.map((l) => l[key]).find((x) => x !== null);
        if (value === undefined) return;
        shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value,
          line: { dash: "dash", color: css("--alarm") },
          label: { text: `SLO ${name} ${short(value)} ms`, textposition: "start", yanchor: "bottom", font: { color: css("--alarm") } } });
      };
      limit("slo_ttft_ms", "TTFT");
      limit("slo_itl_ms", "ITL");
      limit("slo_tpot_ms", "TPOT");
      // Points and limits decide what is seen; a long whisker may run out of the chart.
      const ys = [...data.flatMap((t) => t.y), ...shapes.map((s) => s.y0)].filter((y) => y > 0).map(Math.log10);
      const tips = data.flatMap((t) => t.y.flatMap((y, i) => [y + t.error_y.array[i], y - t.error_y.arrayminus[i]]))
        .filter((y) => y > 0).map(Math.log10);
      const [least, most] = [Math.min(...ys), Math.max(...ys)];
      const range = [Math.max(Math.min(least, ...tips), least - 1) - 0.15, Math.min(Math.max(most, ...tips), most + 1) + 0.15];
      const rates = data.flatMap((t) => t.x);
      return { data, layout: { shapes, xaxis: { title: { text: "output tokens per second" }, range: [0, 1.1 * Math.max(...rates)] },
        yaxis: { title: { text: "milliseconds" }, type: "log", range } } };
    },
    percentiles: () => {
      const quantity = $("quantity").value;
      const ticks = [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999];
      const at = (q) => 1 / (1 - q);
      let i = 0;
      const data = runs.flatMap((run) => run.levels.map((level) => {
        const points = level.percentiles[quantity];
        const name = runs.length > 1 ? `${cut(run.name, 20)}, ${level.short}` : level.label;
        const n = i++;
        return { x: points.map((p) => at(p[0])), y: points.map((p) => p[1]), mode: "lines+markers", name: plain(name),
          line: { color: colour(n), dash: dash(Math.floor(n / COLOURS.length)), shape: "hv" },
          marker: { symbol: shape(n), size: 5 },
          text: points.map((p) => `${plain(name)}: p${Number((p[0] * 100).toPrecision(6))} ${short(p[1])} ms`), hoverinfo: "text" };
      }));
      return { data, layout: { xaxis: { type: "log", title: { text: "percentile" }, tickvals: ticks.map(at),
        ticktext: ticks.map((q) => "p" + Number((q * 100).toPrecision(6))) },
        yaxis: { type: "log", title: { text: "milliseconds" } } } };
    },
    phases: () => {
      const kinds = [["decode", "decode"], ["prefill", "prefill"], ["mixed", "both at once"], ["idle", "no step"]];
      const rows = runs.flatMap((run) => run.levels.filter((l) => l.time).map((l) =>
        ({ name: plain(runs.length > 1 ? `${cut(run.name, 20)}, ${l.short}` : l.label), time: l.time }))).reverse();
      return { data: rows.length ? kinds.map(([key, name], i) => ({ type: "bar", orientation: "h", name,
        y: rows.map((r) => r.name), x: rows.map((r) => r.time[key]), marker: { color: colour(i),
          pattern: { fillmode: "overlay", shape: ["", "/", "x", "."][i], fgcolor: css("--paper"), solidity: 0.25 } },
        text: rows.map((r) => `${name}: ${percent(r.time[key])}`), textposition: "none", hoverinfo: "text" })) : [],
      layout: { barmode: "stack", xaxis: { tickformat: ".0%", range: [0, 1] }, yaxis: { automargin: true, type: "category" },
        height: Math.max(240, 130 + 34 * rows.length) } };
    },
    roofline: () => {
      const run = runs[shown()];
      const data = Object.entries(run.pictures.cells).map(([kind, cells]) => {
        const i = ["decode", "prefill", "mixed"].indexOf(kind);
        return { x: cells.map((c) => c.intensity), y: cells.map((c) => c.flops_per_s / 1e9), mode: "markers",
          name: kind === "mixed" ? "both at once" : kind,
          marker: { color: colour(i), symbol: shape(i), opacity: 0.75,
            size: cells.map((c) => Math.min(16, 4 + 1.6 * Math.log10(c.steps + 1) * 2)) },
          text: cells.map((c) => `${kind}: ${whole(c.steps)} steps, ${short(c.flops_per_s / 1e9)} GFLOP/s, ` +
            `${short(c.intensity)} FLOP/byte` + (c.mbu === null ? "" : `, MBU ${percent(c.mbu)}, MFU ${percent(c.mfu)}`)),
          hoverinfo: "text" };
      });
      if (data.length && run.peaks) {
        const xs = data.flatMap((t) => t.x);
        const { read_bytes_per_s: bandwidth, flops_per_s: flops } = run.peaks;
        const [least, most, knee] = [Math.min(...xs) / 2, Math.max(...xs) * 2, flops / bandwidth];
        const x = [least, ...(knee > least && knee < most ? [knee] : []), most];
        data.push({ x, y: x.map((v) => Math.min(flops, v * bandwidth) / 1e9), mode: "lines", name: "measured peaks",
          line: { color: css("--ink"), width: 2 }, hoverinfo: "skip" });
      }
      return { data, layout: { xaxis: { type: "log", title: { text: "FLOPs per byte moved" } },
        yaxis: { type: "log", title: { text: "GFLOP/s" } }, legend: { ...LEGEND, itemsizing: "constant" } } };
    },
    timeline: () => {
      const run = runs[shown()];
      const tracks = [["in_flight", "in flight"], ["sequences", "batch"], ["waiting", "waiting"], ["kv_share", "KV use"],
        ["mbu", "step MBU"], ["ttft_ms", "TTFT ms"], ["own_cores", "own cores"], ["other_cores", "other cores"],
        ["rss_gib", "memory GiB"], ["ghz", "GHz"], ["watts", "watts"]].filter(([key]) => run.pictures[key].at_s.length);
      const data = [];
      // Fitting margins to labels would draw each of the many axes anew.
      const layout = { margin: { l: 72, r: 24, t: 12, b: 48 }, height: 70 + 120 * Math.max(1, tracks.length), showlegend: false, shapes: [],
        xaxis: { title: { text: "seconds from the start" }, range: ends(tracks.flatMap(([key]) => run.pictures[key].at_s)), anchor: "y" + (tracks.length > 1 ? tracks.length : "") } };
      tracks.forEach(([key, name], k) => {
        const axis = k ? "y" + (k + 1) : "y";
        const s = run.pictures[key];
        const gap = 0.04;
        const size = (1 - gap * (tracks.length - 1)) / tracks.length;
        layout["yaxis" + (k ? k + 1 : "")] = { domain: [1 - (k + 1) * size - k * gap, 1 - k * (size + gap)],
          title: { text: name }, rangemode: "tozero", nticks: 4, automargin: false,
          tickformat: key === "kv_share" || key === "mbu" ? ".0%" : undefined };
        const spans = unbroken(s.at_s);
        const along = (values) => spans.flatMap(([a, b]) => [...values.slice(a, b), null]);
        const around = (there, back) =>
          spans.flatMap(([a, b]) => [...there.slice(a, b), ...back.slice(a, b).reverse(), null]);
        data.push({ x: around(s.at_s, s.at_s), y: around(s.high, s.low), yaxis: axis,
          fill: "toself", fillcolor: clear(colour(k)), line: { width: 0 }, mode: "lines", hoverinfo: "skip" });
        // What is drawn for single requests has no line where the next one is far off.
        const isSparse = key === "ttft_ms";
        data.push({ x: along(s.at_s), y: along(s.mean), yaxis: axis, mode: isSparse ? "lines+markers" : "lines",
          line: { color: colour(k), width: isSparse ? 0.75 : 1.5 }, marker: { color: colour(k), size: 4 },
          text: along(s.at_s.map((t, i) => `${name} at ${short(t)} s: ${short(s.mean[i])} (${short(s.low[i])} to ${short(s.high[i])})`)),
          hoverinfo: "text", name });
      });
      layout.shapes = run.units.map((u) => ({ type: "rect", xref: "x", yref: "paper", x0: u.start_s, x1: u.end_s, y0: 0, y1: 1,
        fillcolor: css("--soft"), opacity: 0.1, line: { width: 0 }, layer: "below" }));
      return { data: run.pictures.requests + run.pictures.steps ? data : [], layout };
    },
    hardware: () => {
      const best = runs.map((run, r) => {
        const levels = run.levels.map((l) => scaled(l.usd_ranked, factor(r))).filter(Boolean);
        return { run, usd: levels.sort((a, b) => a.value - b.value)[0] };
      }).filter((b) => b.usd).sort((a, b) => b.usd.value - a.usd.value);
      return { data: [{ type: "bar", orientation: "h", y: best.map((b) => plain(cut(b.run.name))), x: best.map((b) => b.usd.value),
        error_x: { ...bars(best.map((b) => b.usd)), color: css("--ink") },
        marker: { color: best.map((b) => colour(runs.indexOf(b.run))) },
        text: best.map((b) => `${plain(b.run.machine)}: ${usd(b.usd.value)}${range(b.usd, usd)}`), textposition: "none", hoverinfo: "text" }],
      layout: { showlegend: false, xaxis: { tickprefix: "$", title: { text: "USD per million tokens" }, rangemode: "tozero" },
        yaxis: { automargin: true, type: "category" }, height: Math.max(240, 110 + 40 * best.length) } };
    },
    pareto: () => {
      const points = runs.flatMap((run, r) => run.levels.map((l) => {
        const cost = l.usd_per_mtok_output ?? l.usd_per_mtok_blended;
        return { r, l, x: cost && 1e6 / (cost.value * factor(r)), y: l.tok_per_s_per_user };
      })).filter((p) => p.x && p.y);
      const front = points.filter((p) => !points.some((q) => q.x >= p.x && q.y >= p.y && (q.x > p.x || q.y > p.y)))
        .sort((a, b) => a.x - b.x);
      const data = [{ x: front.map((p) => p.x), y: front.map((p) => p.y), mode: "lines", name: "not beaten",
        line: { color: css("--soft"), dash: "dot", shape: "vh" }, hoverinfo: "skip" }];
      runs.forEach((run, r) => {
        const own = points.filter((p) => p.r === r);
        data.push({ x: own.map((p) => p.x), y: own.map((p) => p.y), mode: "markers+text", name: plain(cut(run.name)),
          marker: { color: colour(r), symbol: shape(r), size: 11 }, cliponaxis: false,
          texttemplate: "%{customdata}", customdata: own.map((p) => plain(p.l.short)), textposition: "top center",
          text: own.map((p) => `${plain(run.name)}, ${plain(p.l.label)}: ${short(p.x)} tokens per USD, ${short(p.y)} tok/s per user`),
          hoverinfo: "text" });
      });
      return { data, layout: { xaxis: { type: "log", tickformat: "~s", title: { text: "output tokens per USD" } },
        yaxis: { type: "log", title: { text: "tok/s per user" } } } };
    },
  };

  const ends = (values) => values.reduce(([low, high], x) => [Math.min(low, x), Math.max(high, x)], [Infinity, -Infinity]);

  // Stretches of a timeline without a hole: nothing is drawn where nothing ran.
  function unbroken(at) {
    const step = Math.min(...at.slice(1).map((t, i) => t - at[i]));
    const starts = at.map((t, i) => (i === 0 || t - at[i - 1] > 2.5 * step ? i : -1)).filter((i) => i >= 0);
    return starts.map((a, n) => [a, starts[n + 1] ?? at.length]);
  }

  function bars(intervals) {
    return { type: "data", symmetric: false, thickness: 1.5,
      array: intervals.map((i) => (i.high === null ? 0 : i.high - i.value)),
      arrayminus: intervals.map((i) => (i.low === null ? 0 : i.value - i.low)) };
  }

  const shown = () => Number($("shown-run")?.value ?? 0);
  const touch = matchMedia("(pointer: coarse)").matches;

  function draw(id) {
    const place = $(id)?.querySelector(".plot");
    if (!place || typeof Plotly === "undefined") return;
    const { data, layout } = charts[id]();
    if (!data.length) {
      place.textContent = "The run has no data for this chart.";
      place.style.minHeight = "0";
      return;
    }
    const narrow = place.clientWidth < 520;
    const named = data.filter((t) => t.showlegend !== false && t.name).length;
    const axis = { gridcolor: css("--grid"), linecolor: css("--rule"), zerolinecolor: css("--rule"), automargin: true };
    const full = { font: { color: css("--ink"), family: "system-ui, sans-serif", size: narrow ? 12 : 13 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      hoverlabel: { bgcolor: css("--card"), font: { color: css("--ink") }, bordercolor: css("--rule"), namelength: -1 },
      margin: { l: narrow ? 50 : 64, r: narrow ? 14 : 24, t: 12, b: 48 }, dragmode: touch ? false : "zoom",
      legend: LEGEND, height: (narrow ? 320 : 380) + 18 * Math.ceil(named / (narrow ? 1 : 4)),
      showlegend: named > 1, ...layout };
    full.legend = { ...full.legend, font: { size: narrow ? 11 : 12 } };
    // Whole numbers at 1, 2 and 5 of each decade, not powers and lone digits.
    const log = { tickformat: "~g", dtick: "D2" };
    for (const key of Object.keys(full)) {
      if (/^[xy]axis/.test(key)) {
        const own = full[key];
        full[key] = { ...axis, ...(own.type === "log" && !own.tickvals ? log : {}), ...own };
      }
    }
    place.style.minHeight = "0";
    Plotly.react(place, data, full, { responsive: true, displayModeBar: false });
  }
  const drawAll = () => Object.keys(charts).forEach(draw);
  // What is on the screen first; then one after another, so that the page answers in between.
  function drawInTurn() {
    const isSeen = (id) => {
      const box = $(id).getBoundingClientRect();
      return box.bottom > 0 && box.top < innerHeight;
    };
    const all = Object.keys(charts).filter($);
    const later = all.filter((id) => !isSeen(id));
    all.filter(isSeen).forEach(draw);
    const { dataset } = document.documentElement;
    dataset.drawn = "seen";
    const next = () => {
      if (!later.length) {
        dataset.drawn = "all";
        return;
      }
      draw(later.shift());
      setTimeout(next);
    };
    setTimeout(next);
  }

  $("quantity").addEventListener("change", () => draw("percentiles"));
  $("shown-run")?.addEventListener("change", () => { draw("roofline"); draw("timeline"); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  // Paper is white, and what is folded away cannot be unfolded on it: all but the machine's listing.
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.print = "";
    document.querySelectorAll("details:not(:has(> .wide > pre))").forEach((d) => { d.open = true; });
    drawAll();
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.print;
    drawAll();
  });

  // ---- Downloads ------------------------------------------------------------------------

  runs.forEach((run) => run.downloads.forEach((file) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = runs.length > 1 ? `${file.name} of ${run.name}` : file.name;
    button.addEventListener("click", async () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await inflate(file.gzip_base64));
      link.download = file.name;
      link.click();
      URL.revokeObjectURL(link.href);
    });
    $("downloads").append(button);
  }));

  // ---- Begin ----------------------------------------------------------------------------

  document.querySelector("main").classList.remove("no-script");
  showControls();
  tellMargins();
  // The words are on the screen before the library is unpacked.
  requestAnimationFrame(() => setTimeout(async () => {
    const source = await (await inflate($("plotly").textContent.trim())).text();
    const script = document.createElement("script");
    script.textContent = source;
    document.head.append(script);
    drawInTurn();
  }));
})();
