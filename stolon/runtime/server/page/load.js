"use strict";
// What the server says of itself, once a second while the page is seen, and the tiles that show it.
const POLL_MS = 1000;
const KEPT = 180; // samples of each line: three minutes
const byId = (id) => document.getElementById(id);
const grouped = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const lines = { generated: [], computed: [], running: [], hits: [], finished: [] };
let before = null;

const key = () => sessionStorage.getItem("stolon-key") || "";
const headers = () => (key() ? { Authorization: `Bearer ${key()}` } : {});

function say(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

function show(status, kind) {
  byId("status").textContent = status;
  byId("status").className = `pill ${kind}`;
}

async function look() {
  let reply;
  try {
    reply = await fetch("dashboard/state", { headers: headers(), cache: "no-store" });
  } catch {
    show("no answer", "bad");
    return say("The server does not answer. This page goes on trying.");
  }
  const found = await reply.json();
  if (!reply.ok) {
    show(reply.status === 401 ? "key needed" : "not serving", "bad");
    return say(found.error.message);
  }
  say("");
  render(found);
}

function render(now) {
  const stats = now.stats;
  byId("model").textContent = now.model;
  document.title = `${now.model} · stolon`;
  byId("uptime").textContent = `up ${duration(now.uptime_s)}`;
  show(now.draining ? "draining" : now.alive ? "serving" : "engine dead", now.alive && !now.draining ? "good" : "bad");
  // a server of embeddings has no answers, no cache and no conversation
  document.body.classList.toggle("embeds", !now.generates);
  if (before !== null && now.uptime_s > before.uptime_s) {
    const seconds = now.uptime_s - before.uptime_s;
    const since = (name) => (stats[name] ?? 0) - (before.stats[name] ?? 0);
    keep("generated", since("generated") / seconds);
    // every generated token but the last of an answer is computed once more, as input; prompts are the rest
    keep("computed", Math.max(since("computed") - since("generated"), 0) / seconds);
    keep("finished", since("finished") / seconds);
    keep("running", stats.running);
    if (since("prompt") > 0) keep("hits", since("cached") / since("prompt"));
  }
  before = now;
  for (const name of ["generated", "computed", "finished"]) byId(name).textContent = latest(name);
  byId("running").textContent = grouped.format(stats.running);
  byId("waiting").textContent = grouped.format(stats.waiting);
  byId("hits").textContent = stats.prompt ? `${((100 * stats.cached) / stats.prompt).toFixed(1)} %` : "–";
  for (const name in lines) draw(byId(`${name}-line`), lines[name], name === "hits" ? 1 : 0);
  if (!now.generates) return;
  renderMemory(stats);
  renderRequests(now.requests, stats);
  renderTree(now.nodes);
}

function keep(name, value) {
  lines[name].push(value);
  if (lines[name].length > KEPT) lines[name].shift();
}

function latest(name) {
  const last = lines[name].at(-1);
  return last === undefined ? "–" : last < 10 ? last.toFixed(1) : grouped.format(Math.round(last));
}

function draw(svg, values, top) {
  const most = Math.max(top, ...values, 1e-9);
  const points = values.map((value, i) => `${KEPT - values.length + i} ${40 - (38 * value) / most}`);
  svg.setAttribute("viewBox", `0 0 ${KEPT} 40`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren();
  if (points.length < 2) return;
  const start = KEPT - values.length;
  svg.append(
    shape("path", { class: "under", d: `M${start} 40 L${points.join(" L")} L${KEPT - 1} 40 Z` }),
    shape("path", { d: `M${points.join(" L")}` }),
  );
}

function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function renderMemory(stats) {
  const total = stats.kv_total || 1;
  const loose = Math.min(stats.kv_pinned, stats.kv_cached);
  const held = Math.max(total - stats.kv_free - stats.kv_evictable - loose, 0);
  const parts = { held, pinned: loose, kept: stats.kv_evictable };
  for (const [name, tokens] of Object.entries(parts)) {
    byId("kv-bar").querySelector(`.${name}`).style.width = `${(100 * tokens) / total}%`;
  }
  byId("kv").textContent = `${((100 * (total - stats.kv_free)) / total).toFixed(1)} %`;
  byId("kv-text").textContent =
    `of ${short.format(total)} tokens; ${short.format(stats.kv_evictable)} could be evicted, ${short.format(stats.kv_evicted)} were`;
  byId("kv-bar").setAttribute("aria-label", `${held} in use, ${loose} pinned, ${stats.kv_evictable} cached of ${total}`);
}

function renderRequests(requests, stats) {
  const everyone = stats.running + stats.waiting;
  byId("requests-text").textContent = everyone > requests.length ? `${requests.length} of ${grouped.format(everyone)}` : everyone ? "" : "none now";
  byId("requests").replaceChildren(
    ...requests.map((request) => {
      const row = document.createElement("tr");
      const cells = [request.id, request.status, request.prompt, request.cached ?? "–", request.computed];
      for (const value of cells) row.insertCell().textContent = typeof value === "number" ? grouped.format(value) : value;
      const bar = document.createElement("progress");
      bar.max = Math.max(request.most, 1);
      bar.value = request.output;
      row.insertCell().append(bar, ` ${request.output} / ${request.most}`);
      return row;
    }),
  );
}

function duration(seconds) {
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("stolon-key", byId("key").value.trim());
  look();
});

async function watch() {
  if (document.visibilityState === "visible") await look();
  setTimeout(watch, POLL_MS);
}
