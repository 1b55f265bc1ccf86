// Sliders and one canvas. Python says what moved, this side paints it over a background that never changes. It remembers
// every position it has seen, so that one that was there before is shown at once, and asks for one at a time, always the
// newest.

const WAITING =
  "This is still the picture of before: Python is busy, and answers after its cell. (Was the kernel restarted? Then run " +
  "this cell again.)";

async function render({ model, el }) {
  const sliders = model.get("sliders"); // [{ name, label, options: ["1", "2", …], kind: "range" or "buttons" }]
  const position = [...model.get("position")]; // the index of each slider's option
  const seen = new Map(Object.entries(model.get("frames"))); // "3,0" → { alt, artists: [[command, …], …], error }
  let asked = null; // the position that Python is working on now
  let touched = false; // nothing is asked for ahead while the notebook only runs, nor for a reader who scrolls past
  let asking; // a timer, for the case that the answer never comes
  let saving; // a timer: Python hears of a new position once the hand rests, so that a picture never waits for it
  let waiting; // a timer: what takes long is told of, since the picture is not yet that of the sliders
  let unsaid = false; // the hand rests, and the picture of where it rests has not come
  let shown = null; // the frame on the canvas
  let gliding; // the next step of a movement that is being shown
  let cursor = null; // the cell of a product that is touched: [row, column]
  let told; // what is said of it, under the picture

  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  const status = document.createElement("p");
  const spoken = document.createElement("p"); // seen by nobody: a screen reader says it
  for (const text of [status, spoken]) text.setAttribute("role", "status");
  spoken.className = "spoken";
  const controls = document.createElement("div");
  controls.style.maxWidth = `${model.get("size")[0]}px`;
  for (const event of ["focusin", "pointerenter"]) controls.addEventListener(event, touch);
  el.classList.add("lora-explorer");
  el.replaceChildren(controls, canvas, status, spoken);

  const inputs = sliders.map((slider, i) => (slider.kind === "buttons" ? addButtons : addRange)(slider, i));
  if (model.get("play")) addPlayer(sliders.findIndex(({ name }) => name === model.get("play")));
  if (model.get("product").images) listenToTouch();

  function addRange({ name, label, options }, i) {
    const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: options.length - 1 });
    input.setAttribute("aria-label", label);
    input.addEventListener("input", () => move(i, Number(input.value)));
    const number = document.createElement("output");
    number.setAttribute("aria-hidden", "true"); // the slider says its value itself
    const row = document.createElement("label");
    row.append(Object.assign(document.createElement("span"), { className: "name", textContent: label }), input, number);
    controls.append(row);
    prepare(input, name);
    return (index) => {
      input.value = index;
      number.textContent = options[index];
      input.setAttribute("aria-valuetext", options[index]);
    };
  }

  // A choice among names: all of them can be read, and one click takes any.
  function addButtons({ name, label, options }, i) {
    const group = document.createElement("fieldset");
    group.append(Object.assign(document.createElement("legend"), { textContent: label }));
    const together = `${name}-${Math.random()}`; // the same explorer may be shown twice
    const buttons = options.map((option, index) => {
      const input = Object.assign(document.createElement("input"), { type: "radio", name: together });
      input.addEventListener("change", () => move(i, index));
      prepare(input, name);
      const button = document.createElement("label");
      button.append(input, Object.assign(document.createElement("span"), { textContent: option }));
      group.append(button);
      return input;
    });
    controls.append(group);
    return (index) => (buttons[index].checked = true);
  }

  function prepare(input, name) {
    input.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes the arrow keys
    input.dataset.name = name;
  }

  // A button that moves one slider from stop to stop, each shown before the next is due.
  function addPlayer(i) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "▶ Play" });
    let timer;
    const stop = () => {
      clearInterval(timer);
      timer = undefined;
      button.textContent = "▶ Play";
    };
    const last = sliders[i].options.length - 1;
    button.addEventListener("click", () => {
      if (timer) return stop();
      button.textContent = "❚❚ Pause";
      if (position[i] === last) move(i, 0);
      timer = setInterval(() => {
        if (!el.isConnected || position[i] === last) stop();
        else if (seen.has(position.join())) move(i, position[i] + 1);
      }, 120);
    });
    controls.querySelector(`[data-name="${sliders[i].name}"]`).before(button);
  }

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
    model.set("position", [...position]);
    model.save_changes();
    unsaid = true;
    speak();
  }

  // What is to be seen, once it is to be seen.
  function speak() {
    if (!unsaid || canvas.dataset.position !== position.join()) return;
    spoken.textContent = canvas.getAttribute("aria-label");
    unsaid = false;
  }

  function wait() {
    canvas.classList.add("old");
    status.textContent = WAITING;
  }

  function stopWaiting() {
    clearTimeout(waiting);
    waiting = undefined;
  }

  function show() {
    inputs.forEach((put, i) => put(position[i]));
    const frame = seen.get(position.join());
    if (!frame) {
      waiting ??= setTimeout(wait, 1000);
      return ask();
    }
    stopWaiting();
    canvas.classList.remove("old");
    status.textContent = frame.error ?? "";
    if (canvas.dataset.position !== position.join()) {
      if (frame.artists) glide(frame);
      if (frame.alt) canvas.setAttribute("aria-label", frame.alt);
      canvas.dataset.position = position.join();
    }
    speak();
    setTimeout(ask, 30); // the screen comes first
  }

  // Paint a frame. What is said to glide and lies elsewhere now goes there first, over all that was to be seen before.
  function glide(frame) {
    cancelAnimationFrame(gliding);
    const before = shown;
    shown = frame;
    const paths = model.get("gliding").map((i) => [i, ...[before, frame].map((f) => f && image(f.artists[i]))]);
    const moving = paths.filter(([, from, to]) => from && to && from.place.join() !== to.place.join());
    if (!moving.length || matchMedia("(prefers-reduced-motion: reduce)").matches) return repaint();
    const still = before.artists.filter((_, i) => !moving.some(([j]) => i === j)).flat();
    const start = performance.now();
    const advance = (now) => {
      const t = Math.min(1, (now - start) / 500);
      if (t === 1) return repaint();
      const between = moving.map(([, from, to]) => {
        const place = from.place.map((x, k) => x + t * (to.place[k] - x));
        return { ...from, clips: [], place };
      });
      paint(canvas, background, model.get("size"), [...still, ...between]);
      gliding = requestAnimationFrame(advance);
    };
    advance(start);
  }

  function repaint() {
    if (told) {
      if (cursor && !exists(factors(), cursor)) cursor = null;
      told.textContent = cursor ? sentence(factors(), cursor) : HINT;
    }
    const marks = cursor ? highlights(factors(), model.get("product"), cursor) : [];
    paint(canvas, background, model.get("size"), [...shown.artists.flat(), ...marks]);
  }

  // The images of a product A · B, in the frame that is shown.
  function factors() {
    return model.get("product").images.map((i) => image(shown.artists[i]));
  }

  function listenToTouch() {
    told = Object.assign(document.createElement("p"), { className: "told" });
    told.setAttribute("role", "status");
    canvas.after(told);
    canvas.tabIndex = 0;
    canvas.dataset.lmSuppressShortcuts = "true";
    const point = (cell) => {
      if (!shown || cell?.join() === cursor?.join()) return;
      cursor = cell;
      repaint();
    };
    canvas.addEventListener("pointermove", ({ offsetX, offsetY }) => {
      const scale = model.get("size")[0] / canvas.clientWidth;
      point(cellAt(factors(), offsetX * scale, offsetY * scale));
    });
    for (const event of ["pointerleave", "blur"]) canvas.addEventListener(event, () => point(null));
    canvas.addEventListener("keydown", (event) => {
      const cell = event.key === "Escape" ? null : step(factors(), cursor, event.key);
      if (cell === undefined) return;
      event.preventDefault();
      point(cell);
    });
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
    stopWaiting(); // Python does answer
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
    for (const timer of [saving, asking, waiting]) clearTimeout(timer);
    cancelAnimationFrame(gliding);
    model.off("msg:custom", answered);
    model.off("change:position", moved);
  };
}

export default { render };
