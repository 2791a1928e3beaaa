"use strict";
// Draws the figures of a report from the JSON in the page. Every name in the data is untrusted: elements get it
// through textContent, plotly gets it with its markup characters escaped.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const hidden = new Set(); // names of the groups that are switched off, on all problems
  const figures = new Map(); // by the id of its element: the name of a figure, and what makes its traces and layout
  const near = new Set(); // ids of the elements near the screen
  const markup = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const number = (value) => (value === null ? NaN : Number(value === "inf" ? Infinity : value === "-inf" ? -Infinity : value));
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  const isDark = () => dark.matches && !printing;
  // A family of settings is off if all its groups are.
  const isOff = (one) => one.groups.length > 0 && one.groups.every((name) => hidden.has(name));

  function element(tag, text, properties = {}) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
    return made;
  }

  function layout(more) {
    const line = isDark() ? "#44484e" : "#d0d0d0"; // as in page.css
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
    const { xaxis = {}, yaxis = {}, margin = { l: 60, r: 16, t: 28, b: 52 }, ...rest } = more;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", width: printing ? 660 : undefined,
      font: { color: isDark() ? "#ececec" : "#1a1a1a", family: getComputedStyle(document.body).fontFamily, size: 14 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: isDark() ? "#b8b8b8" : "#595959", activecolor: isDark() ? "#ffffff" : "#000000" },
      margin, showlegend: false, hovermode: "closest",
      hoverlabel: { namelength: -1, align: "left" },
      xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
    };
  }

  const below = { orientation: "h", yref: "container", y: 0.01, yanchor: "bottom" };
  const roomBelow = { l: 60, r: 16, t: 28, b: 90 };

  // The page has its legend above the figures; a saved figure has its own.
  function saveFigure(plot) {
    drawIfStale(plot.id);
    const named = plot.data.filter((trace) => trace.name && trace.showlegend !== false).length > 1;
    const legend = named ? { showlegend: true, legend: below, margin: roomBelow } : {};
    const page = { paper_bgcolor: getComputedStyle(document.body).backgroundColor, width: 900, height: 560 };
    Plotly.downloadImage({ data: plot.data, layout: { ...plot.layout, ...legend, ...page } }, { format: "svg", filename: figures.get(plot.id).name, width: 900, height: 560 });
  }

  const saveButton = { name: "svg", title: "Save as SVG", icon: Plotly.Icons.camera, click: saveFigure };
  const config = { responsive: true, displaylogo: false, modeBarButtons: [[saveButton, "zoom2d", "pan2d", "resetScale2d"]] };

  // A figure is drawn when it comes near the screen; one that is there is drawn at once.
  function draw(id, name, make) {
    figures.set(id, { name, make });
    byId(id).dataset.stale = "true";
    if (near.has(id) || printing) drawIfStale(id);
  }

  function drawIfStale(id) {
    const plot = byId(id);
    if (!plot.dataset.stale) return;
    delete plot.dataset.stale;
    const [traces, more] = figures.get(id).make();
    Plotly.react(plot, traces, layout(more), config);
  }

  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) near.add(target.id);
      else near.delete(target.id);
      if (isIntersecting) drawIfStale(target.id);
    }
    document.body.dataset.ready = "true";
  }, { rootMargin: "50% 0px" });

  // On a dark page, black lines would not be seen.
  const colour = (group) => (isDark() && group.colour === "#000000" ? "#ffffff" : group.colour);
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

  // The edges of a band as traces, to be drawn below its line.
  function bandTraces(group, x, low, high, shape = "linear") {
    const edge = { x, mode: "lines", line: { width: 0, shape }, hoverinfo: "skip", showlegend: false };
    return [{ ...edge, y: finite(low) }, { ...edge, y: finite(high), fill: "tonexty", fillcolor: rgba(colour(group), 0.18) }];
  }

  const drawCurves = () => draw("curve-plot", "curves", () => {
    const traces = [];
    for (const [group, index] of groupsOf(state.problem)) {
      if (hidden.has(group.name)) continue;
      const runs = runsOf(index).map((run) => [run, curve(run, state.y, state.x)]).filter(([, one]) => one);
      if (!runs.length) continue;
      runs.forEach(([, one]) => { one.y = smoothed(one.y, state.smoothing); });
      const line = { color: colour(group), dash: group.dash, width: 2 };
      const name = markup(group.name);
      if (state.band && runs.length > 1) {
        const { x, mean, low, high } = summarized(runs.map(([, one]) => one));
        traces.push(...bandTraces(group, x, low, high), { x, y: finite(mean), name, mode: "lines", line, hovertemplate: `%{y:.6g}<br>mean of ${runs.length} runs<br>%{x}<extra>${name}</extra>` });
      } else {
        runs.forEach(([run, one], at) => {
          const settings = Object.entries(group.settings).map(([key, value]) => `${markup(key)}: ${markup(JSON.stringify(value))}`);
          const text = [`seed ${markup(run.seed)}`, markup(run.status), ...settings].join("<br>");
          traces.push({ x: one.x, y: finite(one.y), name, mode: one.x.length > 1 ? "lines" : "markers", line: { ...line, width: 1.4 }, showlegend: at === 0, hovertemplate: `%{y:.6g}<br>%{x}<br>${text}<extra>${name}</extra>` });
        });
      }
      for (const [run, one] of runs) {
        if (run.status !== "diverged") continue;
        const last = one.y.reduce((kept, value, at) => (Number.isFinite(value) ? at : kept), 0);
        traces.push({ x: [one.x[last]], y: [one.y[last]], name, showlegend: false, mode: "markers", marker: { symbol: "x", size: 11, color: colour(group) }, hovertemplate: `diverged (seed ${markup(run.seed)})<extra>${name}</extra>` });
      }
    }
    const column = data.columns.find((one) => one.name === state.y);
    const along = data.x.find((one) => one.name === state.x);
    return [traces, {
      xaxis: { title: { text: markup(along.label) }, type: state.logX ? "log" : "linear" },
      yaxis: { title: { text: markup(column.label) }, type: state.logY ? "log" : "linear", exponentformat: "power" },
      uirevision: [state.y, state.x, state.problem, state.logX, state.logY].join(),
    }];
  });

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
    byId("toggles").replaceChildren(...groupsOf(state.problem).map(([group]) => {
      const button = element("button", undefined, { type: "button", "aria-pressed": String(!hidden.has(group.name)) });
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      for (const [name, value] of Object.entries({ width: 32, height: 10, "aria-hidden": "true" })) svg.setAttribute(name, value);
      const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      const dashes = group.dash === "solid" ? "" : group.dash.replace(/px/g, "");
      for (const [name, value] of Object.entries({ x1: 0, x2: 32, y1: 5, y2: 5, stroke: colour(group), "stroke-width": 3, "stroke-dasharray": dashes })) line.setAttribute(name, value);
      svg.append(line);
      button.append(svg, element("span", group.diverged ? `${group.name} (${group.diverged} diverged)` : group.name));
      button.addEventListener("click", () => {
        hidden.has(group.name) ? hidden.delete(group.name) : hidden.add(group.name);
        button.setAttribute("aria-pressed", String(!hidden.has(group.name)));
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
    return groupsOf(state.problem).filter(([group]) => !hidden.has(group.name)).map(([group, index]) => {
      const kept = data.runs.map((run, at) => at).filter((at) => data.runs[at].group === index && Number.isFinite(resultOf[at]) && xOf(at) !== null);
      return {
        x: kept.map(xOf), y: kept.map((at) => resultOf[at]), mode: "markers", name: markup(group.name),
        marker: { color: colour(group), size: 9, opacity: 0.8 },
        text: kept.map((at) => `seed ${markup(data.runs[at].seed)}<br>${markup(data.runs[at].status)}`),
        hovertemplate: `%{y:.6g}<br>%{text}<extra>${markup(group.name)}</extra>`,
      };
    }).filter((trace) => trace.x.length);
  }

  const short = (text) => (text.length > 28 ? `${text.slice(0, 27)}…` : text);

  const drawResults = () => draw("result-plot", "results", () => {
    const shown = groupsOf(state.problem).filter(([group]) => !hidden.has(group.name));
    const place = new Map(shown.map(([, index], at) => [index, at]));
    const axis = data.results.axes[state.problem];
    const type = axis.log && resultOf.filter(Number.isFinite).every((value) => value > 0) ? "log" : "linear";
    return [points((at) => place.get(data.runs[at].group)), {
      xaxis: { tickvals: shown.map((_, at) => at), ticktext: shown.map(([group]) => markup(short(group.name))), range: [-0.6, shown.length - 0.4], tickangle: "auto" },
      yaxis: { title: { text: markup(axis.label) }, type },
    }];
  });

  // The search: every run at its settings, coloured by the family, which is everything that was not searched

  const search = data.search;
  const searched = () => search.points.filter((point) => search.families[point.family].problem === state.problem);

  // On a logarithmic axis of settings, 0 has a place left of the others.
  const place = (axis, value) => (value === 0 && axis.zero ? axis.zero : value);

  function settingAxis(axis, values) {
    const shown = { title: { text: markup(axis.label) }, type: axis.log ? "log" : "linear", exponentformat: "power" };
    if (!axis.zero) return shown;
    const exponents = values.filter((value) => value > axis.zero).map((value) => Math.round(Math.log10(value)));
    const ticks = [...new Set(exponents)].map((exponent) => 10 ** exponent);
    return { ...shown, tickvals: [axis.zero, ...ticks], ticktext: ["0", ...ticks.map((tick) => tick.toPrecision(1))] };
  }

  function drawSetting() {
    const at = Number(byId("setting").value);
    draw("setting-plot", `sensitivity ${search.keys[at].label}`, () => settingFigure(at));
  }

  function settingFigure(at) {
    const key = search.keys[at];
    const all = searched().filter((point) => point.settings[at] !== null);
    const known = all.map((point) => point.value).filter((value) => value !== null);
    const result = search.axes[state.problem];
    const worst = result.log ? Math.max(...known) : Math.min(...known);
    const traces = search.families.flatMap((family, number) => [false, true].map((missing) => {
      const name = markup(family.name);
      const kept = isOff(family) ? [] : all.filter((point) => point.family === number && (point.value === null) === missing);
      const settings = (point) => search.keys.map((one, i) => `${markup(one.label)}: ${point.settings[i]}`);
      return {
        x: kept.map((point) => place(key, point.settings[at])), y: kept.map((point) => point.value ?? worst), name, mode: "markers",
        marker: { color: colour(family), size: missing ? 9 : 7, opacity: 0.6, symbol: missing ? "x" : "circle" },
        text: kept.map((point) => [...settings(point), `seed ${markup(point.seed)}`, markup(point.status)].join("<br>")),
        hovertemplate: `${missing ? "no value" : "%{y:.6g}"}<br>%{text}<extra>${name}</extra>`, showlegend: false,
      };
    })).filter((trace) => trace.x.length);
    const lines = data.charts.find((chart) => chart.kind === "sensitivity" && chart.problem === state.problem && chart.choice === key.label);
    const shapes = [];
    for (const [number, one] of (lines ? lines.traces : []).entries()) {
      if (isOff(one)) continue;
      traces.push(...chartTraces({ ...one, x: one.x.map((value) => place(key, value)) }));
      const edge = one.x.indexOf(one.edge);
      if (edge >= 0) traces.push({ x: [place(key, one.edge)], y: [one.y[edge]], mode: "markers", marker: { symbol: "circle-open", size: 18, color: colour(one), line: { width: 2 } }, hoverinfo: "skip", showlegend: false });
      if (one.good[0] === null) continue;
      const [x0, x1] = one.good.map((value) => place(key, value));
      shapes.push({ type: "line", yref: "paper", x0, x1, y0: 0.01 + 0.02 * number, y1: 0.01 + 0.02 * number, line: { color: colour(one), width: 5 }, opacity: 0.7 });
    }
    const type = result.log && known.every((value) => value > 0) ? "log" : "linear";
    return [traces, {
      xaxis: settingAxis(key, all.map((point) => point.settings[at])), shapes,
      yaxis: { title: { text: markup(result.label).replace(" at ", "<br>at ") }, type, exponentformat: "power" },
      showlegend: search.families.length > 1, legend: below, margin: roomBelow,
    }];
  }

  const shade = (share) => `hsl(${250 - 190 * share}, 75%, ${isDark() ? 65 : 42}%)`;

  // One line per run through its settings, each axis scaled to its range, the result last. Lines of similar results
  // are one trace, with gaps between the runs.
  const drawParallel = () => draw("parallel-plot", "parallel coordinates", () => {
    const kept = searched().filter((point) => point.value !== null && !isOff(search.families[point.family]) && point.settings.every((value) => value !== null));
    const outcome = search.axes[state.problem];
    const axes = [
      ...search.keys.map((key, at) => ({ ...key, values: kept.map((point) => place(key, point.settings[at])) })),
      { ...outcome, log: outcome.log && kept.every((point) => point.value > 0), values: kept.map((point) => point.value) },
    ].map((axis) => {
      const scaled = axis.log ? axis.values.map(Math.log10) : axis.values;
      const [low, high] = [Math.min(...scaled), Math.max(...scaled)];
      return { ...axis, low, high, at: scaled.map((value) => (high > low ? (value - low) / (high - low) : 0.5)) };
    });
    const result = axes[axes.length - 1].at;
    const bins = 8;
    const traces = [...Array(bins).keys()].map((bin) => {
      const runs = kept.map((_, run) => run).filter((run) => Math.min(bins - 1, Math.floor(bins * result[run])) === bin);
      const hover = (run) => [markup(search.families[kept[run].family].name), ...search.keys.map((key, at) => `${markup(key.label)}: ${kept[run].settings[at]}`), `${markup(outcome.label)}: ${kept[run].value}`, `seed ${markup(kept[run].seed)}`].join("<br>");
      return {
        x: runs.flatMap(() => [...axes.keys(), null]), y: runs.flatMap((run) => [...axes.map((axis) => axis.at[run]), null]),
        text: runs.flatMap((run) => [...axes.map(() => hover(run)), ""]), mode: "lines+markers", line: { color: shade(bin / (bins - 1)), width: 1.2 }, marker: { size: 5 },
        hovertemplate: "%{text}<extra></extra>", showlegend: false, connectgaps: false,
      };
    }).filter((trace) => trace.x.length);
    const tick = (axis, share) => {
      const value = axis.low + share * (axis.high - axis.low);
      return axis.zero && share === 0 ? "0" : String(Number((axis.log ? 10 ** value : value).toPrecision(3)));
    };
    const ends = axes.flatMap((axis, x) => (axis.high > axis.low ? [0, 0.5, 1] : [0.5]).map((y) => ({ x, y, text: tick(axis, y), showarrow: false, xshift: -4, xanchor: "right", font: { size: 12 } })));
    return [traces, {
      xaxis: { tickvals: [...axes.keys()], ticktext: axes.map((axis) => markup(axis.label.split(".").pop()).replace(/ (at|best|\()/g, "<br>$1")), range: [-0.3, axes.length - 0.7], zeroline: false },
      yaxis: { visible: false, range: [-0.06, 1.06] }, annotations: ends, margin: { l: 40, r: 40, t: 28, b: 90 },
    }];
  });

  // Charts: heading and explanation by kind

  const KINDS = {
    "heat map": ["Heat map", "Results over two settings; a cell shows the best of its settings in the others. Darker is better. A cell with diverged runs has no colour."],
    budget: ["Expected best of k trials", "With its nominal 95 % bootstrap interval, which covers less as k approaches the number of trials."],
    times: ["Time to target", "Share of each group's runs that have reached the target. Runs that never reach it count: the line stays below 1."],
    profile: ["Performance profile", "Share of the problems that a group solves within tau times the time of the best group. Read the best group only: the order of the others depends on which groups are included."],
    cost: ["Cost per step", "Mean time of a step and its confidence interval over the runs."],
  };
  const chartsOf = (kind) => data.charts.filter((chart) => chart.kind === kind && (chart.problem === null || chart.problem === state.problem));

  function chartTraces(one, categories = false) {
    const y = one.y.map(number);
    const [name, hover] = [markup(one.name), one.hover.map(markup).join("<br>")];
    const mode = categories ? "markers" : one.stepwise || one.x.length > 40 ? "lines" : "lines+markers";
    const trace = {
      x: categories ? one.x.map(markup) : one.x, y: finite(y), name, mode, line: { color: colour(one), dash: one.dash, width: 2, shape: one.stepwise ? "hv" : "linear" },
      marker: { color: colour(one), size: categories ? 10 : 7 }, hovertemplate: `%{y:.6g}<br>%{x}<br>${hover}<extra>${name}</extra>`,
    };
    if (!one.low) return [trace];
    const [low, high] = [one.low.map(number), one.high.map(number)];
    if (one.band) return [...bandTraces(one, one.x, low, high), trace];
    const distance = (end) => finite(end.map((value, at) => Math.abs(value - y[at])));
    return [{ ...trace, error_y: { type: "data", symmetric: false, array: distance(high), arrayminus: distance(low), color: colour(one), thickness: 1.5 } }];
  }

  function heatMap(chart) {
    const [across, up] = [0, 1].map((at) => [...new Set(chart.cells.map((cell) => cell[at]))].sort((a, b) => a - b));
    const shade = (value) => (value === null ? null : chart.log && value > 0 ? Math.log10(value) : value);
    const text = ([, , value, diverged, runs]) => (diverged ? `${diverged} of ${runs}<br>diverged` : value.toPrecision(3));
    const colours = { colorscale: "YlGnBu", reversescale: chart.better === "max", showscale: false };
    const ends = `${markup(chart.x.label)}: %{x}<br>${markup(chart.y.label)}: %{y}<extra>${markup(chart.label)}</extra>`;
    if (!chart.grid) {
      const known = chart.cells.filter((cell) => cell[2] !== null);
      const others = chart.cells.filter((cell) => cell[2] === null);
      const columns = (cells) => ({ x: cells.map((cell) => place(chart.x, cell[0])), y: cells.map((cell) => place(chart.y, cell[1])), text: cells.map(text), mode: "markers", showlegend: false, hovertemplate: `%{text}<br>${ends}` });
      return [[
        { ...columns(known), marker: { size: 15, color: known.map((cell) => shade(cell[2])), ...colours, line: { width: 1, color: "#808080" } } },
        { ...columns(others), marker: { size: 11, symbol: "x", color: "#808080" } },
      ], { xaxis: settingAxis(chart.x, across), yaxis: settingAxis(chart.y, up) }];
    }
    const at = new Map(chart.cells.map((cell) => [`${cell[0]} ${cell[1]}`, cell]));
    const rows = up.map((y) => across.map((x) => at.get(`${x} ${y}`)));
    const label = (value) => value.toPrecision(4).replace(/\.?0+(e|$)/, "$1");
    const bare = chart.cells.filter((cell) => cell[2] === null);
    return [[{
      type: "heatmap", x: across.map(label), y: up.map(label), z: rows.map((row) => row.map((cell) => (cell ? shade(cell[2]) : null))),
      text: rows.map((row) => row.map((cell) => (cell ? text(cell) : ""))), texttemplate: "%{text}", hovertemplate: `%{text}<br>${ends}`, xgap: 2, ygap: 2, ...colours,
    }], {
      xaxis: { title: { text: markup(chart.x.label) }, type: "category", showgrid: false }, yaxis: { title: { text: markup(chart.y.label) }, type: "category", showgrid: false },
      annotations: bare.map((cell) => ({ x: label(cell[0]), y: label(cell[1]), text: text(cell), showarrow: false })),
    }];
  }

  function drawKind(kind) {
    const charts = chartsOf(kind);
    const [id, select] = [kind.replace(" ", "-"), byId(`${kind.replace(" ", "-")}-choice`)];
    byId(id).hidden = !charts.length;
    if (!charts.length) return;
    if (charts.map((chart) => chart.choice).join("\n") !== [...select.options].map((option) => option.text).join("\n")) {
      options(select, charts.map((chart, number) => [String(number), chart.choice]));
    }
    select.closest("form").hidden = charts.length < 2;
    const chart = charts[Number(select.value)];
    draw(`${id}-plot`, charts.length > 1 ? `${kind} ${chart.choice}` : kind, () => (kind === "heat map" ? heatMap(chart) : lineChart(kind, chart)));
  }

  function lineChart(kind, chart) {
    const traces = chart.traces.filter((one) => !isOff(one)).flatMap((one) => chartTraces(one, chart.categories));
    const family = kind === "budget"; // its lines are not those of the legend of the page
    return [traces, {
      xaxis: chart.categories ? { type: "category", range: [-0.6, traces.length - 0.4], tickvals: traces.map((one) => one.x[0]), ticktext: chart.traces.filter((one) => !isOff(one)).map((one) => markup(short(one.name))) } : { title: { text: markup(chart.x.label) }, type: chart.x.log ? "log" : "linear", exponentformat: "power" },
      yaxis: { title: { text: markup(chart.y.label) }, type: chart.y.log ? "log" : "linear", rangemode: family ? "normal" : "tozero" },
      showlegend: family && chart.traces.length > 1, legend: below, margin: family ? roomBelow : undefined,
    }];
  }

  function makeChartSections() {
    for (const [kind, [heading, text]] of Object.entries(KINDS)) {
      if (!data.charts.some((chart) => chart.kind === kind)) continue;
      const id = kind.replace(" ", "-");
      const section = element("section", undefined, { id });
      const form = element("form", undefined, { class: "controls", "aria-label": `Options of: ${heading}` });
      const label = element("label", "Show ");
      const select = element("select", undefined, { id: `${id}-choice` });
      select.addEventListener("change", () => drawKind(kind));
      label.append(select);
      form.append(label);
      section.append(element("h2", heading), element("p", text), form, element("div", undefined, { class: "plot", id: `${id}-plot`, role: "figure", "aria-label": heading }));
      byId("charts").append(section);
    }
  }

  // Gradients and weights of single runs

  const detail = () => data.details[Number(byId("detail-run").value)];

  function drawDetails() {
    const { norms, histograms } = detail();
    const names = Object.keys(norms).filter((name) => name !== "step");
    byId("norms").hidden = !names.length;
    byId("weights").hidden = !histograms.length;
    byId("layer").parentElement.hidden = !histograms.length;
    if (names.length) {
      draw("norm-plot", "gradient norms", () => [names.map((name, at) => ({
        x: norms.step, y: finite(norms[name].map(number)), name: markup(name), mode: "lines", line: { color: shade(at / Math.max(1, names.length - 1)), width: 1.5 },
        hovertemplate: `%{y:.4g}<br>step %{x}<extra>${markup(name)}</extra>`,
      })), { xaxis: { title: { text: "step" } }, yaxis: { title: { text: "gradient norm" }, type: "log", exponentformat: "power" }, showlegend: true, legend: below, margin: roomBelow }]);
    }
    if (!histograms.length) return;
    const layers = Object.keys(histograms[0].layers);
    const chosen = layers.includes(byId("layer").value) ? byId("layer").value : layers[0];
    options(byId("layer"), layers.map((name) => [name, name]));
    byId("layer").value = chosen;
    draw("weight-plot", `weights ${chosen}`, () => [histograms.filter((one) => one.layers[chosen]).map((one, at) => ({
      x: one.layers[chosen][0], y: finite(one.layers[chosen][1].map(number)), name: `epoch ${one.epoch}`, mode: "lines",
      line: { color: shade(at / Math.max(1, histograms.length - 1)), width: 1.8, shape: "hvh", dash: at ? "solid" : "dot" },
      hovertemplate: `%{y:.4g} at %{x:.4g}<extra>epoch ${one.epoch}</extra>`,
    })), { xaxis: { title: { text: markup(chosen) } }, yaxis: { title: { text: "density" }, rangemode: "tozero" }, showlegend: true, legend: below, margin: roomBelow }]);
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

  function drawEnvironment() {
    const written = (values) => (values.length === 1 ? values[0][0] : values.map(([value, runs]) => `${value} (${runs} runs)`).join("; "));
    const rows = data.environment.map(([key, values]) => [key, written(values)]);
    fill(byId("environment-table"), ["key", "value"], rows, (at) => data.environment[at][1].length > 1);
  }

  function drawCommands() {
    byId("page-command").textContent = data.command ? `This page: ${data.command}` : "";
    fill(byId("commands-table"), ["command that trained them", "runs"], data.commands);
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
    byId("download-buttons").append(
      ...tables, button("curves.csv (as drawn)", () => save("curves.csv", curvesAsCsv(), "text/csv")),
      ...[...figures].map(([id, { name }]) => button(`${name}.svg`, () => saveFigure(byId(id)))),
    );
    for (const image of document.querySelectorAll("#figures img")) {
      const kind = image.src.startsWith("data:image/svg") ? "svg" : "png";
      image.nextElementSibling.append(" ", button(`save as ${kind.toUpperCase()}`, () => element("a", undefined, { download: `${image.alt}.${kind}`, href: image.src }).click()));
    }
  }

  // The page

  function drawAll() {
    if (!byId("curves").hidden) drawCurves();
    drawResults();
    if (!byId("sensitivity").hidden) drawSetting();
    if (!byId("parallel").hidden) drawParallel();
    for (const kind of Object.keys(KINDS)) if (byId(kind.replace(" ", "-"))) drawKind(kind);
    if (data.details.length) drawDetails();
  }

  function printed(starts) {
    printing = starts;
    drawToggles();
    drawAll();
  }

  const diverged = data.runs.filter((run) => run.status === "diverged").length;
  byId("summary").textContent = `${data.groups.length} groups, ${data.runs.length} runs${diverged ? `, ${diverged} diverged` : ""}`;
  byId("made").textContent = `Made by optlab ${data.optlab}. The page contains all its data and requests nothing.`;
  listenToControls();
  byId("curves").hidden = !data.problems.some((problem) => available(problem).length);
  for (const id of ["toggles", "results", "settings", "environment", "commands", "downloads"]) byId(id).hidden = false;
  options(byId("setting"), search.keys.map((key, at) => [String(at), key.label]));
  byId("setting").addEventListener("change", drawSetting);
  byId("sensitivity").hidden = !search.points.length;
  byId("parallel").hidden = search.keys.length < 2 || !search.points.length;
  byId("details").hidden = !data.details.length;
  options(byId("detail-run"), data.details.map((one, at) => [String(at), `${data.groups[data.runs[one.run].group].name}, seed ${data.runs[one.run].seed}`]));
  for (const id of ["detail-run", "layer"]) byId(id).addEventListener("change", drawDetails);
  makeChartSections();
  byId("all-settings").checked = data.keys.length === 0;
  byId("all-settings").parentElement.hidden = data.keys.length === 0; // nothing differs
  byId("all-settings").addEventListener("change", drawSettings);
  if (!byId("curves").hidden) chooseProblem();
  sortable(byId("groups"));
  drawSettings();
  drawEnvironment();
  drawCommands();
  drawRuns();
  drawAll();
  listDownloads();
  window.addEventListener("beforeprint", () => printed(true));
  window.addEventListener("afterprint", () => printed(false));
  dark.addEventListener("change", () => { drawToggles(); drawAll(); });
  for (const plot of document.querySelectorAll(".plot")) observer.observe(plot);
})();
