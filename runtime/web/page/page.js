// The page: shows each status and image, and sends commands; every control follows the status that comes back.

import { Chart } from "./chart.js";
import { Connection } from "./connection.js";

const TOP = 5;
// How long a control keeps a new choice until the status has it.
const PATIENCE_MS = 1000;
const CHART_MS = 100;
const STEADY_MS = 700;
const ANNOUNCE_MS = 2500;
const ERROR_MS = 6000;
const WIDE = 2;
const NARROW_PX = 640;

const byId = (id) => document.getElementById(id);
const latencyChart = new Chart(byId("latency-chart"), { unit: "ms", marks: ["p50", "p90"] });
const rateChart = new Chart(byId("rate-chart"), { unit: "/s" });
const state = {
  status: null,
  jpeg: null,
  sizeChosen: false,
  requested: new Map(),
  seen: [],
  steady: ["", 0],
  announced: "",
  announcedMs: -Infinity,
};
let errorTimer = 0;

forgetToken();
buildBars();
const connection = new Connection(socketUrl(), { show, showError, report });
listen();
setInterval(drawCharts, CHART_MS);

// The cookie has replaced the token; a copied address or the history must not reveal it.
function forgetToken() {
  if (new URLSearchParams(location.search).has("token")) history.replaceState(null, "", location.pathname);
}

function socketUrl() {
  const url = new URL("view", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

async function show(status, jpeg) {
  const bitmap = await createImageBitmap(jpeg);
  drawImage(bitmap);
  state.jpeg = jpeg;
  state.status = status;
  state.seen.push(performance.now());
  showStatus(status);
}

function drawImage(bitmap) {
  const canvas = byId("image");
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height || !byId("empty").hidden) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
    chooseSize();
  }
  canvas.getContext("2d", { alpha: false }).drawImage(bitmap, 0, 0);
  bitmap.close();
  byId("empty").hidden = true;
}

function showStatus(status) {
  const { settings } = status;
  setText("engine", `${status.engine}, ${settings.compare ? status.precisions.join(" and ") : settings.precision}, ${count(status.threads, "thread")}`);
  setText("frame", status.frame);
  setText("note", status.note);
  byId("note").hidden = !status.note;
  showClasses(status);
  showFigures(status);
  showSettings(status);
  showRecording(status.recording);
  byId("snapshot").disabled = false;
}

function showClasses({ top5, true_label: truth, frame }) {
  const [name, probability] = top5[0] ?? ["not finite", null];
  setText("class", name);
  setText("confidence", percent(probability));
  byId("image").setAttribute("aria-label", `${frame}: ${name}`);
  document.title = `${name} · FocalEdge`;
  [...byId("top5").children].forEach((row, index) => {
    const entry = top5[index];
    row.hidden = !entry;
    if (!entry) return;
    row.querySelector(".label").textContent = entry[0];
    row.querySelector(".value").textContent = percent(entry[1]);
    row.querySelector(".fill").style.transform = `scaleX(${entry[1] ?? 0})`;
  });
  byId("truth").hidden = truth === null;
  if (truth !== null) {
    setText("true-label", truth);
    setText("verdict", truth === name ? "right" : "wrong");
    byId("verdict").dataset.state = truth === name ? "live" : "locked";
  }
  announce(name, probability);
}

// Announce a class to screen readers only once it is stable.
function announce(name, probability) {
  const nowMs = performance.now();
  if (state.steady[0] !== name) state.steady = [name, nowMs];
  const due = nowMs - state.steady[1] >= STEADY_MS && nowMs - state.announcedMs >= ANNOUNCE_MS;
  if (name === state.announced || !due) return;
  state.announced = name;
  state.announcedMs = nowMs;
  setText("announcement", `${name} ${percent(probability)}`);
}

function showFigures(status) {
  setText("latency", decimals(status.latency_ms, 2));
  setText("latency-p50", decimals(status.latency_p50_ms, 2));
  setText("latency-p90", decimals(status.latency_p90_ms, 2));
  setText("rate", decimals(status.frames_per_s, 1));
  setText("frames", status.frames.toLocaleString("en"));
  setText("dropped", status.dropped_frames.toLocaleString("en"));
  showFact("accuracy", status.running_accuracy);
  showFact("agreement", status.agreement);
  latencyChart.add(status.latency_ms, [status.latency_p50_ms, status.latency_p90_ms]);
  rateChart.add(status.frames_per_s);
}

function showFact(id, share) {
  byId(id).parentElement.hidden = share === null;
  setText(id, percent(share));
}

function showSettings({ settings, maps, layouts, precisions }) {
  const levels = ["All", ...maps].map((title, index) => [String(index), capital(title.replace(/^gate, /, "")), String(index)]);
  choices("level", levels);
  choices("layout", Object.entries(layouts));
  choices("precision", precisions.map((each) => [each, each]));
  follow("level", String(settings.level), choose);
  follow("layout", settings.layout, choose);
  follow("precision", settings.precision, choose);
  byId("compare").disabled = precisions.length < 2;
  setText("compare-hint", precisions.length < 2 ? "this bundle has only one" : "both run on every frame");
  follow("compare", settings.compare ? "on" : "off", (_, value) => {
    byId("compare").checked = value === "on";
  });
}

