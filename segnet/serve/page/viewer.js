// One image in three planes: crosshair, window, zoom, pan, scroll, click, stroke, for mouse, pen, touch and keyboard.

import { CanvasRenderer } from "./canvas_renderer.js";
import { h } from "./dom.js";
import { Tile, arrange, clamp, inside, toMm } from "./geometry.js";
import { NiivueRenderer, available, loadLibrary } from "./niivue_renderer.js";
import { drawOverlay } from "./overlay.js";

const CLICK_PX = 4; // a press that moves this far is a drag
const LONG_MS = 500; // a finger held this long adds, as Shift does

export class Viewer {
  /**
   * `handlers`: click({mm, voxel, add}), stroke(phase, {axis, k, u, v}), moved(), window([low, high]), error(error).
   * `stroke` is asked with "can" first and answers whether a stroke may begin.
   */
  constructor(pane, label, handlers = {}) {
    this.pane = pane;
    this.handlers = handlers;
    this.image = null;
    this.lesions = []; // {lesion, mask, colour, selected}
    this.layout = "all";
    this.tool = "click";
    this.brushMm = 6;
    this.window = [-160, 240];
    this.zoom = 1;
    this.centre = [0, 0, 0];
    this.crosshair = [0, 0, 0];
    this.active = "z";
    this.showMasks = true;
    this.showCrosshair = true;
    this.opacity = 0.35;
    this.tiles = [];
    this.pointers = new Map();
    this.overlay = h("canvas", {
      class: "overlay", tabindex: 0, role: "application", "aria-label": label, "aria-describedby": "viewer-keys", "aria-roledescription": "image viewer",
    });
    pane.prepend(this.overlay);
    this.overlay.addEventListener("pointerdown", event => this.#down(event));
    this.overlay.addEventListener("pointermove", event => this.#move(event));
    this.overlay.addEventListener("pointerup", event => this.#up(event));
    this.overlay.addEventListener("pointercancel", event => this.#cancel(event));
    this.overlay.addEventListener("pointerleave", () => { this.hover = null; this.draw(); this.handlers.moved?.(); });
    this.overlay.addEventListener("wheel", event => this.#wheel(event), { passive: false });
    this.overlay.addEventListener("contextmenu", event => event.preventDefault());
    this.overlay.addEventListener("keydown", event => this.#key(event));
    this.observer = new ResizeObserver(() => this.#resize());
    this.observer.observe(pane);
  }

  /** Chooses the renderer. Call once, before an image is opened. */
  async start() {
    if (available()) {
      try {
        await loadLibrary();
        await this.#use(NiivueRenderer);
        this.renderer.onLost = () => this.#fallBack().catch(error => this.handlers.error?.(error));
        return;
      } catch (error) {
        this.renderer?.canvas.remove();
        console.warn(`WebGL2 is here but the viewer did not start: ${error.message}`);
      }
    }
    await this.#use(CanvasRenderer);
  }

  async #use(Renderer) {
    const canvas = h("canvas", { class: "base", "aria-hidden": "true" });
    this.pane.prepend(canvas);
    this.renderer = new Renderer(canvas, () => this.#refresh());
    this.renderer.onError = error => this.handlers.error?.(error);
    await this.renderer.start();
    this.pane.dataset.renderer = Renderer === NiivueRenderer ? "webgl2" : "canvas";
    this.#resize();
  }

  /** Slices of the server take over: the graphics card gave up, most often for want of memory, or would be slow. */
  async #fallBack(image = this.image) {
    const old = this.renderer;
    old.onLost = null;
    old.canvas.remove();
    await this.#use(CanvasRenderer);
    old.dispose();
    if (image?.image) await this.renderer.load(image);
    this.#refresh();
  }

  async open(image, onBytes = () => {}) {
    this.loading?.abort();
    const loading = this.loading = new AbortController();
    if (this.image?.image !== null) this.#blank(); // a preview stays: it is the same image
    try {
      if (this.renderer.unsuited(image)) await this.#fallBack(image);
      else await this.renderer.load(image, this.window, onBytes, loading.signal);
    } catch (error) {
      // refused by the server or overtaken by another image; anything else is the graphics card's fault
      if (error.name === "AbortError" || error.status !== undefined || this.pane.dataset.renderer === "canvas") throw error;
      await this.#fallBack(image);
    }
    this.#shown(image);
  }

  /** Shows a local NIfTI file at once; false where only the server can read it. */
  async preview(file) {
    const image = await this.renderer.preview(file, this.window);
    if (image) this.#shown(image);
    return Boolean(image);
  }

  #shown(image) {
    const same = this.image && image.shape.every((n, i) => n === this.image.shape[i])
      && image.affine.flat().every((value, i) => Math.abs(value - this.image.affine.flat()[i]) < 1e-3);
    this.image = image;
    if (!same) {
      this.crosshair = image.shape.map(n => Math.floor(n / 2));
      this.reset();
    }
    this.pane.dataset.image = image.image ?? "preview";
    this.#refresh();
  }

  close() {
    this.loading?.abort();
    this.lesions = [];
    this.#blank();
  }

  /** No picture of one image may stand under the name of another. */
  #blank() {
    this.image = null;
    delete this.pane.dataset.image;
    this.renderer.clear();
    this.renderer.draw([], null, this.window);
    this.#refresh();
  }

  dispose() {
    this.observer.disconnect();
    this.loading?.abort();
    this.renderer.dispose();
    this.renderer.canvas.remove();
    this.overlay.remove();
  }

  reset() {
    this.zoom = 1;
    this.centre = this.image.shape.map(n => (n - 1) / 2);
    this.draw();
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.pane;
    if (!this.renderer || !width || !height) return;
    this.ratio = Math.min(devicePixelRatio || 1, 2);
    this.size = [width, height];
    this.renderer.resize(width, height, this.ratio);
    this.overlay.width = Math.round(width * this.ratio);
    this.overlay.height = Math.round(height * this.ratio);
    this.draw(true);
  }

  /** Draws on the next frame; at once after a change of size, which has cleared the canvas. */
  draw(now = false) {
    if (now) {
      this.shown = null;
      return this.#draw();
    }
    this.frame ??= requestAnimationFrame(() => { this.frame = null; this.#draw(); });
  }

  /** Draws although nothing that the page knows has changed: another slice has come, or another image. */
  #refresh() {
    this.shown = null;
    this.draw();
  }

  layOut() {
    if (!this.image || !this.size) return [];
    return arrange(this.layout, ...this.size).map(rectangle => new Tile(rectangle, this.image, this.centre, this.zoom, this.crosshair));
  }

  #draw() {
    this.tiles = this.layOut();
    if (!this.ratio) return;
    const shown = JSON.stringify([this.tiles, this.crosshair, this.window, this.size]);
    if (this.image && shown !== this.shown) {
      this.renderer.cross(this.crosshair, this.image.shape);
      this.renderer.draw(this.tiles, this.image, this.window);
      this.shown = shown; // a stroke changes the overlay alone
    }
    const painting = this.tool === "brush" || this.tool === "eraser";
    drawOverlay(this.overlay, this.ratio, {
      ...this, brush: painting && this.hover ? { tile: this.hover.axis, x: this.hover.x, y: this.hover.y, mm: this.brushMm } : null,
      active: document.activeElement === this.overlay ? this.active : null,
    });
    const { overlay, crosshair, window } = this;
    overlay.dataset.crosshair = crosshair.join(",");
    overlay.dataset.window = window.join(",");
    overlay.dataset.zoom = this.zoom.toFixed(3);
    overlay.dataset.frames = 1 + Number(overlay.dataset.frames ?? 0);
  }

  // what other parts of the page ask for

  setLayout(layout) { this.layout = layout; if (layout !== "all") this.active = layout; this.draw(); }
  setTool(tool) { this.tool = tool; this.overlay.dataset.tool = tool; this.draw(); }
  setWindow(low, high) { this.window = [low, Math.max(low + 1, high)]; this.draw(); this.handlers.window?.(this.window); }

  setCrosshair(voxel) {
    this.crosshair = voxel.map((value, i) => clamp(Math.round(value), 0, this.image.shape[i] - 1));
    this.draw();
    this.handlers.moved?.();
  }

  /** Moves the crosshair to a voxel and brings it into sight. */
  jump(voxel) {
    this.setCrosshair(voxel);
    const hidden = this.layOut().some(tile => {
      const [x, y] = tile.at(this.crosshair[tile.u], this.crosshair[tile.v]);
      return !tile.holds(x, y);
    });
    if (hidden) this.centre = [...this.crosshair];
    this.draw();
  }

  scroll(axis, steps) {
    const voxel = [...this.crosshair];
    voxel[{ x: 0, y: 1, z: 2 }[axis]] += steps;
    this.setCrosshair(voxel);
  }

  /** Zooms; the voxel under the pixel stays there. */
  zoomBy(factor, tile, x, y) {
    const zoom = clamp(this.zoom * factor, 0.5, 20), by = zoom / this.zoom;
    if (tile) {
      const [u, v] = tile.uv(x, y);
      this.centre[tile.u] = u + (this.centre[tile.u] - u) / by;
      this.centre[tile.v] = v + (this.centre[tile.v] - v) / by;
    }
    this.zoom = zoom;
    this.draw();
  }

  pan(tile, dx, dy) {
    this.centre[tile.u] += dx / tile.du;
    this.centre[tile.v] += dy / tile.dv;
    this.draw();
  }

  /** The voxel to describe: under the pointer, else at the crosshair. */
  probe() {
    if (!this.image) return null;
    const tile = this.hover && this.layOut().find(found => found.axis === this.hover.axis); // it may show another slice by now
    const voxel = tile ? tile.voxel(this.hover.x, this.hover.y).map(Math.round) : this.crosshair;
    if (!inside(this.image.shape, voxel)) return null;
    return { voxel, mm: toMm(this.image.affine, voxel), value: this.renderer.value(...voxel) };
  }

  clickAt(voxel, add) {
    if (!inside(this.image.shape, voxel)) return;
    this.setCrosshair(voxel);
    if (this.tool === "click") this.handlers.click?.({ voxel, mm: toMm(this.image.affine, voxel), add });
  }

  // pointers

  #position(event) {
    const box = this.overlay.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    return { x, y, tile: this.layOut().find(tile => tile.holds(x, y)) };
  }

  #down(event) {
    if (!this.image) return;
    const { x, y, tile } = this.#position(event);
    this.overlay.focus({ preventScroll: true, focusVisible: false });
    if (!tile) return;
    this.active = tile.axis;
    try {
      this.overlay.setPointerCapture(event.pointerId);
    } catch { /* the pointer has gone already */ }
    const press = { x, y, startX: x, startY: y, axis: tile.axis, button: event.button, moved: false, touch: event.pointerType === "touch", time: event.timeStamp, window: this.window };
    this.pointers.set(event.pointerId, press);
    if (this.pointers.size === 2) {
      for (const other of this.pointers.values()) {
        if (other.stroke) this.handlers.stroke?.("cancel");
        other.stroke = false;
        other.moved = true;
        other.pinch = true;
      }
      return;
    }
    if (press.button === 0 && (this.tool === "brush" || this.tool === "eraser")) {
      press.stroke = Boolean(this.handlers.stroke?.("can"));
      if (press.stroke) this.#stroke("start", tile, x, y);
    }
    event.preventDefault();
  }

  #stroke(phase, tile, x, y) {
    const [u, v] = tile.uv(x, y), radius = this.brushMm / 2;
    const { spacing_mm: spacing } = this.image;
    this.handlers.stroke(phase, { axis: tile.axis, k: tile.index, u, v, ru: radius / spacing[tile.u], rv: radius / spacing[tile.v] });
    this.draw();
  }

  #move(event) {
    if (!this.image) return;
    const { x, y, tile } = this.#position(event), press = this.pointers.get(event.pointerId);
    this.hover = tile && event.pointerType !== "touch" ? { axis: tile.axis, x, y } : null;
    this.handlers.moved?.();
    if (!press) {
      if (this.tool === "brush" || this.tool === "eraser") this.draw();
      return;
    }
    if (press.pinch) return this.#pinch(press, x, y);
    if (Math.hypot(x - press.startX, y - press.startY) >= CLICK_PX) press.moved = true;
    const own = this.layOut().find(other => other.axis === press.axis), dx = x - press.x, dy = y - press.y;
    if (!own) return;
    if (press.stroke) {
      const events = event.getCoalescedEvents?.() ?? [];
      const box = this.overlay.getBoundingClientRect();
      for (const point of events.length ? events : [event]) this.#stroke("move", own, point.clientX - box.left, point.clientY - box.top);
    } else if (press.moved) {
      if (press.button === 2) {
        const width = Math.max(1, press.window[1] - press.window[0] + 3 * (x - press.startX));
        const level = (press.window[0] + press.window[1]) / 2 - 3 * (y - press.startY);
        this.setWindow(Math.round(level - width / 2), Math.round(level + width / 2));
      } else if (press.button === 1) this.pan(own, dx, dy);
      else if (press.touch) this.#drag(press, own, y);
      else if (this.tool === "click" || this.tool === "navigate") {
        const voxel = own.voxel(x, y).map((value, i) => clamp(Math.round(value), 0, this.image.shape[i] - 1));
        this.setCrosshair(voxel);
      }
    }
    press.x = x;
    press.y = y;
  }

