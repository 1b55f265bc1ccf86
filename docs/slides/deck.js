// From the ideas of a notebook to slides: as many for each as it needs, so that nothing is cut off, with whatever letters
// this machine has. Then reveal.js shows them.

const WIDTH = 1200; // of what stands on a slide
const HEIGHT = 664; // down to the slide's number
const SHARP = 1120; // a figure as wide as this has letters of 18 points
const BEGIN = ["title", "question", "effort", "sliders"]; // each of these begins a slide
const END = ["guess", "sliders"]; // after these come choices, and then another slide
const RESULTS = ["code", "text", "table", "figure"]; // the next code is another idea
const slides = document.querySelector(".slides");

function turn(idea) {
  const title = idea.dataset.title;
  const queue = [...idea.children];
  let flow = newPage(title);
  while (queue.length) {
    const block = queue.shift();
    const kind = block.className;
    if (kind === "notes") {
      flow.append(block);
      continue;
    }
    if (begins(kind, flow) && !isEmpty(flow)) flow = newPage(title, "again");
    const alone = isEmpty(flow);
    if (!alone && block.dataset.step !== undefined) block.classList.add("fragment");
    flow.append(block);
    enlarge(block, flow);
    const picture = kind === "figure" && block.querySelector("img");
    if (!overflows(flow) && (alone || !picture || picture.offsetWidth >= SHARP)) continue;
    if (!alone && kind !== "figure" && shrinkFigure(flow)) continue;
    if (alone) {
      const rest = splitOff(block, flow);
      if (rest) queue.unshift(rest);
    } else {
      block.classList.remove("fragment");
      queue.unshift(block);
    }
    if (queue.length) flow = newPage(title, "again");
  }
}

function begins(kind, flow) {
  const has = (kinds) => kinds.some((other) => flow.querySelector(`.${other}`));
  return BEGIN.includes(kind) || (kind !== "choices" && has(END)) || (kind === "code" && has(RESULTS));
}

// A slide under its title, which is large where an idea begins.
function newPage(title, className = "") {
  const flow = Object.assign(document.createElement("div"), { className: "flow" });
  if (title) flow.append(Object.assign(document.createElement("h2"), { textContent: title, className }));
  const page = Object.assign(document.createElement("section"), { className: "page measured" });
  page.append(flow);
  slides.append(page);
  return flow;
}

function overflows(flow) {
  return flow.offsetHeight > HEIGHT || flow.scrollWidth > WIDTH;
}

function isEmpty(flow) {
  return [...flow.children].every(({ tagName }) => ["H2", "ASIDE"].includes(tagName));
}

// Figures and sliders are as large as the slide allows.
function enlarge(block, flow) {
  const picture = block.querySelector("img");
  const explorer = block.querySelector(".lora-explorer");
  if (explorer) enlargeSliders(explorer, flow);
  else if (picture && block.className === "figure") {
    picture.style.height = 0;
    const room = HEIGHT - flow.offsetHeight;
    const width = Math.min(WIDTH, (room * picture.naturalWidth) / picture.naturalHeight);
    Object.assign(picture.style, { width: `${width}px`, height: "auto" });
  }
}

// The sliders stand above the picture where its letters then have 18 points, and beside it where it would be too high.
function enlargeSliders(explorer, flow) {
  const canvas = explorer.querySelector("canvas");
  const width = parseFloat(canvas.style.width);
  for (const [place, least] of [["above", SHARP / width], ["beside", 0.5]]) {
    explorer.classList.remove("above");
    explorer.classList.add(place);
    for (let zoom = WIDTH / width; zoom >= least; zoom -= 0.01) {
      canvas.style.zoom = zoom;
      if (!overflows(flow)) return;
    }
  }
}

// A sentence under a figure may cost it some of its size, but not so much that its letters grow too small.
function shrinkFigure(flow) {
  const picture = flow.querySelector(".figure img");
  if (!picture || picture.offsetWidth <= SHARP) return false;
  const before = picture.style.width;
  picture.style.width = `${SHARP}px`;
  if (!overflows(flow)) return true;
  picture.style.width = before;
  return false;
}

