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
