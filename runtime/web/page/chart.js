// A line chart of the latest values, drawn as SVG.

const WIDTH = 320;
const HEIGHT = 96;
const LABEL_HEIGHT = 14;
const POINTS = 160;
const STEPS = [1, 1.5, 2, 3, 5, 7, 10];
// Share of the values that fit; higher ones are cut off and named, or one outlier would flatten all others.
const FITTING = 0.95;

export class Chart {
  constructor(svg, { unit, marks = [] }) {
    this.unit = unit;
    this.svg = svg;
    this.values = [];
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    this.grid = added(svg, "path", { class: "grid" });
    this.area = added(svg, "path", { class: "area" });
    this.line = added(svg, "path", { class: "line" });
    this.marks = marks.map((name) => added(svg, "path", { class: `mark ${name}` }));
    this.top = document.createElement("span");
    this.top.className = "top quiet";
    svg.after(this.top);
  }

  // `value` extends the line; `marks` are the values of the horizontal lines, null for none.
  add(value, marks = []) {
    this.values.push(value);
    if (this.values.length > POINTS) this.values.shift();
    this.marked = marks;
  }

  draw() {
    const finite = this.values.filter(Number.isFinite).sort((one, other) => one - other);
    if (!finite.length) return;
    const peak = finite.at(-1);
    const usual = finite[Math.floor(FITTING * (finite.length - 1))];
    const limit = niceLimit(Math.max(usual, ...(this.marked ?? []).filter(Number.isFinite)));
    const x = (index) => ((index + POINTS - this.values.length) / (POINTS - 1)) * WIDTH;
    const y = (value) => HEIGHT - Math.min(value / limit, 1) * (HEIGHT - LABEL_HEIGHT);
    const outline = path(this.values.map((value, index) => [x(index), value === null ? null : y(value)]));
    this.line.setAttribute("d", outline.line);
    this.area.setAttribute("d", outline.area);
    this.grid.setAttribute("d", [1, 0.5].map((share) => horizontal(y(limit * share))).join(""));
    this.marks.forEach((mark, index) => {
      const height = this.marked[index];
      mark.setAttribute("d", Number.isFinite(height) ? horizontal(y(height)) : "");
    });
    const beyond = peak > limit ? `, peak ${peak.toFixed(1)} ${this.unit}` : "";
    this.top.textContent = `${limit} ${this.unit}${beyond}`;
  }
}

// Return the smallest of `STEPS` times a power of ten that is at least `value`.
export function niceLimit(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return Number((STEPS.find((step) => step * power >= value) * power).toPrecision(2));
}

function horizontal(y) {
  return `M0 ${y.toFixed(1)}H${WIDTH}`;
}

// Missing values leave gaps.
function path(points) {
  let line = "";
  let area = "";
  let last = null;
  for (const [x, y] of points) {
    if (y === null) {
      if (last) area += `V${HEIGHT}Z`;
      last = null;
      continue;
    }
    const at = `${x.toFixed(1)} ${y.toFixed(1)}`;
    line += `${last ? "L" : "M"}${at}`;
    area += last ? `L${at}` : `M${x.toFixed(1)} ${HEIGHT}L${at}`;
    last = at;
  }
  return { line, area: last ? `${area}V${HEIGHT}Z` : area };
}

function added(parent, name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.setAttribute("vector-effect", "non-scaling-stroke");
  parent.append(element);
  return element;
}
