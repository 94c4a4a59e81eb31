// Draws over the image: masks, their axes with lengths, the crosshair, the letters of the directions.

import { toVoxel } from "./geometry.js";

export const COLOURS = ["#f0b429", "#4cc2ff", "#7bd88f", "#ff7eb6", "#b69cff", "#ff8f5c", "#5ce1d0", "#d8e05c"];
const rgb = colour => [1, 3, 5].map(i => parseInt(colour.slice(i, i + 2), 16));

const outlines = new WeakMap(); // of slices of masks: a Path2D in voxel coordinates and a picture

/** The edges between mask and background as one path, and the filled voxels as a picture one pixel a voxel. */
function outline(slice, colour) {
  const kept = outlines.get(slice);
  if (kept?.colour === colour) return kept;
  const { nu, nv, data } = slice, path = new Path2D();
  const canvas = document.createElement("canvas");
  canvas.width = nu;
  canvas.height = nv;
  const context = canvas.getContext("2d"), pixels = context.createImageData(nu, nv), packed = new Uint32Array(pixels.data.buffer);
  const [r, g, b] = rgb(colour), filled = 0xff000000 | b << 16 | g << 8 | r;
  const at = (i, j) => i >= 0 && j >= 0 && i < nu && j < nv && data[i + nu * j];
  const edge = (x0, y0, x1, y1) => { path.moveTo(x0, y0); path.lineTo(x1, y1); };
  for (let j = 0; j < nv; j++)
    for (let i = 0; i < nu; i++) {
      if (!data[i + nu * j]) continue;
      packed[i + nu * j] = filled;
      if (!at(i - 1, j)) edge(i, j, i, j + 1);
      if (!at(i + 1, j)) edge(i + 1, j, i + 1, j + 1);
      if (!at(i, j - 1)) edge(i, j, i + 1, j);
      if (!at(i, j + 1)) edge(i, j + 1, i + 1, j + 1);
    }
  context.putImageData(pixels, 0, 0);
  const drawn = { colour, path, canvas };
  outlines.set(slice, drawn);
  return drawn;
}

function drawMask(context, tile, { mask, colour, selected }, opacity) {
  const slice = mask.slice(tile.axis, tile.index);
  if (!slice) return;
  const { path, canvas } = outline(slice, colour);
  const [x, y] = tile.at(slice.u0 - 0.5, slice.v0 - 0.5);
  const onScreen = new DOMMatrix([-tile.du, 0, 0, -tile.dv, x, y]);
  if (selected && opacity > 0) {
    context.save();
    context.globalAlpha = opacity;
    context.imageSmoothingEnabled = false;
    context.transform(-tile.du, 0, 0, -tile.dv, x, y);
    context.drawImage(canvas, 0, 0);
    context.restore();
  }
  const line = new Path2D();
  line.addPath(path, onScreen);
  context.lineWidth = selected ? 1.75 : 1.25;
  context.strokeStyle = colour;
  context.stroke(line);
}

function label(context, text, x, y, colour, tile) {
  context.font = "600 12px system-ui, sans-serif";
  const width = context.measureText(text).width;
  x = Math.min(Math.max(x, tile.left + 4), tile.left + tile.width - width - 6);
  y = Math.min(Math.max(y, tile.top + 14), tile.top + tile.height - 6);
  context.fillStyle = "rgb(0 0 0 / .72)";
  context.fillRect(x - 3, y - 12, width + 6, 16);
  context.fillStyle = colour;
  context.fillText(text, x, y);
}

/** Screen positions of a lesion's axes on this tile, or null where the tile does not show their slice. */
export function axesOn(tile, lesion, affine) {
  if (tile.axis !== "z" || !lesion.axes || lesion.axes.slice !== tile.index) return null;
  const points = ends => ends?.map(point => { const voxel = toVoxel(affine, point); return tile.at(voxel[0], voxel[1]); });
  return { long: points(lesion.axes.long), short: points(lesion.axes.short) };
}

function drawAxes(context, tile, { lesion, selected }, affine) {
  const axes = axesOn(tile, lesion, affine);
  if (!axes) return;
  for (const [kind, length, dash] of [["long", lesion.long_axis_mm, []], ["short", lesion.short_axis_mm, [5, 3]]]) {
    const ends = axes[kind];
    if (!ends) continue;
    for (const [style, width] of [["rgb(0 0 0 / .65)", 4], ["#fff", 1.6]]) {
      context.strokeStyle = style;
      context.lineWidth = width;
      context.setLineDash(width > 2 ? [] : dash);
      context.beginPath();
      context.moveTo(...ends[0]);
      context.lineTo(...ends[1]);
      context.stroke();
    }
    context.setLineDash([]);
    if (!selected || length === null) continue;
    const [a, b] = ends[0][0] >= ends[1][0] ? ends : [ends[1], ends[0]], reach = Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
    label(context, `${kind === "long" ? "L" : "S"} ${length.toFixed(1)} mm`, a[0] + 8 * (a[0] - b[0]) / reach + 4, a[1] + 12 * (a[1] - b[1]) / reach + 4, "#fff", tile);
  }
}

