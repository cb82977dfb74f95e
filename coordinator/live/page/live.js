// What the coordinator's live view shows: one stream of events in, tables and small curves out. Text is only ever set as
// text, never as markup: a device's name may be anything.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const state = { runs: {}, run: null, rounds: {}, devices: {}, trouble: "" };
const byId = (id) => document.getElementById(id);
let sortBy = "device_id", descending = false, heardAt = 0, pause = 2, source = null, chosen = "";

// ---- figures as words

const number = (value, digits = 3) => {
  if (value === null || value === undefined) return "?";
  return Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(digits)));
};
const withWidth = (value, width) =>
  value === null || value === undefined ? "?" : width === null || width === undefined ? number(value)
    : `${number(value)} ± ${number(width, 2)}`;
const score = (measure, value) =>
  value === null || value === undefined ? "–" : measure === "accuracy" ? `${(100 * value).toFixed(2)} %` : value.toFixed(4);
const bytes = (count) => {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (count < 1000 || unit === "GB") return unit === "B" ? `${count} B` : `${number(count)} ${unit}`;
    count /= 1000;
  }
};
const ago = (unix) => {
  if (unix === null || unix === undefined) return "–";
  const seconds = Math.max(0, Date.now() / 1000 - unix);
  if (seconds < 100) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 129600 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86400)} days ago`;
};
const spentOf = (row) => {
  if (row.spent_j === null) return row.unknown ? "?" : "–";
  return (row.unknown ? "≥ " : "") + withWidth(row.spent_j, row.uncertainty_j);
};

const COLUMNS = [
  ["device_id", "device", (one) => one.device_id],
  ["state", "state", (one) => one.state],
  ["outcome", "round", (one) => (one.round === null ? "" : `${one.round} ${one.outcome}`)],
  ["standing", "why", (one) => standing(one)],
  ["spent_j", "spent J", (one) => (one.reported_round === null ? "" : withWidth(one.spent_j, one.uncertainty_j))],
  ...["receive", "embed", "train", "encode", "send"].map((phase) => [phase, `${phase} J (W)`, (one) => {
    const record = one.phases[phase];
    return record ? `${number(record.energy_j)} (${number(record.power_w, 2)})` : "";
  }]),
  ["left_j", "left J", (one) => (one.granted_j === null ? "" : `${number(one.left_j)} of ${number(one.granted_j)}`)],
  ["temperature_c", "°C", (one) => (one.temperature_c === null ? "" : one.temperature_c.toFixed(1))],
  ["sparks", "J by round", null],
  ["last_seen_unix_s", "seen", (one) => ago(one.last_seen_unix_s)],
];
const WHY = COLUMNS.findIndex(([key]) => key === "standing"), SEEN = COLUMNS.length - 1;
const standing = (one) =>
  one.since_unix_s && one.standing.startsWith("at work") ? `${one.standing}, ordered ${ago(one.since_unix_s)}` : one.standing;
const sortable = {
  outcome: (one) => one.outcome,
  sparks: (one) => one.sparks.reduce((sum, value) => sum + (value || 0), 0),
};
for (const phase of ["receive", "embed", "train", "encode", "send"])
  sortable[phase] = (one) => one.phases[phase] && one.phases[phase].energy_j;

// ---- elements

const make = (tag, text, attributes = {}) => {
  const made = document.createElement(tag);
  if (text !== null && text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};
const draw = (tag, attributes = {}, text) => {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
};
const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };

// ---- curves

const nice = (low, high, about) => {
  if (!(high > low)) { const room = Math.abs(low) / 6 || 1; low -= room; high += room; }
  const raw = (high - low) / about, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((one) => one * power >= raw * 0.999);
  const found = [];
  for (let at = Math.floor(low / step + 1e-9); at <= Math.ceil(high / step - 1e-9); at++) found.push(Number((at * step).toPrecision(12)));
  return found;
};
function curve(title, points, index, format) {
  const W = 420, H = 190, L = 52, R = 10, T = 10, B = 26;
  const known = points.filter(([, y]) => y !== null && y !== undefined);
  const figure = make("figure", null, { class: `c${index}` });
  const last = known.length ? format(known[known.length - 1][1]) : "nothing yet";
  figure.append(make("figcaption", `${title}: ${last}`));
  if (!known.length) return figure;
  const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title} by round, ${known.length} rounds, from ${format(known[0][1])} to ${last}` });
  const xs = [Math.min(...points.map(([x]) => x)), Math.max(1, ...points.map(([x]) => x))];
  const ys = nice(Math.min(...known.map(([, y]) => y)), Math.max(...known.map(([, y]) => y)), 4);
  const px = (x) => (L + ((x - xs[0]) / (xs[1] - xs[0] || 1)) * (W - L - R)).toFixed(1);
  const py = (y) => (H - B - ((y - ys[0]) / (ys[ys.length - 1] - ys[0])) * (H - B - T)).toFixed(1);
  svg.append(draw("path", { class: "grid", d: ys.map((y) => `M${L} ${py(y)}H${W - R}`).join("") }));
  for (const y of ys) svg.append(draw("text", { x: L - 6, y: Number(py(y)) + 4, class: "end" }, format(y, true)));
  svg.append(draw("text", { x: L, y: H - 8 }, `round ${xs[0]}`), draw("text", { x: W - R, y: H - 8, class: "end" }, String(xs[1])));
  let path = "", dots = "", pen = "M";
  // Of each stretch of a long run the first, lowest and highest: no peak is lost.
  for (const [x, y] of thinned(points, 300)) {
    if (y === null || y === undefined) { pen = "M"; continue; }
    path += `${pen}${px(x)} ${py(y)}`; pen = "L"; dots += `M${px(x)} ${py(y)}h0`;
  }
  svg.append(draw("path", { class: "line", d: path }));
  if (known.length <= 60) svg.append(draw("path", { class: "dots", d: dots }));
  figure.append(svg);
  return figure;
}
function thinned(points, most) {
  if (points.length <= most) return points;
  const each = Math.ceil((3 * points.length) / most), kept = new Set([0, points.length - 1]);
  for (let start = 0; start < points.length; start += each) {
    const here = [];
    for (let at = start; at < Math.min(points.length, start + each); at++) if (points[at][1] !== null) here.push(at);
    here.sort((a, b) => points[a][1] - points[b][1]);
    if (here.length) { kept.add(here[0]); kept.add(here[here.length - 1]); }
  }
  return [...kept].sort((a, b) => a - b).map((at) => points[at]);
}
function spark(values) {
  const known = values.filter((one) => one !== null);
  const svg = draw("svg", { class: "spark", viewBox: "0 0 100 20", preserveAspectRatio: "none", "aria-hidden": "true" });
  if (known.length < 2) return svg;
  const top = Math.max(...known), low = Math.min(0, ...known);
  let path = "", pen = "M";
  values.forEach((value, at) => {
    if (value === null) { pen = "M"; return; }
    path += `${pen}${((100 * at) / (values.length - 1)).toFixed(1)} ${(18 - (16 * (value - low)) / (top - low || 1)).toFixed(1)}`;
    pen = "L";
  });
  svg.append(draw("path", { d: path }));
  return svg;
}

