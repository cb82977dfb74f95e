// The power of one board as it is: a stream of bins while it is looked at, a picture, and figures of a chosen window.
"use strict";

const watts = { device: "", trace: new Trace(30000), source: null, held: false, end: 0, from: null, to: null, told: 0, skipped: 0 };
const STEPS = 1000;

const spanOf = () => Number(byId("span").value);
// What the picture shows: its newest moment is the newest bin, or that at which it was held.
const shownTo = () => (watts.held ? watts.end : watts.trace.end);
const shownFrom = () => shownTo() - spanOf();

function openWatts(device) {
  closeWatts();
  watts.device = device;
  watts.trace.clear();
  byId("watts").hidden = false;
  put(byId("h-watts"), `Watts of ${device}, live`);
  put(byId("watts-said"), "connecting …");
  wholeWindow();
  watts.source = new EventSource(`/watts?device=${encodeURIComponent(device)}`);
  watts.source.addEventListener("watts", (event) => takeWatts(JSON.parse(event.data)));
  watts.source.addEventListener("trouble", (event) => sayWatts(JSON.parse(event.data).reason));
  watts.source.addEventListener("error", () => {
    if (watts.source.readyState === EventSource.CLOSED) sayWatts("refused: too many look on, or the page is not served any more");
    else if (Date.now() - watts.told > 4000) sayWatts("no connection; tried again");
  });
  byId("watts").focus();
}
function closeWatts() {
  if (watts.source) watts.source.close();
  watts.source = null;
  byId("watts").hidden = true;
  for (const [name, row] of rowOf) row.children[0].firstChild.setAttribute("aria-pressed", "false");
}
function takeWatts(told) {
  watts.told = Date.now();
  watts.skipped = told.skipped;
  if (told.mean_w) watts.trace.add(told);
  const lost = told.skipped ? `${told.skipped} messages were too many for this page` : "";
  sayWatts([told.reason, lost].filter(Boolean).join("; ") || (watts.held ? "held; samples go on coming in" : "live"));
  if (!watts.held) drawWatts();
}
const sayWatts = (text) => put(byId("watts-said"), text);

// ---- the window

function wholeWindow() { watts.from = watts.to = null; hold(false); }
function hold(on) {
  watts.held = on;
  watts.end = watts.trace.end;
  byId("hold").setAttribute("aria-pressed", String(on));
  put(byId("hold"), on ? "Go on" : "Hold");
  if (!on) watts.from = watts.to = null;
  if (watts.source) sayWatts(on ? "held; samples go on coming in" : "live");
  drawWatts();
}
function choose(from, to) {
  if (!watts.held) hold(true);
  const low = Math.max(shownFrom(), watts.trace.start), high = shownTo(), least = spanOf() / STEPS;
  const clamp = (time) => Math.min(high, Math.max(low, time));
  [watts.from, watts.to] = [clamp(Math.min(from, to)), clamp(Math.max(from, to))];
  if (watts.to - watts.from < least) watts.to = Math.min(high, watts.from + least);
  if (watts.to - watts.from < least) watts.from = watts.to - least;
  drawWatts();
}
const chosenWindow = () => [watts.from === null ? shownFrom() : watts.from, watts.to === null ? shownTo() : watts.to];

// ---- the picture

