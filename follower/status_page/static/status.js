"use strict";
// Reads /status.json once a second and shows it. All texts are set as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);
const shown = new Map();
let token = sessionStorage.getItem("token") || "";

function make(tag, attributes, ...children) {
  const svg = ["svg", "g", "rect", "circle", "path", "text", "title", "line"].includes(tag);
  const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null).map((child) => (child.nodeType ? child : String(child))));
  return node;
}

// fills a part of the page, if what it shows has changed
function fill(id, value, draw) {
  const text = JSON.stringify(value);
  if (shown.get(id) === text) return;
  shown.set(id, text);
  byId(id).replaceChildren(...draw(value));
}

const none = (value) => value === null || value === undefined;
const number = (value, digits = 0) =>
  none(value) ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits, useGrouping: true });
const rate = (value) => number(value, value < 10 ? 1 : 0);

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${number(value, value < 10 && unit ? 1 : 0)} ${units[unit]}`;
}

function duration(seconds) {
  if (none(seconds)) return "–";
  if (seconds >= 10) return "> 10 s";
  if (seconds >= 1) return `${number(seconds, 1)} s`;
  const ms = seconds * 1000;
  return ms >= 1 ? `${number(ms, ms < 10 ? 1 : 0)} ms` : `${number(ms, 2)} ms`;
}

function ago(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  return s < 129600 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`;
}

const MOODS = {
  ready: "good", leads: "good", "stands by": "good", followed: "good", usable: "good", ok: "good",
  behind: "warn", draining: "warn", registered: "warn", filling: "warn", stopped: "bad", warning: "warn",
  "not ready": "bad", "no answer": "bad", "no sign": "bad", refused: "bad", "not answering": "bad",
  "sent wrong data": "bad", error: "bad", critical: "bad", failed: "bad",
};
const state = (word) => make("span", { class: `state ${MOODS[word] || ""}` }, word);

// columns: [name, class, cell of a row]; rows that match `down` are marked
function table(columns, rows, label, down = () => false) {
  const head = make("tr", null, ...columns.map(([name, kind]) => make("th", { class: kind, scope: "col" }, name)));
  const body = rows.map((row) =>
    make("tr", { class: down(row) ? "down" : "" },
      ...columns.map(([, kind, cell]) => make("td", { class: kind }, cell(row)))));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    make("table", null, make("thead", null, head), make("tbody", null, ...body)));
}

const soft = (...words) => make("p", { class: "soft" }, ...words);

function bar(parts, label) {
  const svg = make("svg", { viewBox: "0 0 1000 10", preserveAspectRatio: "none", height: "10", role: "img", "aria-label": label },
    make("rect", { class: "bar", width: "1000", height: "10" }));
  for (const [from, to, kind] of parts) {
    svg.append(make("rect", { class: kind, x: from * 1000, width: Math.max(2, (to - from) * 1000), height: "10" }));
  }
  return svg;
}

function drawSummary(report) {
  const head = report.head;
  const own = (report.fleet.followers || []).find((one) => one.self);
  const figure = (value, name) => make("div", { class: "figure" }, make("b", null, value), make("span", null, name));
  return [
    figure(state(report.follower.state), "this follower"),
    figure(head ? number(head.height) : "–", "head epoch"),
    figure(head ? ago(report.now - head.timestamp) : "–", "age of the head"),
    figure(own ? number(own.lag) : "–", "epochs behind"),
    figure(rate(report.requests.per_second), "requests/s"),
    figure(duration(report.requests.p99), "p99"),
    figure(rate(report.requests.errors_per_second), "errors/s"),
  ];
}

