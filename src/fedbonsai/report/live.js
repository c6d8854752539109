// Shows what /events tells. Text from there is only ever set as text, and elements stay where they are while they
// change, so that focus, selection and scroll positions last.
"use strict";

const NEWEST = 12;
const UNITS = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
const WIDTH = 448, HEIGHT = 200, LEFT = 52, RIGHT = 10, TOP = 12, BOTTOM = 26;

function size(count) {
  let power = 0;
  for (; Math.abs(count) >= 999.5 && power < UNITS.length - 1; power++) count /= 1000;
  return `${Number(count.toPrecision(3))} ${UNITS[power]}`;
}

function clock(seconds) {
  if (seconds === null) return "n/a";
  const whole = Math.max(Math.round(seconds), 0);
  const two = (number) => String(number % 60).padStart(2, "0");
  return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60))}:${two(whole)}`;
}

function number(value, digits) {
  return value === null ? "" : value.toFixed(digits);
}

function write(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

// Makes `parent` have `count` children, each made by `make`.
function fill(parent, count, make) {
  while (parent.children.length > count) parent.lastElementChild.remove();
  while (parent.children.length < count) parent.append(make());
  return [...parent.children];
}

function element(name, ...children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

function showFacts(list, facts) {
  const places = fill(list, facts.length, () => element("div", element("dt"), element("dd")));
  facts.forEach(([name, value], at) => {
    write(places[at].children[0], name);
    write(places[at].children[1], value);
  });
}

function showTable(region, label, names, rows) {
  region.hidden = rows.length === 0;
  region.setAttribute("aria-label", label);
  fill(region.querySelector("thead tr"), names.length, () => element("th")).forEach((cell, at) => {
    cell.scope = "col";
    write(cell, names[at]);
  });
  const lines = fill(region.querySelector("tbody"), rows.length, () => element("tr"));
  rows.forEach((row, at) => {
    const first = () => element(lines[at].children.length ? "td" : "th");
    fill(lines[at], row.length, first).forEach((cell, column) => write(cell, row[column]));
  });
}

function drawn(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function showChart(figure, points) {
  figure.hidden = points.length === 0;
  figure.querySelector("svg")?.remove();
  if (points.length === 0) return;
  const [xs, ys] = [points.map((point) => point[0]), points.map((point) => point[1])];
  const [first, last, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const x = (value) => LEFT + ((value - first) / (last - first || 1)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => TOP + ((high - value) / (high - low || 1)) * (HEIGHT - TOP - BOTTOM);
  const svg = drawn("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  svg.append(drawn("title", {}, figure.querySelector("figcaption").textContent));
  for (const value of new Set([low, high])) {
    svg.append(drawn("path", { class: "grid", d: `M${LEFT} ${y(value)}H${WIDTH - RIGHT}` }));
    svg.append(drawn("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, Number(value.toPrecision(3))));
  }
  for (const value of new Set([first, last])) {
    const anchor = value === last && last !== first ? "end" : "start";
    svg.append(drawn("text", { x: x(value), y: HEIGHT - 6, "text-anchor": anchor }, value));
  }
  const corners = points.map((point) => `${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`);
  svg.append(drawn("path", { class: "curve", d: `M${corners.join("L")}` }));
  svg.append(drawn("circle", { cx: x(points.at(-1)[0]), cy: y(points.at(-1)[1]), r: 3.5 }));
  figure.append(svg);
}

function newest(rows, name) {
  return rows.findLast((row) => row[name] !== null)?.[name] ?? null;
}

function show(section, run) {
  const { start, rounds, nodes } = run;
  const done = rounds.reduce((most, row) => Math.max(most, row.round), rounds.length ? 0 : start.round);
  const trained = rounds.filter((row) => row.stage === "train");
  const [about, error] = section.querySelectorAll("p");
  write(section.querySelector("h2"), run.label || start.name || "a run");
  const what = `${start.method} on ${start.dataset}, ${start.clients} clients, ${start.cohort} a round, ${start.engine}`;
  write(about, start.name ? `${run.state}: ${what}` : run.state);
  error.hidden = !run.error;
  write(error, run.error);
  const bar = section.querySelector("progress");
  bar.max = Math.max(start.rounds, 1);
  bar.value = done;
  bar.setAttribute("aria-label", "training rounds that are done");
  showFacts(section.querySelector(".facts"), [
    ["rounds", `${done} of ${start.rounds}`],
    ["test metric", number(newest(rounds, "test_metric"), 4) || "n/a"],
    ["density", number(newest(rounds, "density"), 3) || "n/a"],
    ["bytes down", size(run.bytes_down)],
    ["bytes up", size(run.bytes_up)],
    ["clients, last round", rounds.length ? rounds.at(-1).clients : "n/a"],
    ["dropped so far", run.dropped],
    ["time", clock(run.seconds)],
    ["left", run.state === "running" ? clock(newest(rounds, "seconds_left")) : "n/a"],
  ]);
  section.querySelectorAll("figure").forEach((figure, at) => {
    const name = ["test_metric", "density"][at];
    showChart(figure, trained.filter((row) => row[name] !== null).map((row) => [row.round, row[name]]));
  });
  showTable(section.querySelector(".nodes"), "Machines", ["node", "state", "client", "seconds"],
    nodes.map((node) => [node.node, node.state, node.client ?? "", number(node.seconds, 1)]));
  const names = ["round", "stage", "metric", "loss", "density", "clients", "dropped", "down", "up", "seconds"];
  showTable(section.querySelector(".rounds"), "The newest rounds", names, rounds.slice(-NEWEST).reverse().map((row) => [
    row.round, row.stage, number(row.test_metric, 4), number(row.train_loss, 4), number(row.density, 3), row.clients,
    row.dropped, size(row.bytes_down), size(row.bytes_up), row.seconds.toFixed(1)]));
}

const STATES = { waiting: "waiting for a run", running: "running", ended: "finished", failed: "failed" };
const events = new EventSource("/events");

events.onmessage = (event) => {
  const board = JSON.parse(event.data);
  document.body.dataset.state = board.state;
  write(document.getElementById("source"), board.source);
  write(document.getElementById("state"), STATES[board.state]);
  document.title = `${STATES[board.state]}: ${board.source}`;
  const template = document.getElementById("run").content.firstElementChild;
  const sections = fill(document.getElementById("runs"), board.runs.length, () => template.cloneNode(true));
  board.runs.forEach((run, at) => show(sections[at], run));
  if (board.state === "ended" || board.state === "failed") events.close();
};

events.onerror = () => {
  if (events.readyState !== EventSource.OPEN) write(document.getElementById("state"), "not connected: is it still served?");
};