// ---- what is shown

function showRun() {
  const run = state.run, rounds = Object.values(state.rounds);
  put(byId("name"), run ? run.name : "edgejoule");
  document.title = run ? `${run.name}: ${run.state} – edgejoule` : "edgejoule";
  const facts = byId("facts");
  if (!run) {
    put(byId("doing"), "No run yet. Start one with: coordinator start PLAN.toml");
    facts.replaceChildren(); byId("curves").replaceChildren(); byId("rounds").replaceChildren();
    return;
  }
  put(byId("doing"), !run.reason ? run.state : run.reason.startsWith(run.state) ? run.reason : `${run.state}: ${run.reason}`);
  const closed = rounds.filter((one) => one.state === "closed"), scored = closed.filter((one) => one.score !== null);
  const measure = scored.length ? scored[scored.length - 1].measure : "accuracy";
  const spent = rounds.filter((one) => one.spent_j !== null), unknown = rounds.reduce((sum, one) => sum + one.unknown, 0);
  const joules = spent.reduce((sum, one) => sum + one.spent_j, 0);
  const told = [
    ["Round", `${closed.length ? closed[closed.length - 1].round : 0} of ${run.rounds_planned}`],
    [measure === "accuracy" ? "Accuracy" : measure, scored.length ? score(measure, scored[scored.length - 1].score) : "–"],
    ["Loss", scored.length && scored[scored.length - 1].loss !== null ? scored[scored.length - 1].loss.toFixed(4) : "–"],
    ["Joules spent", spent.length ? `${unknown ? "≥ " : ""}${number(joules, 4)}` : unknown ? "?" : "–"],
    ["Sent up", bytes(rounds.reduce((sum, one) => sum + one.bytes_up, 0))],
    ["Sent down", bytes(rounds.reduce((sum, one) => sum + one.bytes_down, 0))],
    ["Devices here", String(Object.values(state.devices).filter((one) => one.state === "present").length)],
  ];
  if (facts.children.length !== told.length)
    facts.replaceChildren(...told.map(([name, value]) => { const box = make("div"); box.append(make("dt", name), make("dd", value)); return box; }));
  told.forEach(([name, value], at) => { put(facts.children[at].children[0], name); put(facts.children[at].children[1], value); });
  showRounds(rounds, measure);
}
function showRounds(rounds, measure) {
  const percent = (value) => (measure === "accuracy" ? `${Number((100 * value).toPrecision(4))} %` : number(value, 4));
  byId("curves").replaceChildren(
    curve(measure, rounds.map((one) => [one.round, one.score]), 0, percent),
    curve("loss", rounds.map((one) => [one.round, one.loss]), 1, (value) => number(value, 4)),
    curve("joules of a round", rounds.filter((one) => one.asked && one.state !== "open").map((one) => [one.round, one.spent_j]), 2, (value) => number(value)),
  );
  put(byId("measure"), measure);
  byId("rounds").replaceChildren(...rounds.slice(-20).reverse().map((one) => {
    const row = make("tr");
    row.append(make("th", one.round, { scope: "row" }));
    const cells = [one.state, score(measure, one.score), one.loss === null ? "–" : one.loss.toFixed(4),
      one.asked ? `${one.accepted}/${one.asked}` : "–", spentOf(one), bytes(one.bytes_up), bytes(one.bytes_down)];
    row.append(...cells.map((cell) => make("td", cell)));
    return row;
  }));
}
function showRuns() {
  const select = byId("runs");
  const wanted = [["", "newest"], ...Object.entries(state.runs).sort((a, b) => b[1].started_unix_s - a[1].started_unix_s)
    .map(([id, run]) => [id, `${run.name} (${id}): ${run.state}, ${run.round}/${run.rounds_planned}`])];
  wanted.forEach(([value, text], at) => {
    const option = select.options[at] || select.appendChild(make("option"));
    if (option.value !== value) option.value = value;
    put(option, text);
  });
  while (select.options.length > wanted.length) select.lastChild.remove();
  select.value = chosen;
}

