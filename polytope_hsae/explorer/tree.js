// The tree of concepts and, beside it, the polytope of one concept's children with their held-out words.
// Model: nodes [{id, label, parent, title}], selected (an id), polytope {title, note, vertices, words, edges}: see
// tree.py.
// Text from a run is only ever set as textContent. Nothing is loaded from anywhere.
const SVG = "http://www.w3.org/2000/svg";
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#a0522d", "#555555"];
const SIZE = { width: 560, height: 440, margin: 60 };

function make(name, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

function html(name, className, text = "") {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  return element;
}

// Turn a point about the vertical axis, then about the horizontal one.
function turned([x, y, z], [yaw, pitch]) {
  const [across, away] = [x * Math.cos(yaw) + z * Math.sin(yaw), z * Math.cos(yaw) - x * Math.sin(yaw)];
  return [across, y * Math.cos(pitch) - away * Math.sin(pitch), away * Math.cos(pitch) + y * Math.sin(pitch)];
}

const solid = (shape) => [...shape.vertices, ...shape.words].some((p) => Math.abs(p.at[2] || 0) > 1e-9);

function draw(svg, shape, angles) {
  svg.replaceChildren();
  const all = [...shape.vertices, ...shape.words].map((p) => Math.hypot(...p.at));
  const room = Math.min(SIZE.width, SIZE.height) / 2 - SIZE.margin / 2;
  const scale = room / Math.max(...all, 1e-9);
  const place = (point) => {
    const [x, y, depth] = turned([point.at[0], point.at[1], point.at[2] || 0], angles);
    return { x: SIZE.width / 2 + scale * x, y: SIZE.height / 2 - scale * y, depth };
  };
  const corners = shape.vertices.map(place);
  for (const [a, b] of shape.edges) {
    const ends = { x1: corners[a].x, y1: corners[a].y, x2: corners[b].x, y2: corners[b].y };
    svg.append(make("line", { ...ends, class: "edge" }));
  }
  const words = shape.words.map((word) => ({ ...word, ...place(word) })).sort((a, b) => a.depth - b.depth);
  for (const word of words) {
    const fill = COLOURS[word.owner % COLOURS.length];
    const dot = make("circle", { cx: word.x, cy: word.y, r: 3.5, class: "word", fill });
    dot.append(make("title", {}, `${word.label}, a held-out word of ${shape.vertices[word.owner].label}`));
    svg.append(dot);
  }
  shape.vertices.forEach((vertex, i) => {
    const fill = COLOURS[i % COLOURS.length];
    const square = { x: corners[i].x - 6, y: corners[i].y - 6, width: 12, height: 12 };
    svg.append(make("rect", { ...square, class: "vertex", fill }));
    const [x, above] = [corners[i].x, corners[i].y < SIZE.height / 2];
    const anchor = x < 90 ? "start" : x > SIZE.width - 90 ? "end" : "middle";
    const end = { x, y: corners[i].y + (above ? -12 : 22), "text-anchor": anchor }; // outwards, clear of the words
    svg.append(make("text", { ...end, class: "label" }, vertex.label));
  });
}

// The tree as nested lists; a node with children opens and shuts, and every node can be chosen.
function branch(nodes, parent, model) {
  const list = html("ul", "tree");
  for (const node of nodes.filter((n) => n.parent === parent)) {
    const item = document.createElement("li");
    const [toggle, name] = [html("button", "toggle"), html("button", "node", node.label)];
    name.dataset.id = node.id;
    name.title = node.title;
    name.onclick = () => {
      model.set("selected", node.id);
      model.save_changes();
    };
    item.append(toggle, name);
    const inner = branch(nodes, node.id, model);
    if (inner.children.length) {
      const open = (yes) => {
        inner.hidden = !yes;
        toggle.textContent = yes ? "▾" : "▸";
        toggle.setAttribute("aria-label", `${yes ? "shut" : "open"} ${node.label}`);
      };
      toggle.onclick = () => open(inner.hidden);
      inner.reveal = () => open(true);
      open(nodes.length <= 200);
      item.append(inner);
    } else toggle.style.visibility = "hidden";
    list.append(item);
  }
  return list;
}

function turnable(svg, state, redraw) {
  let from = null;
  svg.onpointerdown = (event) => {
    from = [event.clientX, event.clientY];
    svg.setPointerCapture(event.pointerId);
  };
  svg.onpointermove = (event) => {
    if (!from || !state.solid) return;
    state.angles = [
      state.angles[0] + (event.clientX - from[0]) / 120,
      state.angles[1] + (event.clientY - from[1]) / 120,
    ];
    from = [event.clientX, event.clientY];
    redraw();
  };
  svg.onpointerup = svg.onpointercancel = () => (from = null);
  const steps = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] };
  svg.onkeydown = (event) => {
    const step = steps[event.key];
    if (!step || !state.solid) return;
    event.preventDefault();
    event.stopPropagation();
    state.angles = state.angles.map((angle, i) => angle + step[i]);
    redraw();
  };
}

function render({ model, el }) {
  el.classList.add("polytope-tree");
  const [side, view] = [html("nav", "side"), html("div", "view")];
  side.setAttribute("aria-label", "concepts");
  const [title, note] = [html("div", "title"), html("div", "note")];
  const svg = make("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, tabindex: "0", role: "img" });
  view.append(title, svg, note);
  el.append(side, view);
  const state = { angles: [0, 0], solid: false };
  const redraw = () => draw(svg, model.get("polytope"), state.angles);
  const mark = () => {
    for (const name of side.querySelectorAll(".node")) {
      name.removeAttribute("aria-current");
      if (name.dataset.id !== model.get("selected")) continue;
      name.setAttribute("aria-current", "true");
      for (let list = name.closest("ul"); list; list = list.parentElement.closest("ul")) list.reveal?.();
      const [place, frame] = [name.getBoundingClientRect(), side.getBoundingClientRect()];
      if (place.top < frame.top || place.bottom > frame.bottom) side.scrollTop += place.top - frame.top - 60;
    }
  };
  const grow = () => {
    side.replaceChildren(branch(model.get("nodes"), "", model));
    mark();
  };
  const show = () => {
    const shape = model.get("polytope");
    state.solid = solid(shape);
    state.angles = state.solid ? [0.5, 0.35] : [0, 0];
    title.textContent = shape.title;
    note.textContent = shape.note + (state.solid ? " Drag, or press the arrow keys, to turn it." : "");
    svg.setAttribute("aria-label", `${shape.title}. ${shape.note}`);
    redraw();
  };
  turnable(svg, state, redraw);
  model.on("change:nodes", grow);
  model.on("change:selected", mark);
  model.on("change:polytope", show);
  grow();
  show();
  return () => {
    model.off("change:nodes", grow);
    model.off("change:selected", mark);
    model.off("change:polytope", show);
  };
}

export default { render };
