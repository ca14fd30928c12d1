// The token map: pictures painted by the server, and what the mouse points at drawn over them.
//
// `props.value` is the JSON text that tcformer/serve/payload.py writes. Maps of cells to tokens come
// with it, so pointing at a token needs no request. Positions are cells of a view's grid; a panel
// knows its view and its stage. Stage 0 is the picture itself.

const CELL = 4; // side of a cell in pixels of what the network saw

const DARK = "rgba(0, 0, 0, 0.55)";
const MARK = "#ffd400"; // around the token
const KIN = "#ffffff"; // around the later token it went into
const RANDOM =
  "The weights are random: these names mean nothing, and tokens follow what the picture looks like, not what a trained network finds important.";
const MOST_CHIPS = 24; // tokens that are listed by name; the rest is a number

const root = element.querySelector(".tcf-map");
let data = null; // the page's data, maps unpacked
let panels = []; // {view, stage, canvas}
let stage = 0;
let pinned = null; // {view, stage, token, cell}
let cursor = null; // the cell that the arrow keys move

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text; // never as HTML: names come from files
  return made;
}

function unpack(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Kind(bytes.buffer);
}

function read(text) {
  const read = JSON.parse(text);
  for (const view of read.views) {
    for (const level of view.stages) {
      level.map = unpack(level.map, Uint16Array);
      level.cells = unpack(level.cells, Uint32Array);
      level.colours = unpack(level.colours, Uint8Array);
      level.into = unpack(level.into, Uint16Array);
    }
  }
  return read;
}

const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

function colour(level, token) {
  const [red, green, blue] = level.colours.subarray(3 * token, 3 * token + 3);
  return `#${[red, green, blue].map((part) => part.toString(16).padStart(2, "0")).join("")}`;
}

// ---- what belongs together ---------------------------------------------------------------------

// The token of each stage that has to do with `token` of `from`: itself, and what it became.
function descendant(view, from, token, to) {
  for (let level = from; level < to; level++) token = view.stages[level - 1].into[token];
  return token;
}

// The tokens of stage `to` (earlier) that merged into `token` of `from`, largest first.
function ancestors(view, from, token, to) {
  const own = view.stages[from - 1].map;
  const earlier = view.stages[to - 1];
  const found = new Set();
  for (let cell = 0; cell < own.length; cell++) if (own[cell] === token) found.add(earlier.map[cell]);
  return [...found].sort((a, b) => earlier.cells[b] - earlier.cells[a] || a - b);
}

// ---- drawing -----------------------------------------------------------------------------------

function outline(context, view, map, token, paint) {
  const [rows, columns] = view.grid;
  const unit = CELL * view.scale;
  context.strokeStyle = paint;
  context.lineWidth = Math.max(3, unit / 4);
  context.beginPath();
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const cell = row * columns + column;
      if (map[cell] !== token) continue;
      const [left, top] = [column * unit, row * unit];
      const right = Math.min(left + unit, context.canvas.width);
      const bottom = Math.min(top + unit, context.canvas.height);
      if (row === 0 || map[cell - columns] !== token) context.moveTo(left, top), context.lineTo(right, top);
      if (row === rows - 1 || map[cell + columns] !== token) context.moveTo(left, bottom), context.lineTo(right, bottom);
      if (column === 0 || map[cell - 1] !== token) context.moveTo(left, top), context.lineTo(left, bottom);
      if (column === columns - 1 || map[cell + 1] !== token) context.moveTo(right, top), context.lineTo(right, bottom);
    }
  }
  context.stroke();
}