const rowOf = new Map();
function showDevice(name) {
  const one = state.devices[name];
  let row = rowOf.get(name);
  if (!one) { if (row) row.remove(); rowOf.delete(name); return; }
  if (!row) {
    row = make("tr");
    COLUMNS.forEach(([key, title], at) => row.append(at ? make("td", "", { "data-name": title }) : make("th", "", { scope: "row" })));
    row.children[WHY].className = "words";
    const button = make("button", name, { type: "button", title: "its watts, live", "aria-pressed": "false" });
    button.addEventListener("click", () => { openWatts(name); button.setAttribute("aria-pressed", "true"); });
    row.children[0].append(button);
    rowOf.set(name, row);
  } else { row.classList.remove("fresh"); void row.offsetWidth; row.classList.add("fresh"); }
  COLUMNS.forEach(([key, title, text], at) => {
    const cell = row.children[at];
    if (!at) return;
    if (text) { put(cell, text(one)); cell.classList.toggle("empty", !cell.textContent); }
    else { cell.replaceChildren(spark(one.sparks)); cell.classList.toggle("empty", one.sparks.length < 2); }
  });
  row.classList.toggle("trouble", one.trouble);
}
function order() {
  const value = sortable[sortBy] || ((one) => one[sortBy]);
  const names = [...rowOf.keys()].sort((a, b) => {
    const x = value(state.devices[a]), y = value(state.devices[b]);
    if (x === y) return a < b ? -1 : 1;
    // Who has no figure stands last, either way.
    if (x === null || x === undefined || x === "") return 1;
    if (y === null || y === undefined || y === "") return -1;
    return (x < y ? -1 : 1) * (descending ? -1 : 1);
  });
  const body = byId("rows"), find = byId("find").value.toLowerCase(), only = byId("only").checked;
  let shown = 0;
  names.forEach((name, at) => {
    const row = rowOf.get(name), one = state.devices[name];
    if (body.children[at] !== row) body.insertBefore(row, body.children[at] || null);
    row.hidden = (only && !one.trouble) || (find && !`${name} ${one.board} ${one.standing}`.toLowerCase().includes(find));
    shown += !row.hidden;
  });
  const troubled = names.filter((name) => state.devices[name].trouble).length;
  put(byId("count"), `${shown} of ${names.length} devices${troubled ? `, ${troubled} with trouble` : ""}`);
}

