"use strict";
const data = JSON.parse(document.getElementById("data").textContent), { nets, test } = data;
const SIDE = 280, FIELD = 28, PEN = 24;  // pixels: of the board, of MNIST's images, of the stroke
let image = null, picked = false;  // what the nets see, and whether it is a test digit
let last = null, pointer, shown = 120;  // where the pen was, if it is down; its id; errors listed
const find = (selector, inside = document) => inside.querySelector(selector);
const write = (text, selector, inside) => { find(selector, inside).textContent = text; };
const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
const clone = (template) => find(template).content.cloneNode(true).firstElementChild;
const count = (number) => number.toLocaleString("en");
const signed = (number) => (number < 0 ? "−" : "+") + Math.abs(number).toFixed(2);
const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
const rounded = (x) => x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x);  // as Python does
const argmax = (values) => values.indexOf(Math.max(...values));
const sumOf = (values) => values.reduce((a, b) => a + b, 0);

/** Replaces every packed array in the data by a typed array. */
async function unpack(object) {
  for (const [name, value] of Object.entries(object)) {
    if (value?.gzip) {
      const letters = atob(value.gzip), bytes = new Uint8Array(letters.length);
      for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      object[name] = new globalThis[value.type](await new Response(stream).arrayBuffer());
    } else if (typeof value === "object" && value) await unpack(value);
  }
}

/** The layers of a net, whose weights are int16 multiples of a step: all low bytes, then high. */
function layersOf({ units, steps, weights: low, biases }) {
  const high = new Int8Array(low.buffer, low.length / 2), sizes = [784, units, units, 10];
  let start = 0, bias = 0;
  return steps.map((step, k) => {
    const weights = new Float32Array(sizes[k] * sizes[k + 1]);
    weights.forEach((_, i) => { weights[i] = step * (low[start + i] + 256 * high[start + i]); });
    start += weights.length;
    return { weights, biases: biases.subarray(bias, bias += sizes[k + 1]) };
  });
}

/** Ten logits of 784 levels from 0 to 255. */
function logits(net, levels) {
  let values = Float32Array.from(levels, (level) => level / 255);
  for (const { weights, biases } of net.layers) {
    const sums = biases.slice(), size = sums.length;
    for (let i = 0; i < values.length; i++) {
      const value = values[i];
      if (value <= 0) continue;  // a blank pixel, or a rectified unit that is off
      for (let k = 0; k < size; k++) sums[k] += value * weights[i * size + k];
    }
    values = sums;
  }
  return values;
}

/** Probabilities at temperature T. */
function softmax(values, temperature) {
  const highest = Math.max(...values);
  const powers = Array.from(values, (value) => Math.exp((value - highest) / temperature));
  return powers.map((power) => power / sumOf(powers));
}

/** Whether a test digit is read wrongly with `shift` added to the biases of the group. */
const isWrong = ({ needed, inside_wrong, outside_wrong }, shift, index) =>
  (needed[index] < Math.fround(shift) ? inside_wrong : outside_wrong)[index];

/** The number of errors in all, and on the digits of the group. */
function errorsAt(cases, shift) {
  const wrong = [...test.labels.keys()].filter((index) => isWrong(cases, shift, index));
  return [wrong.length, wrong.filter((i) => cases.group.includes(test.labels[i])).length];
}

/** Rows whose part from `low` to `high` is scaled to `size`; rows and columns are exchanged. */
function scaled(rows, low, high, size) {
  const scale = (high - low) / size, reach = Math.max(scale, 1);  // it blurs where it shrinks
  return Array.from({ length: size }, (_, k) => {
    const centre = low + (k + 0.5) * scale;
    const first = Math.max(Math.floor(centre - reach + 0.5), low);
    const last = Math.min(Math.floor(centre + reach + 0.5), high);
    const weights = Array.from({ length: last - first },
      (_, i) => Math.max(1 - Math.abs((first + i + 0.5 - centre) / reach), 0));
    const sum = sumOf(weights);
    return rows.map((row) => sumOf(weights.map((weight, i) => weight * row[first + i])) / sum);
  });
}

/** Where the rows start in the field if their centre of mass is to be in its middle. */
function startOf(rows) {
  const masses = rows.map(sumOf);
  const centre = sumOf(masses.map((mass, k) => mass * k)) / sumOf(masses);
  return Math.min(Math.max(Math.floor(14.5 - centre), 0), FIELD - rows.length);
}

const transposed = (rows) => rows[0].map((_, k) => rows.map((row) => row[k]));
const inked = (rows) => rows.map(sumOf).flatMap((sum, k, sums) =>
  sum > 0.1 * sumOf(sums) / sums.length ? [k] : []);  // less is but specks