function drawPanel(panel, focus) {
  const context = panel.canvas.getContext("2d");
  const { width, height } = panel.canvas;
  context.clearRect(0, 0, width, height);
  if (!focus) return;
  const view = data.views[panel.view];
  const { from, token } = focus[panel.view];
  const own = view.stages[from - 1].map;
  // Later stages show all of the token that it went into, and inside it what it was.
  const later = panel.stage > from ? view.stages[panel.stage - 1].map : own;
  const lit = panel.stage > from ? descendant(view, from, token, panel.stage) : token;
  const columns = view.grid[1];
  const unit = CELL * view.scale;
  context.fillStyle = DARK;
  context.fillRect(0, 0, width, height);
  for (let cell = 0; cell < later.length; cell++) {
    if (later[cell] !== lit) continue;
    context.clearRect((cell % columns) * unit, Math.floor(cell / columns) * unit, unit, unit);
  }
  if (panel.stage > from) outline(context, view, later, lit, KIN);
  outline(context, view, own, token, MARK);
}

// ---- what the pointer means --------------------------------------------------------------------

// In every view the token of this stage that covers the middle of the cell.
function focusAt(view, at, cell) {
  const [rows, columns] = data.views[view].grid;
  const down = (Math.floor(cell / columns) + 0.5) / rows;
  const across = ((cell % columns) + 0.5) / columns;
  return data.views.map((other) => {
    const from = Math.min(at || other.stages.length, other.stages.length);
    const there = Math.floor(down * other.grid[0]) * other.grid[1] + Math.floor(across * other.grid[1]);
    return { from, token: other.stages[from - 1].map[there] };
  });
}

function show(view, at, cell) {
  const focus = cell === null ? null : focusAt(view, at, cell);
  for (const panel of panels) drawPanel(panel, focus);
  data.views.forEach((_, index) => tell(index, focus && focus[index]));
}

function rest() {
  if (pinned) show(pinned.view, pinned.stage, pinned.cell);
  else show(0, stage, null);
}

function cellUnder(event, panel) {
  const view = data.views[panel.view];
  const box = panel.canvas.getBoundingClientRect();
  const [rows, columns] = view.grid;
  const x = ((event.clientX - box.left) / box.width) * view.size[1];
  const y = ((event.clientY - box.top) / box.height) * view.size[0];
  const column = Math.min(columns - 1, Math.max(0, Math.floor(x / CELL)));
  const row = Math.min(rows - 1, Math.max(0, Math.floor(y / CELL)));
  return row * columns + column;
}

function pin(view, at, cell) {
  const from = at || data.views[view].stages.length;
  const token = data.views[view].stages[from - 1].map[cell];
  const same = pinned && pinned.view === view && pinned.stage === from && pinned.token === token;
  pinned = same ? null : { view, stage: from, token, cell };
  cursor = cell;
  rest();
}

function firstCell(view, from, token) {
  return data.views[view].stages[from - 1].map.indexOf(token);
}

function goTo(view, from, token) {
  choose(from);
  pinned = null;
  pin(view, from, firstCell(view, from, token));
}

// ---- words -------------------------------------------------------------------------------------

function chip(view, from, token) {
  const level = data.views[view].stages[from - 1];
  const made = make("button", "tcf-chip", `${token}`);
  made.type = "button";
  made.title = `token ${token} of stage ${from}, ${count(level.cells[token], "cell")}`;
  made.setAttribute("aria-label", made.title);
  const swatch = make("span", "tcf-swatch");
  swatch.style.background = colour(level, token);
  made.prepend(swatch);
  made.addEventListener("click", () => goTo(view, from, token));
  return made;
}