const L = 46, R = 8, T = 8, B = 24, H = 220;
const timeOf = (event) => {
  const box = byId("trace").getBoundingClientRect();
  return shownFrom() + ((event.clientX - box.left - L) / Math.max(1, box.width - L - R)) * spanOf();
};
const frame = (svg, width, ys, label) => {
  svg.setAttribute("viewBox", `0 0 ${width} ${H}`);
  const py = (y) => H - B - ((y - ys[0]) / (ys[ys.length - 1] - ys[0])) * (H - B - T);
  const parts = [draw("path", { class: "grid", d: ys.map((y) => `M${L} ${py(y).toFixed(1)}H${width - R}`).join("") })];
  for (const y of ys) parts.push(draw("text", { x: L - 6, y: py(y) + 4, class: "end" }, label(y)));
  return [py, parts];
};
function drawWatts() {
  const svg = byId("trace"), width = Math.max(240, svg.clientWidth || 240), from = shownFrom(), to = shownTo();
  const columns = watts.trace.length ? columnsOf(watts.trace, from, to, Math.max(1, Math.floor(width - L - R))) : [];
  const known = columns.filter(Boolean);
  const top = known.length ? Math.max(...known.map((one) => one.high)) : 1, low = known.length ? Math.min(0, ...known.map((one) => one.low)) : 0;
  const [py, parts] = frame(svg, width, nice(low, top > low ? top : low + 1, 4), (y) => `${number(y)} W`);
  const px = (time) => L + ((time - from) / (to - from)) * (width - L - R);
  if (watts.from !== null)
    parts.push(draw("rect", { class: "chosen", x: px(watts.from).toFixed(1), width: Math.max(1, px(watts.to) - px(watts.from)).toFixed(1), y: T, height: H - B - T }));
  let band = "", line = "", run = [];
  const flush = () => {
    if (!run.length) return;
    const right = (x) => Number(x) + 1;
    band += `M${run.map(([x, one]) => `${x} ${py(one.high).toFixed(1)}H${right(x)}`).join("L")}`;
    band += `L${[...run].reverse().map(([x, one]) => `${right(x)} ${py(one.low).toFixed(1)}H${x}`).join("L")}Z`;
    line += `M${run.map(([x, one]) => `${x} ${py(one.joules / one.seen).toFixed(1)}H${right(x)}`).join("L")}`;
    run = [];
  };
  columns.forEach((one, index) => { if (one) run.push([String(L + index), one]); else flush(); });
  flush();
  parts.push(draw("path", { class: "band", d: band }), draw("path", { class: "line", d: line }));
  for (const share of [0, 0.5, 1])
    parts.push(draw("text", { x: L + share * (width - L - R), y: H - 7, class: share === 0 ? "" : share === 1 ? "end" : "mid" },
      share === 1 ? (watts.held ? "held" : "now") : `−${number((1 - share) * spanOf())} s`));
  svg.replaceChildren(...parts);
  drawFigures(from, to);
}
function drawFigures(shown, to) {
  const [from, until] = chosenWindow(), found = windowOf(watts.trace, from, until);
  const looked = found.seconds, whole = looked > 0 ? Math.min(1, found.seen / looked) : 0;
  const least = found.joules !== null && whole < 0.999 ? "≥ " : "";
  const told = [
    ["Mean", found.mean, "W", ""], ["Largest sample", found.largest, "W", ""], ["Least sample", found.least, "W", ""],
    ["Joules", found.joules, "J", least], ["Half of the time below", found.level(0.5), "W", ""],
    ["95 % of the time below", found.level(0.95), "W", ""],
  ].map(([name, value, unit, sign]) => [name, value === null ? "–" : `${sign}${number(value, 4)} ${unit}`]);
  const gone = found.lost > 0 ? `, ${number(found.lost, 4)} s not held any more` : "";
  told.push(["Window", `${number(looked, 4)} s`], ["Of it measured", looked > 0 ? `${number(100 * whole, 4)} %${gone}` : "–"]);
  const box = byId("figures");
  if (box.children.length !== told.length)
    box.replaceChildren(...told.map(([name, value]) => { const part = make("div"); part.append(make("dt", name), make("dd", value)); return part; }));
  told.forEach(([name, value], at) => put(box.children[at].children[1], value));
  const position = (time) => Math.round((STEPS * (time - shown)) / (to - shown || 1));
  for (const [name, time] of [["from", from], ["to", until]]) {
    const range = byId(name), text = `${(time - to).toFixed(2)} s`.replace("-", "−");
    if (document.activeElement !== range || watts.from !== null) range.value = position(time);
    range.setAttribute("aria-valuetext", text);
    put(byId(`${name}-s`), text);
  }
  const said = found.mean === null ? "no samples" : `mean ${number(found.mean, 4)} W, largest ${number(found.largest, 4)} W`;
  byId("trace").setAttribute("aria-label", `Power of ${watts.device} over ${spanOf()} s: ${said}. Arrows move the window, Shift with arrows widens it.`);
  drawShares(found);
}
function drawShares(found) {
  const svg = byId("shares"), width = Math.max(240, svg.clientWidth || 240);
  const [py, parts] = frame(svg, width, [0, 0.25, 0.5, 0.75, 1], (y) => `${100 * y} %`);
  if (found.shares.length) {
    const xs = nice(found.shares[0][0], found.shares[found.shares.length - 1][0], width < 500 ? 3 : 6), low = xs[0], high = xs[xs.length - 1];
    const px = (x) => (L + ((x - low) / (high - low)) * (width - L - R)).toFixed(1);
    let path = `M${px(found.shares[0][0])} ${py(0).toFixed(1)}`, drawn = "";
    for (const [x, share] of found.shares) {
      const next = `H${px(x)}V${py(share).toFixed(1)}`;
      // Not more points than the picture has.
      if (next !== drawn) path += drawn = next;
    }
    parts.push(draw("path", { class: "line", d: path }));
    xs.forEach((x, at) => parts.push(draw("text", { x: px(x), y: H - 7, class: at === 0 ? "" : at === xs.length - 1 ? "end" : "mid" }, `${number(x)} W`)));
    svg.setAttribute("aria-label", `Share of time below a power: half below ${number(found.level(0.5), 4)} W, 95 % below ${number(found.level(0.95), 4)} W`);
  } else svg.setAttribute("aria-label", "Share of time below a power: no samples");
  svg.replaceChildren(...parts);
}

