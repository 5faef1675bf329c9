// One chart of the last minutes: a line or two, a mark to compare with, and the same in words.

import { element, say } from "./dom.js";
import { UNKNOWN } from "./words.js";

const NS = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 100;
const LEAST_MIN = 1;
const MOST_MIN = 5;

export class Chart {
  // `lines` are names; `mark` names the dashed line across; `format` puts a value into words. The scale goes
  // from `floor` to `floor + least` at the least.
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
    this.beside = element("span", { class: "beside" });
    this.past = element("span");
    this.svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.svg.append(shape("line", { x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }));
    this.area = lines.length === 1 ? shape("path", { class: "area" }) : null;
    this.mark = shape("line", { class: "mark", x1: 0, x2: WIDTH });
    this.paths = lines.map((_, index) => shape("path", { class: index ? "second" : "first" }));
    this.svg.append(...(this.area ? [this.area] : []), this.mark, ...this.paths);
    const axis = element("p", { class: "axis", "aria-hidden": "true" }, this.past, element("span", {}, "now"));
    const caption = element("figcaption", {}, title, this.now, this.beside);
    if (lines.length > 1) this.beside.replaceWith(this.legend());
    this.figure.append(caption, this.svg, axis);
    parent.append(this.figure);
    this.describe();
  }

  legend() {
    const keys = this.names.map((name, index) => {
      return element("span", {}, element("span", { class: index ? "key second" : "key" }), name);
    });
    return element("span", { class: "legend" }, ...keys);
  }

  // `values` at `time_s`, null where unknown; `mark` is the value of the dashed line, `beside` said after the
  // present value.
  add(time_s, values, { mark = null, beside = "" } = {}) {
    this.points.push({ time_s, values });
    while (this.points[0].time_s < time_s - MOST_MIN * 60) this.points.shift();
    // Grows with what is known, so that the first minute is no empty paper.
    const known_min = Math.ceil((time_s - this.points[0].time_s) / 60);
    this.span_min = Math.min(Math.max(known_min, LEAST_MIN), MOST_MIN);
    say(this.past, `${this.span_min} min ago`);
    this.markValue = mark;
    const known = this.points.flatMap((point) => point.values).filter((value) => value !== null);
    this.high = Math.max(this.floor + this.least, mark ?? 0, ...known) * 1.08;
    this.draw(time_s);
    say(this.now, values.map((value) => (value === null ? UNKNOWN : this.format(value))).join(" / "));
    say(this.beside, beside);
    this.describe();
  }

  draw(end_s) {
    const x = (time_s) => WIDTH - ((end_s - time_s) / (this.span_min * 60)) * WIDTH;
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
    const marked = this.markValue !== null;
    this.mark.setAttribute("visibility", marked ? "visible" : "hidden");
    for (const end of ["y1", "y2"]) this.mark.setAttribute(end, marked ? y(this.markValue) : 0);
  }

  // The text alternative: what a glance at the curve tells.
  describe() {
    const told = this.names.map((name, index) => {
      const values = this.points.map((point) => point.values[index]).filter((value) => value !== null);
      if (!values.length) return `${name}: nothing is known`;
      const [low, high] = [Math.min(...values), Math.max(...values)].map(this.format);
      return `${name}: now ${this.format(values.at(-1))}, between ${low} and ${high}`;
    });
    const mark = this.markValue != null ? `; ${this.markName} ${this.format(this.markValue)}` : "";
    const span = `the last ${this.span_min ?? LEAST_MIN} min`;
    this.svg.setAttribute("aria-label", `${this.title}, ${span}. ${told.join("; ")}${mark}.`);
  }
}

function shape(name, attributes) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