function tell(index, focus) {
  const place = root.querySelectorAll(".tcf-facts")[index];
  place.replaceChildren();
  if (!focus) {
    place.append(make("p", "tcf-hint", "Point at the picture, or tap it, to see a token."));
    return;
  }
  const view = data.views[index];
  const level = view.stages[focus.from - 1];
  const { token } = focus;
  const held = pinned && pinned.view === index && pinned.stage === focus.from && pinned.token === token;
  const cells = level.cells[token];
  const share = (100 * cells) / level.map.length;
  const title = make("p", "tcf-token");
  const swatch = make("span", "tcf-swatch");
  swatch.style.background = colour(level, token);
  title.append(
    swatch,
    make("strong", "", `Token ${token} of stage ${focus.from}`),
    ` ${count(cells, "cell")} (${share < 0.1 ? "less than 0.1" : share.toFixed(1)} % of the picture), ` +
      `mean colour ${colour(level, token)}${held ? ", pinned" : ""}`
  );
  place.append(title);
  const from = make("p", "tcf-from");
  if (focus.from === 1) {
    from.append("Came from: the grid, it is one of its cells.");
  } else {
    from.append("Came from: ");
    const before = ancestors(view, focus.from, token, focus.from - 1);
    const words = [];
    for (let at = focus.from - 1; at >= 1; at--)
      words.push(`${count((at === focus.from - 1 ? before : ancestors(view, focus.from, token, at)).length, "token")} of stage ${at}`);
    from.append(`${words.join(", ")}. `);
    if (held) {
      const shown = before.slice(0, MOST_CHIPS);
      from.append(...shown.map((each) => chip(index, focus.from - 1, each)));
      if (before.length > shown.length) from.append(` and ${before.length - shown.length} more`);
    }
  }
  place.append(from);
  const to = make("p", "tcf-to");
  if (focus.from === view.stages.length) {
    to.append("Went to: the classifier, with the other tokens of the last stage.");
  } else {
    const next = level.into[token];
    const later = view.stages[focus.from];
    to.append(`Went into: token ${next} of stage ${focus.from + 1} (${count(later.cells[next], "cell")}). `);
    if (held) to.append(chip(index, focus.from + 1, next));
  }
  place.append(to);
  if (held) place.append(make("p", "tcf-hint", "Click it again, or press Escape, to let go."));
}

// ---- building the page -------------------------------------------------------------------------

function panel(index, at, picture, alt) {
  const view = data.views[index];
  const frame = make("span", "tcf-panel");
  const image = make("img");
  image.src = picture;
  image.alt = alt;
  image.draggable = false;
  const canvas = make("canvas");
  canvas.width = view.size[1] * view.scale;
  canvas.height = view.size[0] * view.scale;
  frame.append(image, canvas);
  const made = { view: index, stage: at, canvas, image };
  panels.push(made);
  frame.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "touch" && !pinned) show(index, made.stage, cellUnder(event, made));
  });
  frame.addEventListener("pointerleave", rest);
  return [frame, made];
}

function stageName(view, at) {
  if (at === 0) return `the picture as the network sees it, ${view.size[1]} x ${view.size[0]} pixels`;
  return `stage ${at}: ${count(view.stages[at - 1].count, "token")}`;
}

function choose(at) {
  stage = Math.max(0, Math.min(at, Number(slider.max)));
  slider.value = String(stage);
  data.views.forEach((view, index) => {
    const big = panels.find((each) => each.big && each.view === index);
    big.stage = Math.min(stage, view.stages.length);
    big.image.src = big.stage === 0 ? view.picture : view.stages[big.stage - 1].painted;
    big.image.alt = `${data.name}, ${stageName(view, big.stage)}`;
    root.querySelectorAll(".tcf-now")[index].textContent = stageName(view, big.stage);
  });
  for (const button of root.querySelectorAll(".tcf-thumb"))
    button.setAttribute("aria-pressed", String(Number(button.dataset.stage) === stage));
  slider.setAttribute("aria-valuetext", stageName(data.views[0], stage));
  rest();
}

const slider = make("input", "tcf-slider");
slider.type = "range";
slider.min = "0";
slider.step = "1";
slider.addEventListener("input", () => choose(Number(slider.value)));

function predictions(view) {
  const box = make("div", "tcf-top");
  box.append(make("h4", "", view.top.length ? `Top ${view.top.length}` : "No classes"));
  if (view.random) box.append(make("p", "tcf-warning", RANDOM));
  else for (const note of view.notes) box.append(make("p", "tcf-hint", note));
  if (!view.top.length) box.append(make("p", "tcf-hint", "This network has no classifier."));
  const list = make("ol");
  for (const [name, share] of view.top) {
    const item = make("li");
    const bar = make("span", "tcf-bar");
    bar.style.width = `${Math.max(0.5, 100 * share)}%`;
    const track = make("span", "tcf-track");
    track.append(bar);
    item.append(make("span", "tcf-name", name), make("span", "tcf-share", `${(100 * share).toFixed(1)} %`), track);
    list.append(item);
  }
  box.append(list);
  return box;
}