function drawCrosshair(context, tile, crosshair) {
  const [x, y] = tile.at(crosshair[tile.u], crosshair[tile.v]), gap = 10;
  context.strokeStyle = "rgb(88 196 255 / .75)";
  context.lineWidth = 1;
  context.beginPath();
  for (const [x0, y0, x1, y1] of [
    [tile.left, y, x - gap, y], [x + gap, y, tile.left + tile.width, y], [x, tile.top, x, y - gap], [x, y + gap, x, tile.top + tile.height],
  ]) {
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
  }
  context.stroke();
}

/** Text with a dark rim, readable on bright and dark tissue. */
function rimmed(context, text, x, y) {
  context.lineWidth = 3;
  context.lineJoin = "round";
  context.strokeStyle = "rgb(0 0 0 / .8)";
  context.strokeText(text, x, y);
  context.fillText(text, x, y);
}

function drawLetters(context, tile) {
  context.font = "600 12px system-ui, sans-serif";
  context.fillStyle = "#dbe3ea";
  const { left, top, width, height } = tile, middle = top + height / 2 + 4;
  const narrow = width < 260, name = `${narrow ? tile.short : tile.name} ${tile.index + 1}/${tile.count}`;
  context.textAlign = "center";
  rimmed(context, tile.letters[2], left + width / 2, top + (narrow ? 30 : 15));
  rimmed(context, tile.letters[3], left + width / 2, top + height - 6);
  context.textAlign = "left";
  rimmed(context, tile.letters[0], left + 6, middle);
  rimmed(context, name, left + 6, top + 15);
  context.textAlign = "right";
  rimmed(context, tile.letters[1], left + width - 6, middle);
  context.textAlign = "left";
}

function drawScale(context, tile) {
  const lengths = [200, 100, 50, 20, 10, 5, 2], length = lengths.find(mm => mm * tile.pxPerMm < tile.width * 0.35);
  if (!length || tile.width < 160) return;
  const x = tile.left + tile.width - 12, y = tile.top + tile.height - 12, w = length * tile.pxPerMm;
  const bar = new Path2D(`M${x} ${y - 5}V${y}H${x - w}V${y - 5}`);
  for (const [style, width] of [["rgb(0 0 0 / .8)", 4], ["#dbe3ea", 1.5]]) {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.stroke(bar);
  }
  context.fillStyle = "#dbe3ea";
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "right";
  rimmed(context, length >= 10 ? `${length / 10} cm` : `${length} mm`, x, y - 8);
  context.textAlign = "left";
}

/** Draws everything over the image's planes. `brush` is `{tile, x, y, mm}` or null. */
export function drawOverlay(canvas, ratio, { tiles, image, crosshair, lesions, showMasks, showCrosshair, opacity, brush, active }) {
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, canvas.width / ratio, canvas.height / ratio);
  if (!image) return;
  for (const tile of tiles) {
    context.save();
    context.beginPath();
    context.rect(tile.left, tile.top, tile.width, tile.height);
    context.clip();
    if (showMasks) {
      for (const entry of lesions) if (entry.mask) drawMask(context, tile, entry, opacity);
      for (const entry of lesions) drawAxes(context, tile, entry, image.affine);
    }
    if (showCrosshair) drawCrosshair(context, tile, crosshair);
    drawLetters(context, tile);
    drawScale(context, tile);
    if (brush?.tile === tile.axis) {
      context.strokeStyle = "#fff";
      context.lineWidth = 1.25;
      context.beginPath();
      context.arc(brush.x, brush.y, Math.max(2, brush.mm / 2 * tile.pxPerMm), 0, 2 * Math.PI);
      context.stroke();
    }
    if (active === tile.axis && tiles.length > 1) {
      context.strokeStyle = "rgb(88 196 255 / .55)";
      context.lineWidth = 1;
      context.strokeRect(tile.left + 0.5, tile.top + 0.5, tile.width - 1, tile.height - 1);
    }
    context.restore();
  }
}
