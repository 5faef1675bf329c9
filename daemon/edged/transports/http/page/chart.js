// One chart of the last minutes: a line or two, a mark to compare with, and the same in words.

import { element, say } from "./dom.js";
import { UNKNOWN } from "./words.js";

const NS = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 100;
const SPAN_S = 300;

export class Chart {
  // `lines` are names; `mark` names what the dashed line across is; `format` puts a value into words.
  constructor(parent, { id, title, lines = [title], mark = "", format, floor = 0, least = 1 }) {
    this.title = title;
    this.names = lines;
    this.markName = mark;
    this.format = format;
    this.floor = floor;
    this.least = least;
    this.points = [];
    this.figure = element("figure", { class: "chart", id: `chart-${id}` });
    this.now = element("span", { class: "now" }, UNKNOWN);
    this.top = element("span", { class: "top", "aria-hidden": "true" });
    this.svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.svg.append(shape("line", { x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }));
    this.area = lines.length === 1 ? shape("path", { class: "area" }) : null;
    this.mark = shape("line", { class: "mark", x1: 0, x2: WIDTH });
    this.paths = lines.map((_, index) => shape("path", { class: index ? "second" : "first" }));
    this.svg.append(...(this.area ? [this.area] : []), this.mark, ...this.paths);
    const plot = element("div", { class: "plot" }, this.svg, this.top);
    const axis = element("p", { class: "axis", "aria-hidden": "true" });
    axis.append(element("span", {}, "5 min ago"), ...this.legend(), element("span", {}, "now"));
    this.figure.append(element("figcaption", {}, title, this.now), plot, axis);
    parent.append(this.figure);
    this.describe();
  }

  legend() {
    if (this.names.length === 1) return [];
    const keys = this.names.map((name, index) => {
      const swatch = element("span", { class: index ? "key second" : "key" });
      return element("span", {}, swatch, name);
    });
    return keys;
  }

  // `values` at `time_s`, null where unknown; `mark` is the value of the dashed line, `words` what is said of now.
  add(time_s, values, { mark = null, words = null } = {}) {
    this.points.push({ time_s, values });
    while (this.points.length && this.points[0].time_s < time_s - SPAN_S) this.points.shift();
    this.markValue = mark;
    const known = this.points.flatMap((point) => point.values).filter((value) => value !== null);
    this.high = Math.max(this.floor + this.least, mark ?? 0, ...known) * 1.08;
    this.draw(time_s);
    say(this.now, words ?? (values[0] === null ? UNKNOWN : this.format(values[0])));
    this.describe();
  }

  draw(end_s) {
    const x = (time_s) => WIDTH - ((end_s - time_s) / SPAN_S) * WIDTH;
    const y = (value) => HEIGHT - ((value - this.floor) / (this.high - this.floor)) * HEIGHT;
    this.paths.forEach((path, index) => {
      const runs = [[]];
      for (const { time_s, values } of this.points) {
        if (values[index] === null) runs.push([]);
        else runs.at(-1).push(`${x(time_s).toFixed(1)} ${y(Math.max(values[index], this.floor)).toFixed(1)}`);
      }
      const drawn = runs.filter((run) => run.length);
      path.setAttribute("d", drawn.map((run) => `M${run.join("L")}${run.length === 1 ? "h.1" : ""}`).join(""));
      if (index === 0 && this.area) {
        const closed = (run) => {
          const first = run[0].split(" ")[0];
          const last = run.at(-1).split(" ")[0];
          return `M${first} ${HEIGHT}L${run.join("L")}L${last} ${HEIGHT}Z`;
        };
        this.area.setAttribute("d", drawn.map(closed).join(""));
      }
    });
    this.mark.toggleAttribute("hidden", this.markValue === null);
    const height = this.markValue === null ? -HEIGHT : y(this.markValue);
    this.mark.setAttribute("y1", height);
    this.mark.setAttribute("y2", height);
    const marked = this.markValue === null ? "" : `${this.markName} ${this.format(this.markValue)}`;
    say(this.top, marked);
  }

  // The text alternative: what a glance at the curve tells.
  describe() {
    const told = this.names.map((name, index) => {
      const values = this.points.map((point) => point.values[index]).filter((value) => value !== null);
      if (!values.length) return `${name}: nothing known yet`;
      const [low, high] = [Math.min(...values), Math.max(...values)].map(this.format);
      return `${name}: now ${this.format(values.at(-1))}, between ${low} and ${high}`;
    });
    const mark = this.markValue != null ? `; ${this.markName} ${this.format(this.markValue)}` : "";
    this.svg.setAttribute("aria-label", `Chart of the last 5 minutes. ${told.join("; ")}${mark}.`);
  }
}

function shape(name, attributes) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
