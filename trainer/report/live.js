"use strict";
// Asks the server for what has changed and shows it. Every name is untrusted: elements get it through textContent,
// plotly gets it with its markup characters escaped.
(() => {
  const PERIOD = 2000;
  const MOST_CURVES = 30; // chosen by itself
  const MOST_ROWS = 300;
  const byId = (id) => document.getElementById(id);
  const markup = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const runs = new Map(); // by number
  const curves = new Map(); // by number: {revision, steps, epochs}
  const chosen = new Map(); // by number: what the user chose
  let groups = [], revision = 0, first = true;

  function element(tag, text, properties = {}) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
    return made;
  }

  async function ask(path) {
    const answer = await fetch(path, { cache: "no-store" });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    return answer.json();
  }

  function duration(seconds) {
    if (seconds === undefined || seconds === null) return "";
    const [h, m, s] = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60), Math.round(seconds % 60)];
    return h ? `${h} h ${m} min` : m ? `${m} min ${s} s` : `${s} s`;
  }

  // The estimated end is that of the training; evaluations are not part of it.
  function end(seconds) {
    if (seconds === undefined || seconds === null) return "";
    const at = new Date(Date.now() + 1000 * seconds);
    return `${duration(seconds)} (until ${at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })})`;
  }

  const bad = (run) => ["failed", "diverged", "unreadable"].includes(run.status);
  const matches = (run) => {
    const text = byId("filter").value.toLowerCase();
    return !text || `${run.path} ${run.status} ${(groups[run.group] || {}).name}`.toLowerCase().includes(text);
  };
  const order = (a, b) => (b.status === "running") - (a.status === "running") || b.id - a.id;
  const listed = () => [...runs.values()].filter(matches).sort(order);

  function shownRuns() {
    const all = listed();
    const automatic = new Set(all.filter((run) => !chosen.has(run.id)).slice(0, MOST_CURVES).map((run) => run.id));
    return all.filter((run) => chosen.get(run.id) ?? automatic.has(run.id)).slice(0, 200);
  }

  async function update() {
    const answer = await ask(`runs?since=${revision}`);
    const present = new Set(answer.ids);
    for (const id of [...runs.keys()]) if (!present.has(id)) { runs.delete(id); curves.delete(id); }
    for (const run of answer.runs) runs.set(run.id, run);
    groups = answer.groups;
    const changed = answer.runs.length > 0 || present.size !== runs.size;
    revision = answer.revision;
    drawSweeps(answer.sweeps);
    drawSummary(answer.now);
    if (changed || first) { drawFailures(); drawRuns(); }
    first = false;
    await updateCurves();
  }

  async function updateCurves() {
    const shown = shownRuns();
    const ids = shown.map((run) => run.id);
    if (ids.length) {
      const answer = await ask(`curves?ids=${ids}&since=${ids.map((id) => (curves.get(id) || { revision: 0 }).revision)}`);
      for (const one of answer.curves) curves.set(one.id, { ...one, revision: answer.revision });
    }
    listColumns(shown);
    drawCurves(shown);
  }

  function drawSummary(now) {
    const counts = {};
    for (const run of runs.values()) counts[run.status] = (counts[run.status] || 0) + 1;
    const parts = Object.entries(counts).map(([status, count]) => `${count} ${status}`);
    byId("summary").textContent = `${runs.size} runs${parts.length ? `: ${parts.join(", ")}` : ""}; read ${now}`;
  }

  function drawSweeps(sweeps) {
    byId("sweeps").hidden = !sweeps.length;
    byId("sweep-list").replaceChildren(...sweeps.map((sweep) => {
      const block = element("div");
      const rest = [sweep.status, sweep.failed ? `${sweep.failed} failed` : "", sweep.left === null ? "" : `left ${end(sweep.left)}`].filter(Boolean);
      block.append(element("h3", sweep.path), element("p", `${sweep.done} of ${sweep.planned} runs; ${rest.join("; ")}`));
      block.append(element("progress", undefined, { max: sweep.planned || 1, value: sweep.done, "aria-label": `progress of ${sweep.path}` }));
      const table = element("table", undefined, { class: "text" });
      const head = element("tr");
      head.append(...["variant", "running", "done", "diverged", "pruned", "failed", "of", "best so far"].map((text) => element("th", text, { scope: "col" })));
      table.append(head, ...sweep.variants.map((cells) => {
        const line = element("tr");
        line.append(...cells.map((cell) => element("td", cell === null ? "" : cell)));
        return line;
      }));
      const scroll = element("div", undefined, { class: "scroll", tabindex: "0", role: "group", "aria-label": `variants of ${sweep.path}` });
      scroll.append(table);
      block.append(scroll);
      return block;
    }));
  }

  function drawFailures() {
    const found = [...runs.values()].filter(bad);
    byId("failures").hidden = !found.length;
    byId("failure-list").replaceChildren(...found.slice(0, 50).map((run) => element("li", `${run.path}: ${run.status}${run.message ? `: ${run.message}` : ""}`)));
  }

  function drawRuns() {
    const all = listed();
    const shown = new Set(shownRuns().map((run) => run.id));
    byId("runs-table").tBodies[0].replaceChildren(...all.slice(0, MOST_ROWS).map((run) => {
      const line = element("tr");
      const box = element("input", undefined, { type: "checkbox", "aria-label": `curve of ${run.path}` });
      box.checked = shown.has(run.id);
      box.addEventListener("change", () => { chosen.set(run.id, box.checked); updateCurves(); });
      const bar = element("progress", undefined, { max: 1, value: run.progress || 0, "aria-label": `progress of ${run.path}` });
      const first = element("td"), progress = element("td");
      first.append(box);
      progress.append(bar, element("span", ` ${Math.round(100 * (run.progress || 0))} %`));
      const values = Object.entries(run.values || {}).filter(([, value]) => value !== null).map(([name, value]) => `${name} ${value.toPrecision(4)}`);
      line.append(first, element("td", run.path, { class: "path" }), element("td", (groups[run.group] || {}).name || ""), element("td", run.seed), element("td", run.status), progress, element("td", end(run.left)), element("td", run.step ?? ""), element("td", values.join(", "), { class: "values" }));
      return line;
    }));
    byId("more").textContent = all.length > MOST_ROWS ? `${all.length - MOST_ROWS} more runs: choose some by their text.` : "";
  }

  function listColumns(shown) {
    const names = new Set();
    for (const run of shown) {
      const one = curves.get(run.id);
      for (const table of one ? [one.epochs, one.steps] : []) for (const name of Object.keys(table)) names.add(name);
    }
    for (const name of ["step", "epoch", "samples", "train_seconds", "grad_evals"]) names.delete(name);
    const select = byId("y"), before = select.value;
    const known = [...select.options].map((option) => option.value);
    const wanted = ["loss", "train_loss", "val_loss", ...[...names].sort()].filter((name, at, all) => names.has(name) && all.indexOf(name) === at);
    if (known.join() === wanted.join()) return;
    select.replaceChildren(...wanted.map((name) => element("option", name.replace(/_/g, " "), { value: name })));
    select.value = wanted.includes(before) ? before : wanted.includes("val_loss") ? "val_loss" : wanted[0];
    if (select.value !== before) byId("log-y").checked = /loss|^lr|norm/.test(select.value);
  }

  function drawCurves(shown) {
    const [x, y] = [byId("x").value, byId("y").value];
    const traces = shown.flatMap((run) => {
      const one = curves.get(run.id);
      const table = one && (one.epochs[y] ? one.epochs : one.steps);
      if (!table || !table[y] || !table[x]) return [];
      const group = groups[run.group] || { colour: "#0072b2", dash: "solid", name: "" };
      const colour = dark.matches && group.colour === "#000000" ? "#ffffff" : group.colour;
      const name = markup(run.path);
      return [{ x: table[x], y: table[y], name, mode: table[x].length > 1 ? "lines" : "markers", line: { color: colour, dash: group.dash, width: run.status === "running" ? 2.2 : 1.2 }, marker: { color: colour }, hovertemplate: `%{y:.6g}<br>%{x}<br>${markup(run.status)}<extra>${name}</extra>` }];
    });
    byId("shown").textContent = `${traces.length} of ${runs.size} runs are drawn, in the colour of their group; long runs with every n-th row.`;
    const styles = getComputedStyle(document.body);
    const line = getComputedStyle(document.documentElement).getPropertyValue("--line").trim();
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
    const label = (id) => { const option = byId(id).selectedOptions[0]; return markup(option ? option.textContent : ""); };
    Plotly.react(byId("curve-plot"), traces, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: styles.color, family: styles.fontFamily, size: 14 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: styles.color, activecolor: styles.color },
      margin: { l: 60, r: 16, t: 28, b: 52 }, showlegend: false, hovermode: "closest", hoverlabel: { namelength: -1, align: "left" },
      xaxis: { ...axis, title: { text: label("x") }, type: byId("log-x").checked ? "log" : "linear" },
      yaxis: { ...axis, title: { text: label("y") }, type: byId("log-y").checked ? "log" : "linear", exponentformat: "power" },
      uirevision: [x, y, byId("log-x").checked, byId("log-y").checked].join(),
    }, { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], toImageButtonOptions: { format: "svg" } });
  }

  for (const id of ["controls", "search"]) byId(id).addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["x", "log-x", "log-y"]) byId(id).addEventListener("change", () => drawCurves(shownRuns()));
  byId("y").addEventListener("change", () => { byId("log-y").checked = /loss|^lr|norm/.test(byId("y").value); drawCurves(shownRuns()); });
  byId("filter").addEventListener("input", () => { drawRuns(); updateCurves(); });
  dark.addEventListener("change", () => drawCurves(shownRuns()));

  async function loop() {
    try {
      if (!document.hidden || first) await update();
      document.body.dataset.ready = "true";
    } catch (error) {
      byId("summary").textContent = `No connection to optlab watch (${error.message}). The page shows the last state.`;
    }
    setTimeout(loop, PERIOD);
  }
  loop();
})();
