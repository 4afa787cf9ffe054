"use strict";
// Draws the figures of a report from the data beside them, and lets a person zoom: no library, nothing fetched.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const MARGIN = { left: 62, right: 14, top: 10, bottom: 42 };
  const HEIGHT = 320;

  function make(parent, name, attributes = {}, text = "") {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    parent.append(node);
    return node;
  }

  // An axis is linear, or logarithmic: then its ends, and whatever is added to them, are powers of ten.
  const LINEAR = { from: (value) => value, to: (value) => value };
  const LOG = { from: (value) => Math.log10(value), to: (value) => 10 ** value };

  // One mark for each colour, within a radius of 1; the next eight curves have the same ones hollow.
  const MARKS = [
    "M1 0A1 1 0 1 1 -1 0A1 1 0 1 1 1 0z", "M-.85 -.85H.85V.85H-.85z", "M0 -1.1L1 .75H-1z", "M0 -1.2L1 0L0 1.2L-1 0z",
    "M0 1.1L1 -.75H-1z", "M-.4 -1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4z",
    "M-1 -.5L-.5 -1L0 -.5L.5 -1L1 -.5L.5 0L1 .5L.5 1L0 .5L-.5 1L-1 .5L-.5 0z",
    "M0 -1.3L.35 -.45L1.25 -.4L.55 .15L.8 1.05L0 .55L-.8 1.05L-.55 .15L-1.25 -.4L-.35 -.45z",
  ];
  const DASHES = ["none", "7 4", "2 3", "9 3 2 3"];
  const MARKED = 12; // points of a curve, about; every point of a long one would be a band

  function look(number) {
    const turn = Math.floor(number / MARKS.length);
    const colour = `var(--s${number % MARKS.length})`;
    return { colour, dash: DASHES[turn % DASHES.length], mark: MARKS[number % MARKS.length], fill: turn % 2 ? "var(--card)" : colour };
  }

  function mark(parent, number, x, y, radius) {
    const { colour, mark: d, fill } = look(number);
    const style = `fill:${fill};stroke:${colour};stroke-width:${1.4 / radius}`;
    make(parent, "path", { class: "mark", d, style, transform: `translate(${x} ${y}) scale(${radius})` });
  }

  function ticks(low, high, count, isLog, isWhole = false) {
    if (isLog && high - low > 0.6) {
      for (const [factors, stride] of [[[1, 2, 5], 1], [[1, 3], 1], [[1], 1], [[1], 2], [[1], 5], [[1], 20], [[1], 100]]) {
        const values = [];
        for (let power = Math.floor(low); power <= high; power += stride)
          for (const factor of factors) {
            const at = power + Math.log10(factor);
            if (at >= low && at <= high) values.push({ at, text: +(factor * 10 ** power).toPrecision(1) + "" });
          }
        if (values.length <= count + 2) return values;
      }
    }
    if (isLog) return ticks(10 ** low, 10 ** high, count, false).map(({ at, text }) => ({ at: Math.log10(at), text }));
    const raw = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = Math.max(power * [1, 2, 5, 10].find((factor) => factor * power >= raw), isWhole ? 1 : 0);
    const found = [];
    for (let k = Math.ceil(low / step); k * step <= high * (1 + 1e-12) + 1e-300; k++) found.push(k * step);
    return found.map((value) => ({ at: value, text: words(value, step) }));
  }

  function words(value, step) {
    if (Math.abs(value) >= 1e6 || (value !== 0 && Math.abs(value) < 1e-4)) return value.toExponential(1);
    const text = value.toFixed(Math.min(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)), 6));
    return +text === 0 ? text.replace("-", "") : text; // no minus before a zero
  }

  function extent(curves, axes) {
    const box = { x0: Infinity, x1: -Infinity, y0: Infinity, y1: -Infinity };
    for (const curve of curves) {
      for (let k = 0; k < curve.x.length; k++) {
        const values = [curve.low[k], curve.high[k], curve.y[k]].filter((value) => value !== null);
        if (!values.length) continue;
        box.x0 = Math.min(box.x0, axes.x.from(curve.x[k]));
        box.x1 = Math.max(box.x1, axes.x.from(curve.x[k]));
        box.y0 = Math.min(box.y0, ...values.map(axes.y.from));
        box.y1 = Math.max(box.y1, ...values.map(axes.y.from));
      }
    }
    if (box.x0 > box.x1) return { x0: 0, x1: 1, y0: 0, y1: 1 };
    for (const [a, b] of [["x0", "x1"], ["y0", "y1"]]) {
      const pad = (box[b] - box[a]) * (a === "y0" ? 0.06 : 0.02) || Math.abs(box[a]) * 0.1 || 1;
      box[a] -= pad;
      box[b] += pad;
    }
    return box;
  }

  function chart(figure) {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const svg = figure.querySelector("svg.chart");
    const tip = figure.querySelector(".tip");
    const axes = { x: data.log.x ? LOG : LINEAR, y: data.log.y ? LOG : LINEAR };
    const hidden = new Set();
    let width = 0;
    let view = null; // null: everything that is shown
    let drag = null;

    const shown = () => data.curves.filter((_, number) => !hidden.has(number));
    const box = () => view || extent(shown(), axes);
    const clip = `clip-${figure.id}`;
    const plot = () => ({ w: width - MARGIN.left - MARGIN.right, h: HEIGHT - MARGIN.top - MARGIN.bottom });

    function scales() {
      const b = box();
      const { w, h } = plot();
      return {
        b,
        x: (value) => MARGIN.left + ((axes.x.from(value) - b.x0) / (b.x1 - b.x0)) * w,
        y: (value) => MARGIN.top + (1 - (axes.y.from(value) - b.y0) / (b.y1 - b.y0)) * h,
        atX: (pixel) => b.x0 + ((pixel - MARGIN.left) / w) * (b.x1 - b.x0),
        atY: (pixel) => b.y0 + (1 - (pixel - MARGIN.top) / h) * (b.y1 - b.y0),
      };
    }

    function draw() {
      width = Math.max(svg.clientWidth, 280);
      svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      svg.setAttribute("height", HEIGHT);
      svg.replaceChildren();
      const { b, x, y } = scales();
      const { w, h } = plot();
      make(make(make(svg, "defs"), "clipPath", { id: clip }), "rect", { x: MARGIN.left, y: MARGIN.top, width: w, height: h });
      for (const { at, text } of ticks(b.y0, b.y1, 6, data.log.y)) {
        const place = MARGIN.top + (1 - (at - b.y0) / (b.y1 - b.y0)) * h;
        make(svg, "line", { class: "grid", x1: MARGIN.left, x2: MARGIN.left + w, y1: place, y2: place });
        make(svg, "text", { x: MARGIN.left - 8, y: place + 4, "text-anchor": "end" }, text);
      }
      for (const { at, text } of ticks(b.x0, b.x1, Math.max(3, Math.floor(w / 60)), data.log.x, data.whole)) {
        const place = MARGIN.left + ((at - b.x0) / (b.x1 - b.x0)) * w;
        make(svg, "line", { class: "grid", x1: place, x2: place, y1: MARGIN.top, y2: MARGIN.top + h });
        make(svg, "text", { x: place, y: MARGIN.top + h + 17, "text-anchor": "middle" }, text);
      }
      make(svg, "text", { x: MARGIN.left + w / 2, y: HEIGHT - 6, "text-anchor": "middle" }, data.x_label);
      const middle = MARGIN.top + h / 2;
      make(svg, "text", { x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, data.y_label);
      const inside = make(svg, "g", { "clip-path": `url(#${clip})` });
      data.curves.forEach((curve, number) => {
        if (hidden.has(number)) return;
        const { colour, dash } = look(curve.number);
        const known = curve.x.map((_, k) => k).filter((k) => curve.y[k] !== null);
        if (curve.seeds > 1) {
          const banded = known.filter((k) => curve.low[k] !== null && curve.high[k] !== null);
          const up = banded.map((k) => `${x(curve.x[k])},${y(curve.high[k])}`);
          const down = banded.map((k) => `${x(curve.x[k])},${y(curve.low[k])}`).reverse();
          make(inside, "polygon", { points: [...up, ...down].join(" "), style: `fill:${colour};fill-opacity:.15` });
        }
        const points = known.map((k) => `${x(curve.x[k])},${y(curve.y[k])}`).join(" ");
        const style = `stroke:${colour};fill:none;stroke-width:2;stroke-dasharray:${dash};stroke-linejoin:round`;
        make(inside, "polyline", { class: "curve", points, style });
        const stride = Math.max(1, Math.round(known.length / MARKED));
        known.forEach((k, place) => {
          if (place % stride === curve.number % stride) mark(inside, curve.number, x(curve.x[k]), y(curve.y[k]), 4);
          if (!curve.selected.includes(curve.x[k])) return;
          make(inside, "circle", { class: "selected", cx: x(curve.x[k]), cy: y(curve.y[k]), r: 8, style: `stroke:${colour}` });
        });
      });
    }

    function zoom(factor, centre = null) {
      const b = box();
      const c = centre || { x: (b.x0 + b.x1) / 2, y: (b.y0 + b.y1) / 2 };
      view = {
        x0: c.x - (c.x - b.x0) * factor, x1: c.x + (b.x1 - c.x) * factor,
        y0: c.y - (c.y - b.y0) * factor, y1: c.y + (b.y1 - c.y) * factor,
      };
      draw();
    }

    function pan(x, y) {
      const b = box();
      const [dx, dy] = [x * (b.x1 - b.x0), y * (b.y1 - b.y0)];
      view = { x0: b.x0 + dx, x1: b.x1 + dx, y0: b.y0 + dy, y1: b.y1 + dy };
      draw();
    }

    function reset() {
      view = null;
      draw();
    }

    function position(event) {
      const rectangle = svg.getBoundingClientRect();
      return { px: ((event.clientX - rectangle.left) / rectangle.width) * width, py: event.clientY - rectangle.top };
    }

    function hover({ px, py }) {
      const { x, atX } = scales();
      const all = shown().flatMap((curve) => curve.x);
      svg.querySelector(".cursor")?.remove();
      if (!all.length || px < MARGIN.left || px > width - MARGIN.right) return void (tip.hidden = true);
      const far = (value) => Math.abs(axes.x.from(value) - atX(px));
      const near = all.reduce((best, value) => (far(value) < far(best) ? value : best));
      make(svg, "line", { class: "cursor", x1: x(near), x2: x(near), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom });
      const lines = [`${data.x_label} ${+near.toPrecision(6)}`];
      for (const curve of shown()) {
        const k = curve.x.indexOf(near);
        if (k < 0 || curve.y[k] === null) continue;
        const spread = curve.seeds > 1 ? `  (${+curve.low[k].toPrecision(4)} to ${+curve.high[k].toPrecision(4)})` : "";
        const chosen = curve.selected.includes(near) ? ", selected" : "";
        lines.push(`${curve.name}: ${+curve.y[k].toPrecision(4)}${spread}${chosen}`);
      }
      tip.replaceChildren(...lines.slice(0, 14).map((line) => Object.assign(document.createElement("div"), { textContent: line })));
      tip.hidden = false;
      const left = svg.offsetLeft + px + 14;
      tip.style.left = `${left + tip.offsetWidth > svg.offsetLeft + width ? left - tip.offsetWidth - 28 : left}px`;
      tip.style.top = `${svg.offsetTop + Math.min(py + 12, HEIGHT - 60)}px`;
    }

    svg.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch") return;
      svg.setPointerCapture(event.pointerId);
      drag = position(event);
    });
    svg.addEventListener("pointermove", (event) => {
      const now = position(event);
      if (!drag) return hover(now);
      tip.hidden = true;
      svg.querySelector(".select")?.remove();
      make(svg, "rect", {
        class: "select", x: Math.min(drag.px, now.px), y: Math.min(drag.py, now.py),
        width: Math.abs(now.px - drag.px), height: Math.abs(now.py - drag.py),
      });
    });
    svg.addEventListener("pointerup", (event) => {
      if (!drag) return;
      const [from, to] = [drag, position(event)];
      drag = null;
      if (Math.abs(to.px - from.px) < 6 || Math.abs(to.py - from.py) < 6) return void svg.querySelector(".select")?.remove();
      const { atX, atY } = scales();
      const [x0, x1] = [atX(from.px), atX(to.px)].sort((a, b) => a - b);
      const [y0, y1] = [atY(from.py), atY(to.py)].sort((a, b) => a - b);
      view = { x0, x1, y0, y1 };
      draw();
    });
    svg.addEventListener("pointercancel", () => { drag = null; draw(); });
    svg.addEventListener("pointerleave", () => { if (!drag) { tip.hidden = true; svg.querySelector(".cursor")?.remove(); } });
    svg.addEventListener("dblclick", reset);
    svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.shiftKey) return; // plain scrolling stays scrolling
      event.preventDefault();
      const { px, py } = position(event);
      const { atX, atY } = scales();
      zoom(event.deltaY + event.deltaX > 0 ? 1.25 : 0.8, { x: atX(px), y: atY(py) });
    }, { passive: false });
    svg.addEventListener("keydown", (event) => {
      const keys = {
        "+": () => zoom(0.8), "=": () => zoom(0.8), "-": () => zoom(1.25), "0": reset, Escape: reset,
        ArrowLeft: () => pan(-0.1, 0), ArrowRight: () => pan(0.1, 0), ArrowUp: () => pan(0, 0.1), ArrowDown: () => pan(0, -0.1),
      };
      if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });

    const tools = { in: () => zoom(0.7), out: () => zoom(1 / 0.7), reset, size: () => { figure.classList.toggle("large"); draw(); } };
    for (const button of figure.querySelectorAll("[data-tool]")) button.addEventListener("click", () => tools[button.dataset.tool]());

    const legend = figure.querySelector(".legend");
    data.curves.forEach((curve, number) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      const line = document.createElementNS(SVG, "svg");
      line.setAttribute("viewBox", "0 0 30 12");
      const { colour, dash } = look(curve.number);
      make(line, "line", { x1: 1, x2: 29, y1: 6, y2: 6, style: `stroke:${colour};stroke-width:2;stroke-dasharray:${dash}` });
      mark(line, curve.number, 15, 6, 4);
      button.append(line, curve.name);
      button.addEventListener("click", () => {
        if (!hidden.delete(number)) hidden.add(number);
        button.setAttribute("aria-pressed", String(!hidden.has(number)));
        draw();
      });
      legend.append(button);
    });

    draw();
    let last = 0;
    new ResizeObserver(() => {
      if (svg.clientWidth !== last) { last = svg.clientWidth; requestAnimationFrame(draw); }
    }).observe(svg);
  }

  for (const figure of document.querySelectorAll("figure[data-chart]")) chart(figure);

  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      getSelection().selectAllChildren(code); // whatever the browser allows: the text is at least selected
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "copied";
      } catch {
        button.textContent = "selected";
      }
      setTimeout(() => { button.textContent = "copy"; }, 1200);
    });
  }
})();
