// A picture of a product A · B that can be touched. A cell is a [row, column] of the product; A lies at its left, where the
// columns are negative, and B above it, where the rows are. A thread is a column of A times a row of B.

const HINT = "Touch a cell, a column of A or a row of B, with the mouse or the arrow keys.";

// The image among an artist's commands.
function image(artist) {
  return artist.find(({ size }) => size);
}

// The cell that lies at a place of the page, or null.
function cellAt([A, B, AB], x, y) {
  const rank = A.size[0];
  for (const [part, rows, columns] of [[AB, 0, 0], [A, 0, -rank], [B, -rank, 0]]) {
    const [width, , , height, left, top] = part.place;
    const [row, column] = [Math.floor((y - top) / height), Math.floor((x - left) / width)];
    if (row >= 0 && row < part.size[1] && column >= 0 && column < part.size[0]) return [row + rows, column + columns];
  }
  return null;
}

// Where an arrow key leads, or Home and End, to a row's first and last cell of the product; undefined for another key or
// where it leads nowhere.
function step(images, cell, key) {
  const way = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
  const end = { Home: 0, End: images[2].size[0] - 1 }[key];
  if (!way && end === undefined) return undefined;
  if (!cell) return [0, end ?? 0];
  if (!way) return [cell[0], end];
  const next = [cell[0] + way[0], cell[1] + way[1]];
  return exists(images, next) ? next : undefined;
}

// Whether there is such a cell: after another rank has been chosen, there may be none.
function exists([A, , AB], [row, column]) {
  const rank = A.size[0];
  return row >= -rank && row < AB.size[1] && column >= -rank && column < AB.size[0] && (row >= 0 || column >= 0);
}

function threadOf(rank, [row, column]) {
  if (column < 0) return column + rank;
  return row < 0 ? row + rank : null;
}

// What is painted over the picture: a cell with its row of A and its column of B, or a thread alone.
function highlights([A, B, AB], { colours, limit }, cell) {
  const thread = threadOf(A.size[0], cell);
  if (thread === null) return [framed(A, cell[0], null), framed(B, null, cell[1]), framed(AB, ...cell)];
  const shade = (number) => Math.round(((Math.max(-1, Math.min(1, number / limit)) + 1) / 2) * (colours.length - 1));
  const cells = A.numbers.flatMap((row) => B.numbers[thread].map((number) => shade(row[thread] * number)));
  return [{ ...AB, colours, cells }, framed(A, null, thread), framed(B, thread, null)];
}

// A frame around one cell of an image, or, where one of the two is null, around a whole column or row.
function framed({ size, place }, row, column) {
  const [width, , , height, left, top] = place;
  const [x, y] = [left + (column ?? 0) * width, top + (row ?? 0) * height];
  const [right, bottom] = [x + (column === null ? size[0] : 1) * width, y + (row === null ? size[1] : 1) * height];
  return { clips: [], style: { strokeStyle: "#000000", lineWidth: 2 }, path: `M${x} ${y}H${right}V${bottom}H${x}Z` };
}

function sentence([A, B], cell) {
  const rank = A.size[0];
  const thread = threadOf(rank, cell);
  if (thread !== null) return `Thread ${thread + 1} of ${rank}: column ${thread + 1} of A times row ${thread + 1} of B.`;
  const [row, column] = cell;
  const pairs = A.numbers[row].map((a, k) => [a, B.numbers[k][column]]);
  const text = (number) => number.toFixed(2).replace("-", "−");
  const sum = pairs.reduce((total, [a, b]) => total + a * b, 0);
  const factor = (number) => (number < 0 ? `(${text(number)})` : text(number));
  const terms = pairs.map(([a, b]) => `${factor(a)}·${factor(b)}`);
  return `Row ${row + 1}, column ${column + 1}: ${terms.join(" + ")} = ${text(sum)}`;
}
