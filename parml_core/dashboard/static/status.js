"use strict";
// Draws the state that the scheduler sends. Names of tasks and workers are put in as text, never as markup.

const STATES = ["memory", "released", "running", "queued", "waiting", "erred"];

function element(tag, { text, className, title } = {}, ...children) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  if (title) node.title = title;
  node.append(...children);
  return node;
}

function bytes(n) {
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
    if (n < 1024 || unit === "TiB") return `${n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)} ${unit}`;
    n /= 1024;
  }
}

function seconds(s) {
  if (s === 0) return "–";
  if (s < 1e-3) return `${(s * 1e6).toPrecision(3)} µs`;
  if (s < 1) return `${(s * 1e3).toPrecision(3)} ms`;
  return `${s.toPrecision(3)} s`;
}

function count(n, noun) {
  return `${n} ${noun}${n === 1 ? "" : "s"}`;
}

function part(className, share, title) {
  const span = element("span", { className, title });
  span.style.width = `${100 * share}%`;
  return span;
}

function statesBar(counts, names = STATES) {
  const total = names.reduce((sum, name) => sum + (counts[name] || 0), 0) || 1;
  return names.filter((name) => counts[name]).map((name) => part(name, counts[name] / total, `${counts[name]} ${name}`));
}

function meter(share, text, limit = Infinity) {
  const bar = element("span", { className: "bar meter" }, part(share > limit ? "erred" : "running", Math.min(1, share)));
  return element("td", {}, bar, text);
}

function fill(id, rows, nothing) {
  const body = document.querySelector(`#${id} tbody`);
  if (!rows.length) {
    const cell = element("td", { text: nothing, className: "empty" });
    cell.colSpan = 8;
    rows = [element("tr", {}, cell)];
  }
  body.replaceChildren(...rows);
}

function cells(...values) {
  return element("tr", {}, ...values.map((v) => (v instanceof Node ? v : element("td", { text: v }))));
}

function draw(state) {
  const threads = state.workers.reduce((n, w) => n + w.nthreads, 0);
  const counters = state.counters;
  document.getElementById("summary").textContent =
    `${count(state.workers.length, "worker")}, ${count(threads, "thread")} · ${count(state.clients.length, "client")} · ` +
    `${counters.finished} finished, ${counters.erred} erred, ${counters.recomputed} recomputed, ` +
    `${count(counters.lost_workers, "worker")} lost`;
  document.getElementById("states").replaceChildren(...statesBar(state.tasks));
  document.getElementById("legend").replaceChildren(
    ...STATES.map((name) =>
      element("li", {}, element("i", { className: name }), `${name} `, element("b", { text: state.tasks[name] }))),
  );
  const workers = [...state.workers].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  fill("workers", workers.map((w) => cells(
    w.name, w.host,
    meter(w.executing / w.nthreads, `${Math.min(w.executing, w.nthreads)} of ${w.nthreads}${w.paused ? ", paused" : ""}`),
    String(Math.max(0, w.assigned - w.nthreads)),
    meter(w.cpu_percent / 100 / w.nthreads, `${Math.round(w.cpu_percent)} %`),
    meter(w.memory_limit_bytes ? w.memory_bytes / w.memory_limit_bytes : 0,
      bytes(w.memory_bytes) + (w.memory_limit_bytes ? ` of ${bytes(w.memory_limit_bytes)}` : ""), 0.9),
    String(w.held), `${w.last_seen_s.toFixed(1)} s ago`,
  )), "no worker has joined yet");
  const groups = state.groups.filter((g) => STATES.some((name) => g[name])).slice(-100);
  fill("groups", groups.map((g) => cells(
    g.name, element("td", {}, element("div", { className: "bar" }, ...statesBar(g))),
    String(g.memory + g.released), String(g.running), String(g.queued + g.waiting), String(g.erred), seconds(g.mean_s),
  )), "no task is known");
  fill("gangs", state.gangs.map((g) => cells(g.id, String(g.ranks), g.state)), "no gang is known");
}

function connect(delay = 500) {
  const badge = document.getElementById("connection");
  const show = (text) => { badge.textContent = text; badge.dataset.state = text; };
  const socket = new WebSocket(`ws://${location.host}/live`);
  socket.onmessage = (event) => { show("live"); delay = 500; draw(JSON.parse(event.data)); };
  socket.onclose = () => { show("lost"); setTimeout(connect, delay, Math.min(2 * delay, 10000)); };
}

connect();
