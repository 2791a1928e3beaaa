"use strict";
// Draws the figures of a report from the JSON in the page. Every name in the data is untrusted: elements get it
// through textContent, plotly gets it with its markup characters escaped.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const hidden = new Set(); // numbers of the groups that are switched off
  const markup = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const number = (value) => (value === null ? NaN : Number(value === "inf" ? Infinity : value === "-inf" ? -Infinity : value));
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  function element(tag, text, properties = {}) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
    return made;
  }

  function layout(more) {
    const styles = getComputedStyle(document.body);
    const line = getComputedStyle(document.documentElement).getPropertyValue("--line").trim();
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
    const { xaxis = {}, yaxis = {}, ...rest } = more;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: styles.color, family: styles.fontFamily, size: 14 },
      margin: { l: 60, r: 16, t: 16, b: 52 }, showlegend: false, hovermode: "closest",
      hoverlabel: { namelength: -1, align: "left" },
      xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
    };
  }

  const config = {
    responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg" },
  };
  const draw = (id, traces, more) => Plotly.react(byId(id), traces, layout(more), config);
  // On a dark page, black lines would not be seen.
  const colour = (group) => (dark.matches && group.colour === "#000000" ? "#ffffff" : group.colour);
  const rgba = (hex, alpha) => {
    const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    return `rgba(${parts.join(",")},${alpha})`;
  };

  // Curves

  const state = { problem: data.problems[0], y: "", x: "step", logX: false, logY: false, band: true, smoothing: 0 };
  const groupsOf = (problem) => data.groups.map((group, index) => [group, index]).filter(([group]) => group.problem === problem);
  const runsOf = (index) => data.runs.filter((run) => run.group === index);

  function curve(run, column, x) {
    const table = run.epochs[column] && column !== "loss" ? run.epochs : run.steps;
    if (!table[column] || !table[x]) return null;
    const scale = data.columns.find((one) => one.name === column).scale;
    const found = { x: [], y: [] };
    table[column].forEach((value, row) => {
      const y = number(value) * scale;
      if (Number.isNaN(y) || table[x][row] === null) return;
      found.x.push(table[x][row]);
      found.y.push(Math.abs(y) > 1e60 ? Infinity : y);
    });
    return found.x.length ? found : null;
  }

  function smoothed(values, width) {
    if (!width) return values;
    return values.map((_, at) => {
      const reach = Math.min(width, at, values.length - 1 - at);
      let sum = 0;
      for (let i = at - reach; i <= at + reach; i++) sum += values[i];
      return sum / (2 * reach + 1);
    });
  }

  // Mean and range of several curves as step functions on the grid of all their x values, up to the shortest.
  function summarized(curves) {
    const end = Math.min(...curves.map((one) => one.x[one.x.length - 1]));
    const begin = Math.max(...curves.map((one) => one.x[0]));
    const grid = [...new Set(curves.flatMap((one) => one.x))].filter((x) => x >= begin && x <= end).sort((a, b) => a - b);
    const at = curves.map(() => 0);
    const result = { x: grid, mean: [], low: [], high: [] };
    for (const x of grid) {
      const values = curves.map((one, i) => {
        while (at[i] + 1 < one.x.length && one.x[at[i] + 1] <= x) at[i]++;
        return one.y[at[i]];
      });
      result.mean.push(values.reduce((sum, value) => sum + value, 0) / values.length);
      result.low.push(Math.min(...values));
      result.high.push(Math.max(...values));
    }
    return result;
  }

  const finite = (values) => values.map((value) => (Number.isFinite(value) ? value : null));

  function drawCurves() {
    const traces = [];
    for (const [group, index] of groupsOf(state.problem)) {
      if (hidden.has(index)) continue;
      const runs = runsOf(index).map((run) => [run, curve(run, state.y, state.x)]).filter(([, one]) => one);
      if (!runs.length) continue;
      runs.forEach(([, one]) => { one.y = smoothed(one.y, state.smoothing); });
      const line = { color: colour(group), dash: group.dash, width: 2 };
      const name = markup(group.name);
      if (state.band && runs.length > 1) {
        const { x, mean, low, high } = summarized(runs.map(([, one]) => one));
        const edge = { x, mode: "lines", line: { width: 0 }, hoverinfo: "skip" };
        traces.push({ ...edge, y: finite(low) }, { ...edge, y: finite(high), fill: "tonexty", fillcolor: rgba(colour(group), 0.18) });
        traces.push({ x, y: finite(mean), name, mode: "lines", line, hovertemplate: `%{y:.6g}<br>mean of ${runs.length} runs<br>%{x}<extra>${name}</extra>` });
      } else {
        for (const [run, one] of runs) {
          const settings = Object.entries(group.settings).map(([key, value]) => `${markup(key)}: ${markup(JSON.stringify(value))}`);
          const text = [`seed ${markup(run.seed)}`, markup(run.status), ...settings].join("<br>");
          traces.push({ x: one.x, y: finite(one.y), name, mode: one.x.length > 1 ? "lines" : "markers", line: { ...line, width: 1.4 }, hovertemplate: `%{y:.6g}<br>%{x}<br>${text}<extra>${name}</extra>` });
        }
      }
      for (const [run, one] of runs) {
        if (run.status !== "diverged") continue;
        const last = one.y.reduce((kept, value, at) => (Number.isFinite(value) ? at : kept), 0);
        traces.push({ x: [one.x[last]], y: [one.y[last]], name, mode: "markers", marker: { symbol: "x", size: 11, color: colour(group) }, hovertemplate: `diverged (seed ${markup(run.seed)})<extra>${name}</extra>` });
      }
    }
    const column = data.columns.find((one) => one.name === state.y);
    const along = data.x.find((one) => one.name === state.x);
    draw("curve-plot", traces, {
      xaxis: { title: { text: markup(along.label) }, type: state.logX ? "log" : "linear" },
      yaxis: { title: { text: markup(column.label) }, type: state.logY ? "log" : "linear", exponentformat: "power" },
      uirevision: [state.y, state.x, state.problem, state.logX, state.logY].join(),
    });
  }

  function options(select, values) {
    select.replaceChildren(...values.map(([value, label]) => element("option", label, { value })));
  }

  function available(problem) {
    const runs = groupsOf(problem).flatMap(([, index]) => runsOf(index));
    return data.columns.filter((column) => runs.some((run) => run.steps[column.name] || run.epochs[column.name]));
  }

  function chooseProblem() {
    const columns = available(state.problem);
    options(byId("y"), columns.map((column) => [column.name, column.label]));
    if (!columns.length) return;
    if (!columns.some((column) => column.name === state.y)) state.y = columns[0].name;
    byId("y").value = state.y;
    chooseColumn();
    drawToggles();
  }

  function chooseColumn() {
    state.logY = data.columns.find((column) => column.name === state.y).log;
    byId("log-y").checked = state.logY;
  }

  function drawToggles() {
    byId("toggles").replaceChildren(...groupsOf(state.problem).map(([group, index]) => {
      const button = element("button", undefined, { type: "button", "aria-pressed": String(!hidden.has(index)) });
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      for (const [name, value] of Object.entries({ width: 32, height: 10, "aria-hidden": "true" })) svg.setAttribute(name, value);
      const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      const dashes = { dash: "7 4", dashdot: "7 3 2 3", dot: "2 3", longdash: "11 4" }[group.dash] || "";
      for (const [name, value] of Object.entries({ x1: 0, x2: 32, y1: 5, y2: 5, stroke: colour(group), "stroke-width": 3, "stroke-dasharray": dashes })) line.setAttribute(name, value);
      svg.append(line);
      button.append(svg, element("span", group.diverged ? `${group.name} (${group.diverged} diverged)` : group.name));
      button.addEventListener("click", () => {
        hidden.has(index) ? hidden.delete(index) : hidden.add(index);
        button.setAttribute("aria-pressed", String(!hidden.has(index)));
        drawAll();
      });
      return button;
    }));
  }

  function listenToControls() {
    const listen = (id, event, change) => byId(id).addEventListener(event, () => { change(byId(id)); drawCurves(); });
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    options(byId("problem"), data.problems.map((name) => [name, name || "all runs"]));
    if (data.problems.length < 2) byId("problem").parentElement.hidden = true;
    options(byId("x"), data.x.map((one) => [one.name, one.label]));
    listen("problem", "change", (select) => { state.problem = select.value; chooseProblem(); drawAll(); });
    listen("y", "change", (select) => { state.y = select.value; chooseColumn(); });
    listen("x", "change", (select) => { state.x = select.value; });
    listen("log-y", "change", (box) => { state.logY = box.checked; });
    listen("log-x", "change", (box) => { state.logX = box.checked; });
    listen("runs", "change", (select) => { state.band = select.value === "band"; });
    listen("smoothing", "input", (slider) => {
      state.smoothing = Number(slider.value);
      byId("smoothing-value").textContent = state.smoothing ? `mean of ${2 * state.smoothing + 1} drawn rows` : "off";
    });
  }

  // Results of runs

  const resultOf = data.runs.map((run, at) => number(data.results.values[at]));

  function points(xOf) {
    return groupsOf(state.problem).filter(([, index]) => !hidden.has(index)).map(([group, index]) => {
      const kept = data.runs.map((run, at) => at).filter((at) => data.runs[at].group === index && Number.isFinite(resultOf[at]) && xOf(at) !== null);
      return {
        x: kept.map(xOf), y: kept.map((at) => resultOf[at]), mode: "markers", name: markup(group.name),
        marker: { color: colour(group), size: 9, opacity: 0.8 },
        text: kept.map((at) => `seed ${markup(data.runs[at].seed)}<br>${markup(data.runs[at].status)}`),
        hovertemplate: `%{y:.6g}<br>%{text}<extra>${markup(group.name)}</extra>`,
      };
    }).filter((trace) => trace.x.length);
  }

  function drawResults() {
    const short = (text) => (text.length > 28 ? `${text.slice(0, 27)}…` : text);
    const shown = groupsOf(state.problem).filter(([, index]) => !hidden.has(index));
    const place = new Map(shown.map(([, index], at) => [index, at]));
    const type = data.results.log && resultOf.filter(Number.isFinite).every((value) => value > 0) ? "log" : "linear";
    draw("result-plot", points((at) => place.get(data.runs[at].group)), {
      xaxis: { tickvals: shown.map((_, at) => at), ticktext: shown.map(([group]) => markup(short(group.name))), range: [-0.6, shown.length - 0.4], tickangle: "auto" },
      yaxis: { title: { text: markup(data.results.label) }, type },
    });
  }

  // The search: every run at its settings, coloured by the family, which is everything that was not searched

  const search = data.search;
  const searched = () => search.points.filter((point) => search.families[point.family].problem === state.problem);

  function drawSetting() {
    const at = Number(byId("setting").value);
    const key = search.keys[at];
    const all = searched().filter((point) => point.settings[at] !== null);
    const known = all.map((point) => point.value).filter((value) => value !== null);
    const worst = search.log ? Math.max(...known) : Math.min(...known);
    const traces = search.families.flatMap((family, number) => {
      const name = markup(family.name);
      return [false, true].map((missing) => {
        const kept = all.filter((point) => point.family === number && (point.value === null) === missing);
        const settings = (point) => search.keys.map((one, i) => `${markup(one.name)}: ${point.settings[i]}`);
        return {
          x: kept.map((point) => point.settings[at]), y: kept.map((point) => point.value ?? worst), name, mode: "markers",
          marker: { color: colour(family), size: 9, opacity: 0.8, symbol: missing ? "x" : "circle" },
          text: kept.map((point) => [...settings(point), `seed ${markup(point.seed)}`, markup(point.status)].join("<br>")),
          hovertemplate: `${missing ? "no value" : "%{y:.6g}"}<br>%{text}<extra>${name}</extra>`, showlegend: !missing,
        };
      });
    }).filter((trace) => trace.x.length);
    const type = search.log && known.every((value) => value > 0) ? "log" : "linear";
    draw("setting-plot", traces, {
      xaxis: { title: { text: markup(key.name) }, type: key.log ? "log" : "linear", exponentformat: "power" },
      yaxis: { title: { text: markup(search.label).replace(" at ", "<br>at ") }, type, exponentformat: "power" },
      showlegend: search.families.length > 1, legend: { orientation: "h", y: -0.25 }, margin: { l: 60, r: 16, t: 16, b: 80 },
    });
  }

  function drawParallel() {
    const kept = searched().filter((point) => point.value !== null && point.settings.every((value) => value !== null));
    const dimensions = search.keys.map((key, at) => {
      const values = kept.map((point) => (key.log ? Math.log10(point.settings[at]) : point.settings[at]));
      const dimension = { label: markup(key.name), values };
      if (key.log) {
        const ticks = [...new Set(values.map(Math.round))].sort((a, b) => a - b);
        Object.assign(dimension, { tickvals: ticks, ticktext: ticks.map((tick) => `1e${tick}`) });
      }
      return dimension;
    });
    const values = kept.map((point) => point.value);
    dimensions.push({ label: markup(search.label), values });
    draw("parallel-plot", [{ type: "parcoords", dimensions, line: { color: values, colorscale: "Viridis", showscale: true } }], { margin: { l: 70, r: 30, t: 50, b: 30 } });
  }

  // Tables and downloads

  function sortable(table) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const button = element("button", cell.textContent, { type: "button" });
      cell.replaceChildren(button);
      button.addEventListener("click", () => {
        const direction = cell.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", direction);
        const sign = direction === "ascending" ? 1 : -1;
        const value = (row) => row.cells[column].textContent;
        const order = (a, b) => {
          const [first, second] = [a, b].map((row) => parseFloat(value(row).replace(/,/g, "")));
          const numeric = !Number.isNaN(first) && !Number.isNaN(second);
          return sign * (numeric ? first - second : value(a).localeCompare(value(b)));
        };
        body.append(...[...body.rows].sort(order));
      });
    });
  }

  function fill(table, headings, rows, marked = () => false) {
    const head = element("thead");
    head.append(element("tr"));
    head.rows[0].append(...headings.map((text) => element("th", text, { scope: "col" })));
    const body = element("tbody");
    rows.forEach((row, at) => {
      const line = element("tr", undefined, marked(at) ? { class: "differs" } : {});
      line.append(...row.map((text) => element("td", text)));
      body.append(line);
    });
    table.replaceChildren(head, body);
    table.classList.add("text");
  }

  function drawSettings() {
    const every = byId("all-settings").checked;
    const found = data.groups.map((group) => (every ? group.all_settings : group.settings));
    const keys = [...new Set(found.flatMap(Object.keys))].sort();
    const written = (value) => (value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value));
    const rows = keys.map((key) => [key, ...found.map((settings) => written(settings[key]))]);
    fill(byId("settings-table"), ["key", ...data.groups.map((group) => group.name)], rows, (at) => every && new Set(rows[at].slice(1)).size > 1);
  }

  function drawRuns() {
    const rows = data.runs.map((run) => [data.groups[run.group].name, run.seed, run.message ? `${run.status}: ${run.message}` : run.status, run.path, run.again]);
    fill(byId("runs-table"), ["group", "seed", "status", "run directory", "command"], rows);
    sortable(byId("runs-table"));
  }

  function save(name, text, type) {
    const link = element("a", undefined, { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  const quoted = (value) => (/[",\n]/.test(String(value)) ? `"${String(value).replace(/"/g, '""')}"` : String(value));

  function curvesAsCsv() {
    const x = data.x.map((one) => one.name);
    const lines = [["group", "seed", "run", ...x, state.y].join(",")];
    for (const run of data.runs) {
      const table = run.epochs[state.y] && state.y !== "loss" ? run.epochs : run.steps;
      (table[state.y] || []).forEach((value, row) => {
        if (value === null) return;
        const cells = [data.groups[run.group].name, run.seed, run.path, ...x.map((name) => (table[name] || [])[row] ?? ""), value];
        lines.push(cells.map(quoted).join(","));
      });
    }
    return `${lines.join("\n")}\n`;
  }

  function listDownloads() {
    const button = (label, action) => {
      const made = element("button", label, { type: "button" });
      made.addEventListener("click", action);
      return made;
    };
    const tables = Object.entries(data.csv).map(([name, text]) => button(`${name}.csv`, () => save(`${name}.csv`, text, "text/csv")));
    const image = (id, name) => button(`${name}.svg`, () => Plotly.downloadImage(byId(id), { format: "svg", filename: name, width: 900, height: 540 }));
    byId("download-buttons").append(
      ...tables, button("curves.csv (as drawn)", () => save("curves.csv", curvesAsCsv(), "text/csv")),
      image("curve-plot", "curves"), image("result-plot", "results"),
    );
  }

  // The page

  function drawAll() {
    if (!byId("curves").hidden) drawCurves();
    drawResults();
    if (!byId("sensitivity").hidden) drawSetting();
    if (!byId("parallel").hidden) drawParallel();
  }

  const diverged = data.runs.filter((run) => run.status === "diverged").length;
  byId("summary").textContent = `${data.groups.length} groups, ${data.runs.length} runs${diverged ? `, ${diverged} diverged` : ""}`;
  byId("made").textContent = `Made by optlab ${data.optlab}. The page contains all its data and requests nothing.`;
  listenToControls();
  byId("curves").hidden = !data.problems.some((problem) => available(problem).length);
  for (const id of ["results", "settings", "commands", "downloads"]) byId(id).hidden = false;
  options(byId("setting"), search.keys.map((key, at) => [String(at), key.name]));
  byId("setting").addEventListener("change", drawSetting);
  byId("sensitivity").hidden = !search.points.length;
  const hasWebGL = Boolean(document.createElement("canvas").getContext("webgl")); // plotly draws these with it
  byId("parallel").hidden = search.keys.length < 2 || !search.points.length || !hasWebGL;
  byId("all-settings").addEventListener("change", drawSettings);
  if (!byId("curves").hidden) chooseProblem();
  sortable(byId("groups"));
  drawSettings();
  drawRuns();
  listDownloads();
  drawAll();
  dark.addEventListener("change", () => { drawToggles(); drawAll(); });
  document.body.dataset.ready = "true";
})();