function drawFleet({ fleet, lone }) {
  const out = [];
  if (lone) out.push(soft("One machine: its store is not shared, so there is no fleet. These are its own processes."));
  if (fleet.followers === null) out.push(soft("The store does not answer, so the registered followers are not known."));
  else {
    out.push(table([
      ["Follower", "text", (one) => make("span", null, one.address, one.self ? " (this one)" : "")],
      ["State", "", (one) => state(one.state)],
      ["Head", "n", (one) => number(one.height)],
      ["Lag", "n", (one) => number(one.lag)],
      ["Version", "wide", (one) => one.version],
      ["", "text wide", (one) => one.reason],
    ], fleet.followers, "Followers", (one) => one.state === "no answer" || one.state === "not ready"));
  }
  if (fleet.bridges === null) out.push(soft("The bridges are not known."));
  else if (!fleet.bridges.length) out.push(soft("No bridge has registered in this store: its head does not advance."));
  else {
    out.push(table([
      ["Bridge", "text", (one) => one.name],
      ["State", "", (one) => state(one.state)],
      ["Head", "n", (one) => number(one.height)],
      ["Lag", "n", (one) => number(one.lag)],
      ["Term", "n wide", (one) => number(one.term)],
      ["", "text wide", (one) => one.reason || (one.backfill_left ? `backfill: ${number(one.backfill_left)} epochs left` : "")],
    ], fleet.bridges, "Bridges", (one) => one.state === "no sign" || one.state === "stopped"));
  }
  return out;
}

function drawPool(workers) {
  const seen = workers.find((one) => one.state === "works") || workers[0];
  const waiting = Object.entries(seen.waiting).map(([name, count]) => `${name} ${number(count)}`).join(", ");
  return [table([
    ["Worker", "text", (one) => one.name],
    ["State", "", (one) => state(one.state)],
    ["Done", "n", (one) => number(one.done)],
    ["Failed", "n", (one) => number(one.failed)],
    ["Put off", "n wide", (one) => number(one.deferred)],
    ["Slots", "text wide", (one) => Object.entries(one.slots).map(([name, count]) => `${name} ${count}`).join(", ")],
  ], workers, "Workers", (one) => one.state === "no sign"), soft(waiting ? `Jobs in the queue: ${waiting}.` : "The queue does not answer.")];
}

// Each tipset is a circle at its epoch, the larger the more blocks it has. Branches that a reorg left hang below.
function drawTimeline(timeline) {
  if (!timeline || !timeline.tipsets.length) return [soft("No head change has been read yet.")];
  const narrow = window.innerWidth < 560;
  const epochs = narrow ? 24 : timeline.epochs;
  const top = Math.max(...timeline.tipsets.filter((one) => one.on_chain).map((one) => one.height));
  const low = Math.max(0, top - epochs + 1);
  const first = Math.min(...timeline.tipsets.map((one) => one.height));
  const step = 1000 / epochs, scale = narrow ? 2.6 : 1;
  const lanes = [];
  const places = timeline.tipsets.map((one, at) => {
    if (one.height < low || one.height > top + 1) return null;
    let lane = 0;
    if (!one.on_chain) {
      const parent = one.parent === null ? null : timeline.tipsets[one.parent];
      lane = parent && !parent.on_chain && parent.lane ? parent.lane : 1;
      while (lanes[lane] && lanes[lane].has(one.height)) lane++;
      (lanes[lane] ||= new Set()).add(one.height);
    }
    one.lane = lane;
    return { x: (one.height - low + 0.5) * step, y: (16 + lane * 26) * scale, one, at };
  });
  const deepest = Math.max(1, lanes.length - 1);
  const height = (16 + deepest * 26 + 34) * scale;
  const left = timeline.tipsets.filter((one, at) => places[at] && !one.on_chain).length;
  const label = `The chain up to epoch ${top}; ${left} tipsets on branches that reorgs left`;
  const svg = make("svg", { viewBox: `0 0 1000 ${height}`, role: "img", "aria-label": label });
  const seen = new Set(timeline.tipsets.filter((one) => one.on_chain).map((one) => one.height));
  for (let epoch = low; epoch <= top; epoch++) {
    const x = (epoch - low + 0.5) * step;
    if (epoch > first && !seen.has(epoch)) svg.append(make("line", { class: "null", x1: x, x2: x, y1: 8 * scale, y2: 24 * scale }, make("title", null, `epoch ${epoch}: null round`)));
    if (epoch % 10 === 0) {
      svg.append(make("text", { class: narrow ? "large" : "", x, y: height - 6 * scale, "text-anchor": "middle" }, epoch));
    }
  }
  for (const place of places) {
    if (!place || place.one.parent === null) continue;
    const from = places[place.one.parent];
    if (from) svg.append(make("path", { class: `link ${place.one.on_chain ? "" : "left"}`, d: `M${from.x} ${from.y}L${place.x} ${place.y}` }));
  }
  for (const place of places) {
    if (!place) continue;
    const { one } = place;
    const kind = `tipset ${one.on_chain ? "" : "left"} ${one.on_chain && one.height === top ? "head" : ""}`;
    svg.append(make("circle", { class: kind, cx: place.x, cy: place.y, r: Math.min(3 + one.blocks * 0.7, 7) * scale },
      make("title", null, `epoch ${one.height}, ${one.blocks} blocks, …${one.key}${one.on_chain ? "" : ", reverted"}`)));
  }
  const reorgs = timeline.reorgs.slice(-3).reverse().map((one) => `${one.depth} at epoch ${one.height}`);
  return [svg, make("p", { class: "legends soft" },
    make("span", { class: "legend" }, "tipset of the chain"), make("span", { class: "legend left" }, "reverted tipset"),
    make("span", null, reorgs.length ? `Newest reorgs (tipsets reverted): ${reorgs.join(", ")}` : "No reorg in this window"))];
}