// ---- pointer, keys

function beginWatts() {
  let begun = null;
  const svg = byId("trace");
  svg.addEventListener("pointerdown", (event) => {
    if (!watts.held) hold(true);
    begun = timeOf(event);
    svg.setPointerCapture(event.pointerId);
    choose(begun, begun);
  });
  svg.addEventListener("pointermove", (event) => { if (begun !== null) choose(begun, timeOf(event)); });
  for (const kind of ["pointerup", "pointercancel"]) svg.addEventListener(kind, () => { begun = null; });
  svg.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way) return;
    event.preventDefault();
    const [from, to] = chosenWindow(), step = (way * spanOf()) / 50;
    if (event.shiftKey) choose(from, to + step);
    else if (watts.from === null) choose(to - spanOf() / 5, to);
    else if (from + step >= Math.max(shownFrom(), watts.trace.start) - 1e-9 && to + step <= shownTo() + 1e-9) choose(from + step, to + step);
  });
  for (const name of ["from", "to"]) byId(name).addEventListener("input", (event) => {
    if (!watts.held) hold(true);
    const [from, to] = chosenWindow(), time = shownFrom() + (spanOf() * Number(event.target.value)) / STEPS;
    if (name === "from") choose(Math.min(time, to), to); else choose(from, Math.max(time, from));
  });
  byId("hold").addEventListener("click", () => hold(!watts.held));
  byId("whole").addEventListener("click", () => { watts.from = watts.to = null; drawWatts(); });
  byId("leave").addEventListener("click", closeWatts);
  byId("span").addEventListener("change", () => { watts.from = watts.to = null; drawWatts(); });
  byId("watts").addEventListener("keydown", (event) => {
    if (event.key === "Escape") { const row = rowOf.get(watts.device); closeWatts(); if (row) row.children[0].firstChild.focus(); }
    else if (event.key === "h" && event.target.tagName !== "SELECT") hold(!watts.held);
  });
  addEventListener("resize", () => { if (watts.source) drawWatts(); });
}
beginWatts();