// ---- the stream

function merge(key, rows) {
  for (const [name, row] of Object.entries(rows)) {
    if (row === null) delete state[key][name]; else state[key][name] = row;
  }
}
function take(told, whole) {
  heardAt = Date.now();
  pause = told.pause_s || pause;
  if (whole) {
    state.runs = told.runs || {}; state.rounds = told.rounds || {}; state.devices = told.devices || {};
    state.run = told.run || null;
    for (const name of [...rowOf.keys()]) showDevice(name);
  } else {
    // Another run than before: nothing of the old one's rounds may stay.
    if (told.run && state.run && told.run.run_id !== state.run.run_id) state.rounds = {};
    for (const key of ["runs", "rounds", "devices"]) if (told[key]) merge(key, told[key]);
    if ("run" in told) state.run = told.run;
  }
  if ("trouble" in told) {
    state.trouble = told.trouble;
    const box = byId("trouble");
    box.hidden = !told.trouble;
    put(box, told.trouble ? `Figures below are old. ${told.trouble}` : "");
  }
  if (told.runs) showRuns();
  if (whole || told.run || told.rounds || told.devices) showRun();
  for (const name of Object.keys(told.devices || {})) showDevice(name);
  if (whole || told.devices) order();
  showLink();
}
function showLink() {
  const link = byId("link"), age = heardAt ? (Date.now() - heardAt) / 1000 : Infinity;
  const open = source && source.readyState === EventSource.OPEN, good = open && !state.trouble;
  link.className = good ? "good" : "bad";
  put(link, good ? "live" : !open ? (heardAt ? `no connection; figures are ${Math.round(age)} s old` : "connecting …")
    : "the coordinator does not answer");
}
function connect() {
  if (source) source.close();
  source = new EventSource(`/events?run=${encodeURIComponent(chosen)}`);
  source.addEventListener("state", (event) => take(JSON.parse(event.data), true));
  source.addEventListener("change", (event) => take(JSON.parse(event.data), false));
  source.addEventListener("open", showLink);
  source.addEventListener("error", () => {
    showLink();
    // A refusal ends the stream for good: try again, slowly.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 10000);
  });
}
function begin() {
  byId("head").append(...COLUMNS.map(([key, title], at) => {
    const cell = make("th", null, { scope: "col" });
    if (at === WHY) cell.className = "words";
    const button = make("button", title, { type: "button" });
    button.addEventListener("click", () => {
      descending = sortBy === key ? !descending : false;
      sortBy = key;
      for (const other of byId("head").children) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      order();
    });
    cell.append(button);
    return cell;
  }));
  byId("head").children[0].setAttribute("aria-sort", "ascending");
  byId("find").addEventListener("input", order);
  byId("only").addEventListener("change", order);
  byId("runs").addEventListener("change", (event) => {
    chosen = event.target.value;
    state.rounds = {};
    connect();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      byId("find").focus();
    } else if (event.key === "Escape" && document.activeElement === byId("find")) {
      byId("find").value = "";
      order();
    }
  });
  setInterval(() => {
    showLink();
    for (const [name, row] of rowOf) {
      const one = state.devices[name];
      put(row.children[SEEN], ago(one.last_seen_unix_s));
      put(row.children[WHY], standing(one));
    }
  }, 5000);
  connect();
}
begin();