function drawRequests(requests) {
  if (!requests.methods.length) return [soft("This process has answered no request yet.")];
  const out = [table([
    ["Method", "text", (one) => one.name],
    ["Requests/s", "n", (one) => rate(one.per_second)],
    ["p50", "n wide", (one) => duration(one.p50)],
    ["p99", "n", (one) => duration(one.p99)],
    ["Errors/s", "n wide", (one) => rate(one.errors_per_second)],
    ["Since the start", "n wide", (one) => number(one.answers)],
  ], requests.methods, "Requests by method")];
  const more = requests.more_methods ? ` ${requests.more_methods} methods more have been called.` : "";
  out.push(soft(`This process, over the last ${Math.round(requests.seconds)} s.${more}`));
  return out;
}

function drawCoverage(coverage) {
  if (!coverage || !coverage.some((one) => one.ranges.length)) return [soft("No index covers any epoch yet.")];
  const ends = coverage.flatMap((one) => one.ranges.flat());
  const low = Math.min(...ends), top = Math.max(...ends);
  const span = Math.max(1, top - low + 1);
  return coverage.map((one) => {
    const last = one.ranges[one.ranges.length - 1];
    const gaps = Math.max(0, one.ranges.length - 1);
    const text = last ? `${number(one.ranges[0][0])} to ${number(last[1])}${gaps ? `, ${gaps} gaps` : ""}` : "no epochs";
    const parts = one.ranges.map(([from, to]) => [(from - low) / span, Math.min(1, (to + 1 - low) / span), "held"]);
    return make("div", { class: "row" },
      make("div", null, make("span", null, one.index.replaceAll("_", " ")), make("span", { class: "soft" }, `epochs ${text}`)),
      bar(parts, `${one.index}: ${text}`));
  });
}

function drawStore({ store, bridges }) {
  if (!store) return [soft("The store has not answered yet.")];
  const policy = (bridges || []).map((one) => one.policy).find((one) => one) || store.state;
  const words = { full: "full: each new state is stored", lazy: "lazy: state is fetched when it is first asked for" };
  const rows = [["Store", store.url], ["State", words[policy] || policy], ["Schema", store.schema]];
  for (const [name, value] of Object.entries(store.figures)) {
    rows.push(name === "bytes" ? ["Size", bytes(value)] : [name === "objects" ? "Objects" : name.replaceAll("_", " "), number(value)]);
  }
  const left = (bridges || []).reduce((sum, one) => sum + one.backfill_left, 0);
  if (left) rows.push(["Backfill", `${number(left)} epochs left`]);
  for (const line of store.keeps_text || []) rows.push(["Keeps", line]);
  if (!("bytes" in store.figures)) rows.push(["Size", "the database's own tools tell it"]);
  return [make("table", null, make("tbody", null, ...rows.map(([name, value]) =>
    make("tr", null, make("th", { scope: "row" }, name), make("td", { class: "text" }, value)))))];
}