function showRecording(file) {
  byId("recording").hidden = !file;
  setText("recording-file", file ? `REC ${file.split(/[\\/]/).pop()}` : "");
  byId("record").disabled = false;
  follow("record", file ? "on" : "off", (_, value) => {
    byId("record").dataset.on = value === "on";
    byId("record").setAttribute("aria-label", value === "on" ? "Stop recording" : "Record");
    setText("record-text", value === "on" ? "Stop" : "Record");
  });
}

// Set a control to the status, unless the viewer has just requested another value.
function follow(action, value, set) {
  const requested = state.requested.get(action);
  if (requested && requested.value !== value && performance.now() < requested.untilMs) return;
  state.requested.delete(action);
  set(action, value);
}

function choose(action, value) {
  for (const input of document.querySelectorAll(`input[name="${action}"]`)) {
    if (input.checked !== (input.value === value)) input.checked = input.value === value;
  }
}

function choices(action, options) {
  const group = document.querySelector(`[data-action="${action}"] .choices`);
  const key = JSON.stringify(options);
  if (group.dataset.key === key) return;
  group.dataset.key = key;
  group.replaceChildren(...options.map((option) => choice(action, ...option)));
}

function choice(action, value, title, hint = "") {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: action, value });
  const text = document.createElement("span");
  text.textContent = title;
  label.append(input, text);
  if (hint) {
    const key = Object.assign(document.createElement("kbd"), { textContent: hint });
    key.setAttribute("aria-hidden", "true");
    text.prepend(key);
  }
  return label;
}

function request(action, value) {
  if (!connection.send(action, value)) return showError("not connected; nothing was changed");
  if (value) state.requested.set(action, { value, untilMs: performance.now() + PATIENCE_MS });
}

function listen() {
  byId("form").addEventListener("submit", (event) => event.preventDefault());
  byId("form").addEventListener("change", ({ target }) => {
    if (target.type === "radio") request(target.name, target.value);
  });
  byId("compare").addEventListener("change", ({ target }) => request("compare", target.checked ? "on" : "off"));
  byId("record").addEventListener("click", toggleRecording);
  byId("snapshot").addEventListener("click", saveSnapshot);
  byId("fullscreen").addEventListener("click", toggleFullscreen);
  byId("fullscreen").hidden = !document.fullscreenEnabled;
  byId("enlarge").addEventListener("click", () => {
    state.sizeChosen = true;
    enlarge(!byId("stage").classList.contains("enlarged"));
  });
  window.addEventListener("resize", chooseSize);
  document.addEventListener("fullscreenchange", () => {
    setText("fullscreen", document.fullscreenElement ? "Leave full screen" : "Full screen");
  });
  document.addEventListener("keydown", pressed);
}

function pressed(event) {
  const busy = event.ctrlKey || event.altKey || event.metaKey || event.repeat || !byId("shortcuts").checked;
  if (busy || !state.status) return;
  const actions = {
    l: () => request("layout", ""),
    p: () => request("precision", ""),
    c: () => !byId("compare").disabled && request("compare", ""),
    r: toggleRecording,
    s: saveSnapshot,
    f: toggleFullscreen,
  };
  const key = event.key.toLowerCase();
  if (/^\d$/.test(key) && Number(key) <= state.status.maps.length) request("level", key);
  else if (Object.hasOwn(actions, key)) actions[key]();
  else return;
  event.preventDefault();
}

function toggleRecording() {
  if (state.status) request("record", state.status.recording ? "off" : "on");
}

function toggleFullscreen() {
  const change = document.fullscreenElement ? document.exitFullscreen() : byId("stage").requestFullscreen?.();
  change?.catch(() => showError("this browser does not allow full screen here"));
}

// On a phone, all maps side by side would be too small.
function chooseSize() {
  const { width, height } = byId("image");
  if (!state.sizeChosen) enlarge(width > WIDE * height && innerWidth < NARROW_PX);
}

function enlarge(on) {
  byId("stage").classList.toggle("enlarged", on);
  byId("enlarge").setAttribute("aria-pressed", String(on));
}

function saveSnapshot() {
  if (!state.jpeg) return;
  const name = state.status.frame.replace(/[^A-Za-z0-9.-]+/g, "-").replace(/^-+|-+$/g, "");
  const href = URL.createObjectURL(state.jpeg);
  const link = Object.assign(document.createElement("a"), { href, download: `focaledge-${name}.jpg` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(href), 10000);
}

function showError(message) {
  setText("error", message);
  byId("error").hidden = false;
  clearTimeout(errorTimer);
  errorTimer = setTimeout(() => { byId("error").hidden = true; }, ERROR_MS);
}

function report(name, text) {
  byId("connection").dataset.state = name;
  document.body.dataset.state = name;
  setText("connection-text", text);
}

function drawCharts() {
  const nowMs = performance.now();
  state.seen = state.seen.filter((ms) => nowMs - ms < 2000);
  if (document.hidden || !state.status) return;
  setText("seen-rate", decimals(state.seen.length / 2, 0));
  latencyChart.draw();
  rateChart.draw();
}

function buildBars() {
  const row = '<span class="label"></span><span class="bar-track" aria-hidden="true"><span class="fill"></span></span><span class="value"></span>';
  for (let index = 0; index < TOP; index += 1) {
    const item = Object.assign(document.createElement("li"), { innerHTML: row, hidden: true });
    byId("top5").append(item);
  }
}

// Unchanged text is not set: a screen reader would read it again.
function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function percent(share) {
  return Number.isFinite(share) ? `${(100 * share).toFixed(1)}%` : "";
}

function decimals(value, digits) {
  return Number.isFinite(value) ? value.toFixed(digits) : "–";
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
