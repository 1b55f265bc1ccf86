// Sliders and one canvas. Python says what moved, this side paints it over a background that never changes. It remembers
// every position it has seen, so that one that was there before is shown at once, and asks for one at a time, always the
// newest.
async function render({ model, el }) {
  const sliders = model.get("sliders"); // [{ name, label, options: ["1", "2", …] }]
  const position = [...model.get("position")]; // the index of each slider's option
  const seen = new Map(Object.entries(model.get("frames"))); // "3,0" → { alt, artists: [[command, …], …], error }
  let asked = null; // the position that Python is working on now
  let touched = false; // nothing is asked for ahead while the notebook only runs, nor for a reader who scrolls past
  let asking; // a timer, for the case that the answer never comes
  let saving; // a timer: Python hears of a new position once the hand rests, so that a picture never waits for it

  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  const status = document.createElement("p");
  const spoken = document.createElement("p"); // seen by nobody: a screen reader says it
  for (const text of [status, spoken]) text.setAttribute("role", "status");
  spoken.className = "spoken";
  const controls = document.createElement("div");
  for (const event of ["focusin", "pointerenter"]) controls.addEventListener(event, touch);
  el.classList.add("lora-explorer");
  el.replaceChildren(controls, canvas, status, spoken);

  const inputs = sliders.map(({ name, label, options }, i) => {
    const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: options.length - 1 });
    input.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes the arrow keys
    input.dataset.name = name;
    input.setAttribute("aria-label", label);
    input.addEventListener("input", () => move(i, Number(input.value)));
    const number = document.createElement("output");
    number.setAttribute("aria-hidden", "true"); // the slider says its value itself
    const row = document.createElement("label");
    row.append(label, input, number);
    controls.append(row);
    return { input, number };
  });

  function touch() {
    touched = true;
    ask();
  }

  function move(i, index) {
    touched = true;
    position[i] = index;
    show();
    clearTimeout(saving);
    saving = setTimeout(rest, 150);
  }

  function rest() {
    spoken.textContent = canvas.getAttribute("aria-label");
    model.set("position", [...position]);
    model.save_changes();
  }

  function show() {
    inputs.forEach(({ input, number }, i) => {
      input.value = position[i];
      number.textContent = sliders[i].options[position[i]];
      input.setAttribute("aria-valuetext", number.textContent);
    });
    const frame = seen.get(position.join());
    if (!frame) return ask();
    if (canvas.dataset.position !== position.join()) {
      if (frame.artists) paint(canvas, background, model.get("size"), frame.artists.flat());
      if (frame.alt) canvas.setAttribute("aria-label", frame.alt);
      canvas.dataset.position = position.join();
      status.textContent = frame.error ?? "";
    }
    setTimeout(ask, 30); // the screen comes first
  }

  function ask() {
    if (asked !== null) return;
    const key = wanted().find((key) => !seen.has(key));
    if (key === undefined) return;
    asked = key;
    model.send({ ask: key.split(",").map(Number) });
    asking = setTimeout(() => ((asked = null), ask()), 10000);
  }

  // The position shown first, then, once the sliders are in use and nobody is asking for anything, its neighbours.
  function wanted() {
    const keys = [position.join()];
    if (!touched || !seen.has(keys[0])) return keys;
    for (const step of [1, -1])
      sliders.forEach(({ options }, i) => {
        const next = position[i] + step;
        if (next >= 0 && next < options.length) keys.push(position.with(i, next).join());
      });
    return keys;
  }

  function answered(message) {
    if (message.key === undefined) return;
    seen.set(message.key, message);
    if (asked === message.key) {
      clearTimeout(asking);
      asked = null;
    }
    show();
  }

  function moved() {
    if (position.join() === model.get("position").join()) return;
    position.splice(0, position.length, ...model.get("position"));
    show();
  }

  const background = Object.assign(new Image(), { src: model.get("background") });
  await background.decode();
  model.on("msg:custom", answered);
  model.on("change:position", moved);
  show();
  return () => {
    clearTimeout(saving);
    model.off("msg:custom", answered);
    model.off("change:position", moved);
  };
}

// The background and the commands over it, as fine as the screen is.
function paint(canvas, background, [width, height], commands) {
  const fine = Math.max(1, window.devicePixelRatio);
  canvas.style.width = `${width}px`;
  Object.assign(canvas, { width: width * fine, height: height * fine });
  const context = canvas.getContext("2d");
  context.scale(fine, fine);
  context.drawImage(background, 0, 0, width, height);
  for (const command of commands) {
    context.save();
    for (const clip of command.clips) context.clip(new Path2D(clip));
    Object.assign(context, command.style);
    if (command.path !== undefined) paintPath(context, command);
    else if (command.cells !== undefined) paintCells(context, command);
    else paintText(context, command);
    context.restore();
  }
}

// A path, once or at each of many places.
function paintPath(context, { path, at = [[0, 0]], style, dashes }) {
  const shape = new Path2D(path);
  if (dashes) context.setLineDash(dashes);
  for (const [x, y] of at) {
    context.translate(x, y);
    if (style.fillStyle) context.fill(shape);
    if (style.strokeStyle) context.stroke(shape);
    context.translate(-x, -y);
  }
}

// An image: each cell the number of a colour, and a rectangle with sharp edges.
function paintCells(context, { size, place, colours, cells }) {
  const pixels = Uint32Array.from(bytes(cells), (number) => colours[number]);
  const image = Object.assign(document.createElement("canvas"), { width: size[0], height: size[1] });
  image.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), ...size), 0, 0);
  context.imageSmoothingEnabled = false;
  context.transform(...place);
  context.drawImage(image, 0, 0);
}

// A line of text, as wide as matplotlib made it, whatever font there is.
function paintText(context, { text, place, width, angle }) {
  context.translate(...place);
  context.rotate((-angle * Math.PI) / 180);
  context.scale(width / context.measureText(text).width || 1, 1);
  context.fillText(text, 0, 0);
}

function bytes(base64) {
  if (typeof base64 !== "string") return base64;
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function inflate(packed) {
  return new Response(new Blob([bytes(packed)]).stream().pipeThrough(new DecompressionStream("deflate")));
}

// All frames of a page that has no kernel: each artist's looks once, and for each position their numbers. Of images,
// the cells lie in a row beside them, each as what differs from the one before.
async function unpack(packedLooks, packedCells) {
  const { looks, positions } = await inflate(packedLooks).json();
  const row = new Uint8Array(await inflate(packedCells).arrayBuffer());
  let start = 0;
  for (const artist of looks) {
    let before = [];
    for (const image of artist.flat().filter(({ size }) => size)) {
      image.cells = row.subarray(start, (start += image.size[0] * image.size[1]));
      if (before.length === image.cells.length) before.forEach((number, i) => (image.cells[i] += number));
      before = image.cells;
    }
  }
  const frame = ([key, alt, ...numbers]) => [key, { alt, artists: numbers.map((number, i) => looks[i][number]) }];
  return Object.fromEntries(positions.map(frame));
}

export default { render };