function drawSources(sources) {
  if (!sources.length) return [soft("No full node is named in the settings.")];
  return [table([
    ["Full node, best first", "text", (one) => one.name],
    ["State", "", (one) => state(one.standing)],
    ["Failures in a row", "n wide", (one) => number(one.failures)],
    ["Wrong objects", "n wide", (one) => number(one.wrong_objects)],
  ], sources, "Sources"), soft(`Ranked by ${sources[0].by}.`)];
}

function drawBars(rows) {
  return rows.map((one) => {
    const share = one.cap ? one.used / one.cap : 0;
    const show = one.unit === "bytes" ? bytes : number;
    const refused = one.refused ? `, ${number(one.refused)} refused` : "";
    const text = `${show(one.used)} of ${show(one.cap)}${refused}`;
    return make("div", { class: "row" },
      make("div", null, make("span", null, one.name), make("span", { class: "soft" }, text)),
      bar(share ? [[0, Math.min(1, share), share > 0.9 && one.unit !== "bytes" ? "most" : "held"]] : [], `${one.name}: ${text}`));
  });
}

function drawChecks(checks) {
  return [table([
    ["Check", "", (one) => one.name],
    ["State", "", (one) => state(one.ok ? "ok" : "failed")],
    ["", "text", (one) => one.text],
  ], checks, "Checks")];
}

function drawErrors(errors) {
  if (!errors.length) return [soft("None since the start.")];
  return [table([
    ["When", "", (one) => new Date(one.at * 1000).toISOString().slice(5, 19).replace("T", " ")],
    ["Level", "", (one) => state(one.level)],
    ["From", "wide", (one) => one.from],
    ["Text", "text", (one) => one.text + (one.count > 1 ? ` (${one.count} times)` : "")],
  ], errors, "Warnings and errors"), soft("Times are UTC.")];
}

function show(report) {
  const { follower, fleet } = report;
  fill("who", [report.network, follower.agent, follower.pid, follower.workers], ([network, agent, pid, workers]) =>
    [`${network} · ${agent} · process ${pid}${workers > 1 ? `, one of ${workers} on this port` : ""} · up ${ago(report.now - follower.started_at)}`]);
  byId("troubles").hidden = !report.troubles.length;
  fill("troubles", report.troubles, (troubles) => troubles.map((text) => make("p", null, text)));
  byId("summary").replaceChildren(...drawSummary(report));
  fill("fleet", { fleet, lone: !fleet.shared }, drawFleet);
  const pool = report.pool || [];
  byId("pool-part").hidden = !pool.length;
  if (pool.length) fill("pool", pool, drawPool);
  fill("timeline", report.timeline && { ...report.timeline, width: window.innerWidth < 560 }, drawTimeline);
  fill("requests", report.requests, drawRequests);
  fill("coverage", report.coverage, drawCoverage);
  fill("store", { store: report.store, bridges: fleet.bridges }, drawStore);
  fill("sources", report.sources, drawSources);
  fill("caches", report.caches, drawBars);
  fill("budgets", report.budgets.map((one) => (one.name === "memory" ? { ...one, unit: "bytes" } : one)), drawBars);
  fill("checks", follower.checks, drawChecks);
  fill("errors", report.errors, drawErrors);
  byId("parts").hidden = false;
}

function say(text, lost) {
  const place = byId("connection");
  if (place.textContent !== text) place.textContent = text;
  place.className = lost ? "lost" : "";
}

async function look() {
  let wait = 1000;
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const answer = await fetch("/status.json", { headers, cache: "no-store", signal: AbortSignal.timeout(10000) });
    const report = await answer.json();
    if (answer.ok) {
      byId("ask").hidden = true;
      show(report);
      say("live", false);
    } else {
      byId("ask").hidden = answer.status !== 401;
      byId("parts").hidden = true;
      say(report.error, true);
      if (answer.status === 401) return;
      wait = 3000;
    }
  } catch (error) {
    say("no answer from this follower; trying again", true);
    wait = 2000;
  }
  // a page that nobody sees asks nothing
  if (document.hidden) document.addEventListener("visibilitychange", look, { once: true });
  else setTimeout(look, wait);
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  sessionStorage.setItem("token", token);
  look();
});
look();