// What does not fit on a slide of its own: columns, rows, lines or paragraphs, in a copy of their block. null if it can't
// be split.
function splitOff(block, flow) {
  const rest = block.cloneNode(true);
  if (flow.scrollWidth > WIDTH && block.querySelector("tr")) return splitColumns(block, rest, flow);
  const [here, there] = [block, rest].map(splittable);
  there.replaceChildren();
  while (here.children.length > 1 && overflows(flow)) there.prepend(here.lastElementChild);
  return there.children.length ? rest : null;
}

function splitColumns(block, rest, flow) {
  const [here, there] = [block, rest].map((part) => [...part.querySelectorAll("tr")]);
  for (const row of there) while (row.children.length > 1) row.lastElementChild.remove();
  while (flow.scrollWidth > WIDTH && here[0].children.length > 2)
    here.forEach((row, i) => there[i].firstElementChild.after(row.lastElementChild));
  return there[0].children.length > 1 ? rest : null;
}

function splittable(block) {
  let inside = block.querySelector("tbody") ?? block;
  while (inside.children.length === 1) inside = inside.firstElementChild;
  return inside;
}

// Where there are few words, they are larger.
function raiseVoice(flow) {
  if (isEmpty(flow) || flow.querySelector("pre, img, canvas, h1")) return;
  for (const larger of [1.35, 1.25, 1.15, 1]) {
    flow.style.fontSize = `${32 * larger}px`;
    flow.style.setProperty("--table", `${26 * larger}px`);
    if (flow.offsetHeight < 0.85 * HEIGHT && flow.scrollWidth <= WIDTH) return;
  }
}

// Sliders unpack their positions first.
async function painted(explorer) {
  while (!explorer.querySelector("canvas[data-position]")) await new Promise((go) => setTimeout(go, 20));
}

// Arrow keys belong to the slider that has the focus. A clicker's keys, and Escape, belong to the speaker.
function listenToClicker() {
  const turns = { PageDown: () => Reveal.next(), PageUp: () => Reveal.prev() };
  const listen = (event) => {
    const inside = document.activeElement.closest(".lora-explorer");
    if (!inside || !(event.key in turns || event.key === "Escape")) return;
    event.preventDefault();
    document.activeElement.blur();
    turns[event.key]?.();
  };
  document.addEventListener("keydown", listen, true);
}

// The tabulator key finds the sliders of this slide, and not those of the next.
function focusOnlyHere() {
  for (const page of slides.children) page.inert = page !== Reveal.getCurrentSlide();
}

async function begin() {
  const source = document.getElementById("ideas");
  await MathJax.startup.promise;
  await Promise.all([...source.querySelectorAll("img")].map((picture) => picture.decode()));
  await Promise.all([...source.querySelectorAll(".sliders > [id]")].map(painted));
  source.className = "page measured"; // mathematics is as large as the letters beside it
  await MathJax.typesetPromise([source]);
  for (const idea of [...source.children]) turn(idea);
  document.querySelectorAll(".flow").forEach(raiseVoice);
  source.remove();
  for (const page of document.querySelectorAll(".measured")) page.classList.remove("measured");
  listenToClicker();
  await Reveal.initialize({
    width: 1280,
    height: 720,
    margin: 0,
    center: false,
    hash: true,
    slideNumber: "c/t",
    transition: "none",
    pdfSeparateFragments: false,
    pdfMaxPagesPerSlide: 1,
    totalTime: Number(document.body.dataset.seconds),
    keyboardCondition: (event) => !event.target.closest?.(".lora-explorer"),
    plugins: [RevealNotes],
  });
  Reveal.on("slidechanged", focusOnlyHere);
  focusOnlyHere();
  document.body.dataset.ready = "yes";
}

begin();