function buildView(view, index) {
  const section = make("section", "tcf-view");
  section.setAttribute("aria-label", view.label);
  section.append(make("h3", "", view.label));
  const [frame, big] = panel(index, stage, view.picture, data.name);
  big.big = true;
  frame.classList.add("tcf-big");
  frame.tabIndex = 0;
  frame.setAttribute("role", "img");
  frame.setAttribute("aria-label", "The picture by its tokens. Arrow keys move, Enter pins a token, Escape lets go.");
  frame.addEventListener("click", (event) => pin(index, big.stage, cellUnder(event, big)));
  frame.addEventListener("keydown", (event) => walk(event, index, big.stage));
  section.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    pinned = null;
    rest();
  });
  const strip = make("div", "tcf-strip");
  for (let at = 0; at <= view.stages.length; at++) {
    const button = make("button", "tcf-thumb");
    button.type = "button";
    button.dataset.stage = String(at);
    const [small] = panel(index, at, at ? view.stages[at - 1].painted : view.picture, "");
    button.append(small, make("span", "tcf-caption", at ? `${at}: ${view.stages[at - 1].count}` : "picture"));
    button.setAttribute("aria-label", `show ${stageName(view, at)}`);
    button.addEventListener("click", () => choose(at));
    strip.append(button);
  }
  const facts = make("div", "tcf-facts");
  facts.setAttribute("aria-live", "polite");
  const left = make("div", "tcf-left");
  left.append(make("p", "tcf-now"), frame, strip);
  const right = make("div", "tcf-right");
  right.append(facts, predictions(view));
  const body = make("div", "tcf-body");
  body.append(left, right);
  section.append(body);
  return section;
}

function walk(event, view, at) {
  const [rows, columns] = data.views[view].grid;
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  if (event.key === "Enter" || event.key === " ") {
    pin(view, at, cursor ?? Math.floor(rows / 2) * columns + Math.floor(columns / 2));
  } else if (steps[event.key]) {
    const now = cursor ?? Math.floor(rows / 2) * columns + Math.floor(columns / 2);
    const row = Math.min(rows - 1, Math.max(0, Math.floor(now / columns) + steps[event.key][0]));
    const column = Math.min(columns - 1, Math.max(0, (now % columns) + steps[event.key][1]));
    cursor = row * columns + column;
    pinned = null;
    show(view, at, cursor);
  } else {
    return;
  }
  event.preventDefault();
}

function build() {
  if (!props.value) return;
  const first = data === null;
  data = read(props.value);
  panels = [];
  pinned = null;
  cursor = null;
  const last = Math.max(...data.views.map((view) => view.stages.length));
  const wished = first ? last : Math.min(stage, last);
  slider.max = String(last);
  root.replaceChildren();
  const head = make("div", "tcf-head");
  const [height, width] = data.original;
  head.append(make("p", "tcf-title", `${data.name}: ${width} x ${height} pixels`));
  const label = make("label", "tcf-stage");
  label.append(make("span", "", "Stage"), slider);
  const ticks = make("span", "tcf-ticks");
  for (let at = 0; at <= last; at++) ticks.append(make("span", "", at ? `${at}` : "picture"));
  label.append(ticks);
  head.append(label);
  const views = make("div", "tcf-views");
  root.append(head, views);
  views.append(...data.views.map(buildView));
  choose(wished);
  root.dataset.ready = String(data.serial);
  // On a phone the map is below the choices: go there when something was chosen.
  if (!first && root.getBoundingClientRect().top > window.innerHeight - 100)
    root.scrollIntoView({ behavior: "smooth", block: "start" });
}

watch("value", build);
build();
