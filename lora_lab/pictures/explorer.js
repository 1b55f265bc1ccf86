// Sliders and one picture. Python draws; this side remembers every picture it has seen, so that a position that was
// there before is shown at once, and asks for one picture at a time, always the newest position.
function render({ model, el }) {
  const sliders = model.get("sliders"); // [{ name, label, options: ["1", "2", …] }]
  const position = [...model.get("position")]; // the index of each slider's option
  const seen = new Map(); // "3,0" → { address, alt }
  let asked = null; // the position that Python is drawing now
  let saving; // a timer: Python hears of a new position once the hand rests, so that a picture never waits for it
  let touched = false; // nothing is drawn ahead while the notebook only runs, nor for a reader who scrolls past
  let asking; // a timer, for the case that the answer never comes

  const picture = document.createElement("img");
  picture.style.width = `${model.get("width")}px`;
  picture.addEventListener("load", () => setTimeout(ask, 30)); // the screen comes first
  const status = document.createElement("p");
  status.setAttribute("role", "status");
  const controls = document.createElement("div");
  el.classList.add("lora-explorer");
  el.replaceChildren(controls, picture, status);

  for (const event of ["focusin", "pointerenter"]) controls.addEventListener(event, touch);

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
    saving = setTimeout(save, 150);
  }

  function save() {
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
    if (frame) {
      if (picture.dataset.position !== position.join()) Object.assign(picture, { src: frame.address, alt: frame.alt });
      picture.dataset.position = position.join();
      status.textContent = frame.error ?? "";
    }
    ask();
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
    if (!touched || !picture.complete) return keys;
    for (const step of [1, -1])
      sliders.forEach(({ options }, i) => {
        const next = position[i] + step;
        if (next >= 0 && next < options.length) keys.push(position.with(i, next).join());
      });
    return keys;
  }

  function remember(key, { address, alt, error }) {
    seen.set(key, { address: address ?? picture.src, alt: alt ?? picture.alt, error });
  }

  function address(png) {
    return typeof png === "string" ? png : URL.createObjectURL(new Blob([png], { type: "image/png" }));
  }

  function answered(message, buffers) {
    if (message.key === undefined) return;
    remember(message.key, { ...message, address: buffers?.length ? address(buffers[0]) : undefined });
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

  for (const [key, { png, alt }] of Object.entries(model.get("frames"))) remember(key, { address: address(png), alt });
  model.on("msg:custom", answered);
  model.on("change:position", moved);
  show();
  return () => {
    clearTimeout(saving);
    model.off("msg:custom", answered);
    model.off("change:position", moved);
    for (const frame of seen.values()) URL.revokeObjectURL(frame.address);
  };
}

export default { render };