  /** One finger scrolls through the slices: the height of the tile is the whole stack, ten pixels a slice at most. */
  #drag(press, tile, y) {
    const step = clamp(tile.height / tile.count, 3, 10);
    const slices = Math.trunc((y - (press.scrolled ?? press.startY)) / step);
    if (!slices) return;
    press.scrolled = (press.scrolled ?? press.startY) + slices * step;
    this.scroll(tile.axis, -slices);
  }

  #pinch(press, x, y) {
    const [a, b] = this.pointers.values(), other = press === a ? b : a;
    if (!other) return;
    const before = Math.hypot(press.x - other.x, press.y - other.y), after = Math.hypot(x - other.x, y - other.y);
    const tile = this.layOut().find(found => found.axis === press.axis);
    if (tile) {
      this.pan(tile, (x - press.x) / 2, (y - press.y) / 2);
      if (before > 10) this.zoomBy(after / before, tile, (x + other.x) / 2, (y + other.y) / 2);
    }
    press.x = x;
    press.y = y;
  }

  #up(event) {
    const press = this.pointers.get(event.pointerId);
    this.pointers.delete(event.pointerId);
    if (!press || !this.image) return;
    if (press.stroke) this.handlers.stroke?.("end");
    else if (!press.moved && press.button === 0 && this.tool !== "brush" && this.tool !== "eraser") {
      const { x, y, tile } = this.#position(event);
      if (tile?.axis === press.axis) this.clickAt(tile.voxel(x, y).map(Math.round), event.shiftKey || press.touch && event.timeStamp - press.time > LONG_MS);
    }
    this.draw();
  }

  #cancel(event) {
    const press = this.pointers.get(event.pointerId);
    this.pointers.delete(event.pointerId);
    if (press?.stroke) this.handlers.stroke?.("cancel");
  }

  #wheel(event) {
    if (!this.image) return;
    const { x, y, tile } = this.#position(event);
    if (!tile) return;
    event.preventDefault();
    this.active = tile.axis;
    const distance = event.deltaMode === 1 ? event.deltaY * 40 : event.deltaY;
    if (event.ctrlKey || event.metaKey) return this.zoomBy(Math.exp(-distance / 300), tile, x, y);
    this.turned = (Math.sign(distance) === Math.sign(this.turned ?? 0) ? this.turned : 0) + distance;
    const steps = Math.trunc(this.turned / 50) || (Math.abs(distance) >= 20 ? Math.sign(distance) : 0); // trackpads send small parts of a step
    if (!steps) return;
    this.turned = 0;
    this.scroll(tile.axis, -Math.sign(steps) * Math.min(Math.abs(steps), event.deltaMode === 0 && Math.abs(distance) <= 150 ? 1 : 3));
  }

  // keys that need a position; the others belong to the page

  #key(event) {
    if (!this.image || event.ctrlKey || event.metaKey || event.altKey) return;
    const tile = this.layOut().find(found => found.axis === this.active) ?? this.layOut()[0], voxel = [...this.crosshair];
    if (!tile) return;
    const far = event.shiftKey ? 10 : 1;
    const moves = { ArrowLeft: [tile.u, far], ArrowRight: [tile.u, -far], ArrowUp: [tile.v, far], ArrowDown: [tile.v, -far], PageUp: [tile.w, far], PageDown: [tile.w, -far] };
    if (moves[event.key]) {
      const [axis, by] = moves[event.key];
      voxel[axis] += by;
      this.setCrosshair(voxel);
    } else if (event.key === "Enter" || event.key === " ") {
      if (this.tool === "brush" || this.tool === "eraser") {
        if (this.handlers.stroke?.("can")) {
          this.#stroke("start", tile, ...tile.at(this.crosshair[tile.u], this.crosshair[tile.v]));
          this.handlers.stroke("end");
        }
      } else this.clickAt(voxel, event.shiftKey);
    } else if (event.key === "p") {
      const order = this.layOut().map(found => found.axis);
      this.active = order[(order.indexOf(this.active) + 1) % order.length];
      this.draw();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