/** A drawing as MNIST would hold it, null if blank: the arithmetic of dataset.from_picture. */
function prepared(rows) {
  const down = inked(rows), across = inked(transposed(rows));
  if (!down.length) return null;
  const sides = [across, down].map((places) => places.at(-1) + 1 - places[0]);
  const [width, height] = sides.map((n) => Math.max(1, rounded(n * (20 / Math.max(...sides)))));
  const columns = scaled(rows, across[0], across.at(-1) + 1, width);
  const digit = scaled(columns, down[0], down.at(-1) + 1, height);
  const y = startOf(digit), x = startOf(transposed(digit)), field = new Uint8Array(784);
  const light = 255 / Math.max(...digit.flat());
  digit.forEach((row, k) => field.set(row.map((v) => rounded(light * v)), (y + k) * FIELD + x));
  return field;
}

const board = find("#board"), pen = board.getContext("2d", { willReadFrequently: true });
const wipe = () => pen.fillRect(0, 0, SIDE, SIDE);

/** The levels on the board, row by row. */
function drawing() {
  const colours = new Uint32Array(pen.getImageData(0, 0, SIDE, SIDE).data.buffer);
  const row = (y) => Array.from(colours.subarray(SIDE * y, SIDE * (y + 1)), (c) => c & 255);
  return Array.from({ length: SIDE }, (_, y) => row(y));
}

function draw(event) {
  const { left, top, width } = board.getBoundingClientRect(), zoom = SIDE / width;
  const next = [(event.clientX - left) * zoom, (event.clientY - top) * zoom];
  pen.stroke(new Path2D(`M${last ?? next}L${next}h0.01`));  // a line of no length leaves no dot
  last = next;
  show(prepared(drawing()));
}

pen.rect(1, 1, SIDE - 2, SIDE - 2);  // the border stays black: so ink is white, paper is nothing
pen.clip();
Object.assign(pen, { strokeStyle: "white", lineWidth: PEN, lineCap: "round", lineJoin: "round" });
board.onpointerdown = (event) => {
  if (last || event.button) return;  // one finger draws, and one button
  board.setPointerCapture(pointer = event.pointerId);
  if (picked) wipe();
  draw(event);
};
board.onpointermove = (event) => { if (last && event.pointerId === pointer) draw(event); };
board.onlostpointercapture = (event) => { if (event.pointerId === pointer) last = null; };

