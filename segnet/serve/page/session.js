// The image at work: its lesions, their masks, and every change that goes to the server.

import * as api from "./api.js";
import { ask, debounce, notify } from "./dom.js";
import { toVoxel } from "./geometry.js";
import { Mask } from "./mask.js";
import { COLOURS } from "./overlay.js";

const RETRY_MS = 5000;
const isLesion = answer => "revision" in answer;

export class Session extends EventTarget {
  constructor(viewer) {
    super();
    this.viewer = viewer;
    this.image = null;
    this.entries = []; // {lesion, mask, colour, selected, progress, saving, dirty}
    this.made = 0;
  }

  get current() { return this.entries.find(entry => entry.selected) ?? null; }
  get busy() { return this.entries.some(entry => entry.dirty || entry.saving); }

  changed(entry = null) {
    this.viewer.lesions = this.entries;
    this.viewer.draw();
    this.dispatchEvent(new CustomEvent("change", { detail: entry }));
  }

  /** Opens an image of the server and follows the lesions that are still being segmented. */
  async open(sha, onBytes) {
    await this.settle();
    const lost = this.entries.filter(entry => entry.dirty).map(entry => entry.lesion.name).join(", ");
    if (lost && !await ask(`What was drawn in ${lost} is not saved. Open the other image nevertheless?`, "Open")) throw new DOMException("kept", "AbortError");
    const image = await api.image(sha);
    this.image = null;
    this.entries = [];
    this.made = 0;
    this.changed();
    this.viewer.setWindow(...image.window_hu);
    await this.viewer.open(image, onBytes);
    this.image = image;
    for (const lesion of image.lesions) this.#add(lesion);
    this.changed();
    await Promise.all(this.entries.map(entry => this.#finish(entry)));
  }

  close() {
    this.image = null;
    this.entries = [];
    this.viewer.close();
    this.changed();
  }

  #add(lesion) {
    const entry = { lesion, mask: null, colour: COLOURS[this.made++ % COLOURS.length], selected: false, progress: null, saving: false, dirty: false };
    this.entries.push(entry);
    return entry;
  }

  select(entry, jump = false) {
    for (const other of this.entries) other.selected = other === entry;
    if (entry && jump) this.jump(entry);
    this.changed(entry);
  }

  /** The voxel that shows a lesion best: the middle of its long axis, else its click. */
  place({ lesion }) {
    const { affine } = this.image;
    if (lesion.axes) {
      const [a, b] = lesion.axes.long, middle = toVoxel(affine, a.map((value, i) => (value + b[i]) / 2));
      return [middle[0], middle[1], lesion.axes.slice];
    }
    return lesion.clicks?.length ? toVoxel(affine, lesion.clicks.at(-1)) : null;
  }

  jump(entry) {
    const voxel = this.place(entry);
    if (voxel) this.viewer.jump(voxel);
  }

  // clicks

  /** A click on the image: selects the lesion under it, segments a new one, or replaces or extends the selected one. */
  async click({ voxel, mm, add }) {
    if (!this.image) return notify("The server is still reading this image. Click when the progress bar has gone.");
    const hit = this.entries.find(entry => !entry.selected && entry.mask?.get(...voxel));
    if (hit && !add) return this.select(hit);
    let { current } = this;
    if (current?.lesion.accepted) current = null;
    if (current?.progress) return notify(`${current.lesion.name} is still being segmented. Wait for it, cancel it, or press N for a new lesion.`);
    if (current?.lesion.state === "failed" && !current.mask) add = false;
    if (current && !add && (current.lesion.edited || current.dirty)
      && !await ask(`Replace what was drawn by hand in ${current.lesion.name} with a new segmentation?`, "Replace")) return;
    try {
      if (current) {
        await this.save(current);
        current.progress = { progress: 0, message: "Segmenting" };
        this.changed(current);
        const answer = await this.#serial(current, () => api.clickLesion(current.lesion.lesion, mm, add ? "add" : "replace"));
        await this.#answered(current, answer);
      } else {
        const entry = this.#add({
          lesion: null, state: "queued", name: `Lesion ${this.made + 1}`, role: null, site: null, clicks: [mm], accepted: false, warnings: [], axes: null,
        });
        entry.progress = { progress: 0, message: "Segmenting" };
        this.select(entry);
        try {
          await this.#answered(entry, await api.newLesion(this.image.image, { click: mm, name: entry.lesion.name }));
        } catch (error) {
          if (!entry.lesion.lesion) {
            this.#drop(entry);
            this.made--;
          }
          throw error;
        }
      }
    } catch (error) {
      this.#failed(current, error);
    }
  }

  async #answered(entry, answer) {
    if (isLesion(answer)) {
      entry.lesion = answer;
      entry.progress = null;
      entry.mask = null;
    } else {
      const name = typeof answer.lesion === "string" ? answer.lesion : answer.lesion.lesion;
      entry.lesion = { ...entry.lesion, lesion: name, state: "queued", job: api.jobOf(answer) };
    }
    await this.#finish(entry);
  }

  /** Follows an entry's job to its end and loads its mask. */
  async #finish(entry) {
    const { image } = this;
    try {
      if (entry.lesion.state === "queued" || entry.lesion.state === "running") {
        entry.progress = { progress: 0, message: "Waiting" };
        this.changed(entry);
        try {
          await api.follow(entry.lesion.job, state => { entry.progress = state; this.changed(entry); });
        } catch (error) {
          if (error.name !== "AbortError" && !error.status) throw error;
          entry.cancelled = error.name === "AbortError";
        }
        entry.lesion = await api.lesion(entry.lesion.lesion);
      }
      entry.progress = null;
      await this.#loadMask(entry);
      if (image === this.image && this.entries.includes(entry)) {
        this.changed(entry);
        if (entry.lesion.state === "done") this.dispatchEvent(new CustomEvent("segmented", { detail: entry }));
      }
    } catch (error) {
      this.#failed(entry, error);
    }
  }

  async #loadMask(entry) {
    const { lesion } = entry, { image } = this;
    if (lesion.state !== "done" && !lesion.box) return;
    const crop = await api.mask(lesion.lesion);
    if (image !== this.image) return;
    entry.mask = new Mask(image.shape, crop);
    if (entry.selected) this.stroking = false; // a stroke on the old mask ends here
  }

  #failed(entry, error) {
    if (entry) {
      entry.progress = null;
      entry.saving = false;
    }
    this.changed(entry);
    if (error.name !== "AbortError") notify(error.message, "error");
  }

  async cancel(entry) {
    try {
      if (entry.lesion.job) await api.cancelJob(entry.lesion.job);
    } catch (error) {
      this.#failed(entry, error);
    }
  }

  // changes, one after the other for each lesion

  #serial(entry, work) {
    const next = (entry.queue ?? Promise.resolve()).then(work);
    entry.queue = next.catch(() => {});
    return next;
  }

  /** Sends a change of fields. A refused revision reloads the lesion and says so. */
  async patch(entry, change) {
    entry.saving = true;
    this.changed(entry);
    try {
      await this.#serial(entry, async () => { entry.lesion = await api.patchLesion(entry.lesion, change); });
      if ("threshold" in change) await this.#loadMask(entry);
    } catch (error) {
      entry.refused = true;
      await this.#conflict(entry, error);
    }
    entry.saving = false;
    this.changed(entry);
  }

  async #conflict(entry, error) {
    if (error.status !== 412) return this.#failed(entry, error);
    try {
      entry.lesion = await api.lesion(entry.lesion.lesion);
      await this.#loadMask(entry);
      entry.dirty = false;
      notify(`${entry.lesion.name} was changed in another window. The newer version is shown now; your last change was not saved.`, "error");
    } catch (second) {
      if (second.status === 404) this.#drop(entry);
      this.#failed(null, second);
    }
  }

  setThreshold = debounce(250, async (entry, threshold) => {
    await this.save(entry);
    if (entry.lesion.edited && !await ask(`A new threshold replaces what was drawn by hand in ${entry.lesion.name}.`, "Replace")) {
      entry.refused = true;
      return this.changed(entry);
    }
    await this.patch(entry, { threshold });
  });

  async accept(entry, accepted) {
    await this.save(entry);
    if (entry.dirty) return; // the failure has been told
    await this.patch(entry, { accepted });
  }

  async remove(entry) {
    const { name, accepted, lesion } = entry.lesion;
    if (!lesion) return notify(`${name} is being sent. Delete it when its mask has come.`);
    if (!await ask(`Delete ${name}${accepted ? ", which is accepted" : ""}? This cannot be undone.`, "Delete")) return;
    try {
      entry.dirty = false;
      if (entry.progress) await this.cancel(entry);
      if (entry.lesion.lesion) await this.#serial(entry, () => api.deleteLesion(entry.lesion.lesion));
      this.#drop(entry);
    } catch (error) {
      this.#failed(entry, error);
    }
  }

  #drop(entry) {
    this.entries = this.entries.filter(other => other !== entry);
    this.changed();
  }

  // strokes

  /** Why the selected lesion cannot be drawn on, or null. */
  drawable() {
    const { current } = this;
    if (!current) return "Select a lesion first, or click one with the Click tool.";
    if (current.lesion.accepted) return `${current.lesion.name} is accepted. Reopen it to draw on it.`;
    if (current.progress || !current.mask) return `${current.lesion.name} has no mask yet.`;
    return null;
  }

  stroke(phase, at) {
    if (phase === "can") {
      const reason = this.drawable();
      if (reason) notify(reason);
      return !reason;
    }
    const { current } = this, mask = current?.mask;
    if (!mask) return;
    if (phase === "start") {
      mask.startStroke(this.viewer.tool === "brush" ? 1 : 0);
      mask.disc(at.axis, at.k, at.u, at.v, at.ru, at.rv);
      this.last = [at.u, at.v];
      this.stroking = true;
    } else if (phase === "move" && this.stroking) {
      mask.line(at.axis, at.k, this.last, [at.u, at.v], at.ru, at.rv);
      this.last = [at.u, at.v];
    } else if (phase === "end" || phase === "cancel") {
      this.stroking = false;
      if (mask.endStroke() && phase === "end") this.#drawn(current);
      else if (phase === "cancel" && mask.strokes.length) mask.undo();
    }
  }

  undo() {
    const { current } = this;
    if (!current?.mask?.strokes.length || this.drawable() || this.stroking) return notify("There is no stroke to undo.");
    current.mask.undo();
    this.#drawn(current);
  }

  #drawn(entry) {
    entry.dirty = true;
    this.changed(entry);
    this.#later(entry);
  }

  #later = debounce(600, entry => this.save(entry));

  /** Sends the mask if it was drawn on. The server measures it again. */
  async save(entry) {
    if (!entry.dirty || this.stroking) return;
    entry.dirty = false;
    entry.saving = true;
    this.changed(entry);
    try {
      await this.#serial(entry, async () => {
        entry.lesion = await api.putMask(entry.lesion, entry.mask.crop());
      });
      entry.failing = false;
    } catch (error) {
      entry.dirty = true;
      if (error.status === 0 || error.status >= 500) { // tried again until it is saved, told once
        if (!entry.failing) notify(`${entry.lesion.name} is not saved: ${error.message}`, "error");
        entry.failing = true;
        setTimeout(() => this.save(entry), RETRY_MS);
      } else await this.#conflict(entry, error);
    }
    entry.saving = false;
    this.changed(entry);
    if (entry.lesion.edited && !entry.dirty) this.dispatchEvent(new CustomEvent("measured", { detail: entry }));
  }

  /** Waits until everything drawn has been sent. */
  async settle() {
    for (const entry of this.entries) {
      await this.save(entry);
      await entry.queue;
    }
  }
}
