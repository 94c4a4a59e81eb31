// Draws the planes on a 2-D canvas from the server's slices, where the browser has no WebGL2.

import { slice } from "./api.js";

const SLICES = 160; // kept in memory: 80 MB of a 512 × 512 scan
const AHEAD = 3; // slices fetched on both sides of the one shown

export class CanvasRenderer {
  constructor(canvas, redraw) {
    this.canvas = canvas;
    this.redraw = redraw;
    this.context = canvas.getContext("2d", { alpha: false });
    this.slices = new Map(); // by axis and index, oldest first
    this.waiting = new Map();
    this.pictures = new Map(); // the windowed picture of each axis
  }

  async start() { /* nothing to load */ }

  unsuited() {
    return false;
  }

  async load(image) {
    this.clear();
    this.image = image;
    this.loads = new AbortController();
    await this.#fetch("z", Math.floor(image.shape[2] / 2)); // the first slice tells whether slices come at all
  }

  async preview() {
    return null; // the server reads the file
  }

  clear() {
    this.loads?.abort();
    this.image = null;
    for (const kept of [this.slices, this.waiting, this.pictures]) kept.clear();
  }

  #fetch(axis, k) {
    const key = `${axis}${k}`, { signal } = this.loads;
    if (!this.waiting.has(key)) {
      const coming = slice(this.image.image, axis, k, signal).then(found => {
        this.slices.set(key, found);
        if (this.slices.size > SLICES) this.slices.delete(this.slices.keys().next().value);
        return found;
      }).finally(() => this.waiting.delete(key));
      this.waiting.set(key, coming);
    }
    return this.waiting.get(key);
  }

  #slice(axis, k, count) {
    const key = `${axis}${k}`, kept = this.slices.get(key);
    if (kept) {
      this.slices.delete(key);
      this.slices.set(key, kept);
    } else if (this.waiting.size < 12) {
      this.#fetch(axis, k).then(() => this.redraw(), error => {
        if (error.name !== "AbortError") this.onError?.(error);
      });
    } else Promise.race(this.waiting.values()).then(() => this.redraw(), () => {});
    if (kept)
      for (let step = 1; step <= AHEAD && this.waiting.size < 4; step++)
        for (const near of [k + step, k - step])
          if (near >= 0 && near < count && !this.slices.has(`${axis}${near}`)) this.#fetch(axis, near).catch(() => {});
    return kept;
  }

  /** The slice as a picture in the window, kept until slice or window changes. */
  #picture(axis, k, found, [low, high]) {
    const key = `${k} ${low} ${high}`, kept = this.pictures.get(axis);
    if (kept?.key === key && kept.found === found) return kept.canvas;
    const { rows, columns, data } = found, canvas = kept?.canvas ?? document.createElement("canvas");
    canvas.width = columns;
    canvas.height = rows;
    const pixels = new ImageData(columns, rows), packed = new Uint32Array(pixels.data.buffer);
    const scale = 255 / Math.max(1, high - low);
    for (let i = 0; i < data.length; i++) {
      const grey = Math.max(0, Math.min(255, Math.round((data[i] - low) * scale)));
      packed[i] = 0xff000000 | grey << 16 | grey << 8 | grey;
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    this.pictures.set(axis, { key, found, canvas });
    return canvas;
  }

  resize(width, height, ratio) {
    this.ratio = ratio;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
  }

  draw(tiles, image, window) {
    const { context, ratio } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.image) return;
    for (const tile of tiles) {
      const found = this.#slice(tile.axis, tile.index, tile.count);
      if (!found) continue;
      const [x, y] = tile.at(-0.5, -0.5); // the corner of the slice's first voxel
      context.save();
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.beginPath();
      context.rect(tile.left, tile.top, tile.width, tile.height);
      context.clip();
      context.setTransform(-tile.du * ratio, 0, 0, -tile.dv * ratio, x * ratio, y * ratio);
      context.imageSmoothingEnabled = true;
      context.drawImage(this.#picture(tile.axis, tile.index, found, window), 0, 0);
      context.restore();
    }
  }

  cross() { /* tiles carry their index */ }

  value(x, y, z) {
    const found = this.slices.get(`z${z}`);
    return found ? found.data[y * found.columns + x] : null;
  }

  dispose() {
    this.clear();
  }
}