function paint(canvas, levels) {
  const pixels = new ImageData(FIELD, FIELD);
  pixels.data.forEach((_, i, all) => { all[i] = i % 4 === 3 ? 255 : levels?.[i >> 2] ?? 0; });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** A button that puts a test digit on the board; `answer` is what a net reads in place of it. */
function thumbnail(index, caption, answer) {
  const levels = test.images.subarray(784 * index, 784 * (index + 1));
  const ariaLabel = `test digit ${test.labels[index]}` + (answer >= 0 ? `, read as ${answer}` : "");
  const button = make("button", { ariaLabel }), canvas = make("canvas", { width: 28, height: 28 });
  button.append(canvas, make("span", { textContent: caption }));
  paint(canvas, levels);
  button.onclick = () => {
    pen.imageSmoothingEnabled = false;
    pen.drawImage(canvas, 0, 0, SIDE, SIDE);
    show(levels, true);
    if (!button.closest("#panels")) board.scrollIntoView({ block: "nearest" });
  };
  return button;
}

/** Shows the probabilities of every net at the temperature of the slider. */
function think() {
  const temperature = Number(find("#temperature").value);
  write(`T = ${temperature}`, "#temperature + output");
  for (const net of nets) {
    net.shares = image ? softmax(net.logits, temperature) : new Array(10).fill(0);
    const answer = image && argmax(net.logits);
    write(answer ?? "–", ".answer", net.card);
    net.card.querySelectorAll("li").forEach((bar, digit) => {
      bar.className = digit === answer ? "first" : "";
      find("i", bar).style.width = `${100 * net.shares[digit]}%`;
      find("b", bar).style.left = `${100 * nets[0].shares[digit]}%`;
      bar.lastElementChild.textContent = percent(net.shares[digit]);
    });
  }
}

/** Shows new levels to the nets; `isPicked` if they are a test digit, not a drawing. */
function show(levels, isPicked = false) {
  [image, picked] = [levels, isPicked];
  paint(find("#seen"), image);
  for (const net of nets) net.logits = image && logits(net, image);
  think();
  const answers = nets.map((net) => `${net.name}: ${image && argmax(net.logits)}`);
  write(image ? answers.join(" · ") : "The board is blank. Draw large.", "#answers");
  for (const net of nets) net.shift?.show();
}

function addCard(net) {
  net.card = find("#nets").appendChild(clone("#card"));
  write(net.name, "h3", net.card);
  write(net.detail, "small", net.card);
  for (let digit = 0; digit < 10; digit++) {
    write(digit, "span", find("ol", net.card).appendChild(clone("#bar")));
  }
}

/** What a shift of the biases of a group does to the image on the board. */
function verdict({ group }, values, at) {
  if (!values) return "Draw a digit to see what this net reads.";
  const shifted = values.map((value, digit) => value + at * group.includes(digit));
  const best = (inside) => Math.max(...values.filter((_, d) => group.includes(d) === inside));
  return `On the board: this net reads ${argmax(values)} as learned, ${argmax(shifted)} at this `
    + `shift. It reads ${group.join(" or ")} above ${signed(best(false) - best(true))}.`;
}

/** Draws the errors against the shift. Returns what moves the point on the curve. */
function addCurves(panel, cases) {
  const { low, high, rows } = cases, most = Math.round(2.2 * errorsAt(cases, 0)[0]) + 10;
  const x = (shift) => 46 + 346 * (shift - low) / (high - low);
  const y = (errors) => 165 - 155 * Math.min(errors / most, 1);
  const path = (name, line) => find(`path.${name}`, panel).setAttribute("d", line);
  const shifts = Array.from({ length: 201 }, (_, k) => low + (high - low) * k / 200);
  const points = shifts.map((shift) => errorsAt(cases, shift).map((n) => [x(shift), y(n)]));
  path("total", `M${points.map(([total]) => total).join("L")}`);
  path("group", `M${points.map(([_, onGroup]) => onGroup).join("L")}`);
  for (const { column, shift } of rows) path(column, `M${x(shift)} 10V165`);
  const texts = panel.querySelectorAll("text");
  [`≥${count(most)}`, signed(low), signed(high)].forEach((t, k) => texts[k].append(t));
  return (at, total) => path("now", `M${x(at)} ${y(total)}h0`);
}

/** Shows what a shift of the biases of a group does, for a net that did not see all digits. */
function addPanel(net) {
  const { name, answers, shift: cases } = net, { group, names, turned, rows } = cases;
  const panel = find("#panels").appendChild(clone("#panel")), slider = find("input", panel);
  const cells = (at) => [signed(at), ...errorsAt(cases, at).map(count)];
  const marks = panel.appendChild(make("datalist", { id: `marks${nets.indexOf(net)}` }));
  slider.setAttribute("list", marks.id);
  for (const { column, name: textContent, shift, paper } of rows) {
    marks.append(make("option", { value: rounded(shift / slider.step) * slider.step }));
    const row = Object.assign(find("tbody", panel).insertRow(), { className: column });
    row.insertCell().append(make("button", { textContent, onclick: () => cases.show(shift) }));
    for (const text of [...cells(shift), paper]) row.insertCell().textContent = text;
  }
  const movePoint = addCurves(panel, cases);
  const thumbs = turned.map((index) => thumbnail(index, "", answers[index]));
  find(".thumbs", panel).append(...thumbs);
  write(name, "h3", panel);
  write(`Shift of the bias of ${group.join(" and ")}`, "label span", panel);
  write(`on ${names}`, "th:nth-child(4)", panel);
  write(`those on ${names}`, "small span", panel);
  cases.show = (at = cases.at ?? 0) => {
    cases.at = slider.value = at;
    slider.ariaValueText = signed(at);
    write(signed(at), "output", panel);
    write(verdict(cases, net.logits, at), ".verdict", panel);
    cells(at).forEach((text, k) => write(text, `tfoot td:nth-child(${k + 2})`, panel));
    movePoint(at, errorsAt(cases, at)[0]);
    const right = turned.map((index) => !isWrong(cases, at, index));
    thumbs.forEach((thumb, k) => {
      thumb.className = right[k] ? "right" : "wrong";
      thumb.lastChild.textContent = right[k] ? "✓" : "✗";
    });
    write(`${sumOf(right)} of ${turned.length}`, ".turned", panel);
  };
  Object.assign(slider, { min: cases.low, max: cases.high });
  slider.oninput = () => cases.show(Number(slider.value));
}

/** Shows the errors of the chosen net on the test set. */
function listErrors() {
  const { name, answers } = nets[find("#net").value], { labels } = test;
  const wrong = [...labels.keys()].filter((index) => answers[index] !== labels[index]);
  write(`${name}: ${count(wrong.length)} errors on ${test.name}.`, "#wrong");
  find("#errors").replaceChildren(...wrong.slice(0, shown).map((index) =>
    thumbnail(index, `${labels[index]}→${answers[index]}`, answers[index])));
  find("#more").hidden = shown >= wrong.length;
}

async function start() {
  await unpack(data);
  for (const net of nets) {
    net.layers = layersOf(net);
    addCard(net);
    if (net.shift) addPanel(net);
    find("#net").append(make("option", { value: nets.indexOf(net), textContent: net.name }));
  }
  for (const part of ["plain", "disputed"])
    find(`#${part}`).append(...data.picks[part].map((index) => thumbnail(index, "")));
  write(data.pair.join(" and "), "#pair");
  write(test.name, "#test");
  find("#clear").onclick = () => { wipe(); show(null); };
  find("#temperature").oninput = think;
  find("#net").onchange = () => { shown = 120; listErrors(); };
  find("#more").onclick = () => { shown *= 2; listErrors(); };
  listErrors();
  for (const part of ["#loading", "main"]) find(part).toggleAttribute("hidden");
  (find("#disputed button") ?? find("#plain button")).click();
}
start().catch((error) => write(`This browser cannot show the page: ${error.message}`, "#loading"));
