// The first screen: drop or choose files, pick from the PACS, reopen a recent image.

import * as api from "./api.js";
import { $, ask, bytes, h, notify } from "./dom.js";
import { check, dropped, send } from "./upload.js";

export class Start {
  /** `open(sha)` opens an image; `preview(file)` shows a file while it is sent. */
  constructor(about, { open, preview }) {
    Object.assign(this, { about, open, preview });
    this.panel = $("#start");
    const { limits } = about;
    $("#limits").textContent = `NIfTI, MHA, NRRD or a DICOM folder. At most ${bytes(limits.upload_bytes)} and ${limits.files.toLocaleString("en")} files for each image.`;
    for (const input of [$("#choose-file"), $("#choose-folder")])
      input.addEventListener("change", () => { this.take([...input.files]); input.value = ""; });
    $("#choose-file-button").addEventListener("click", () => $("#choose-file").click());
    $("#choose-folder-button").addEventListener("click", () => $("#choose-folder").click());
    $("#upload-cancel").addEventListener("click", () => this.sending?.abort());
    $("#upload-retry").addEventListener("click", () => this.#send(this.last));
    addEventListener("dragover", event => {
      event.preventDefault();
      document.body.classList.add("dragging");
    });
    addEventListener("dragleave", event => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
    addEventListener("drop", async event => {
      event.preventDefault();
      document.body.classList.remove("dragging");
      try {
        this.take(await dropped(event.dataTransfer, limits.files));
      } catch (error) {
        this.#fail(error, false);
      }
    });
  }

  get busy() { return Boolean(this.sending); }

  show() {
    this.panel.hidden = false;
    document.body.classList.add("starting");
    this.list();
  }

  hide() {
    this.panel.hidden = true;
    document.body.classList.remove("starting");
  }

  #fail(error, retry) {
    this.show();
    $("#upload-error").textContent = error.message;
    $("#upload-error").hidden = false;
    $("#upload-retry").hidden = !retry;
    $("#upload").hidden = true;
  }

  take(files) {
    if (this.busy) return notify("An image is being sent. Cancel it, or wait until it is done.");
    try {
      this.last = check(files, this.about.limits);
    } catch (error) {
      return this.#fail(error, false);
    }
    return this.#send(this.last);
  }

  async #send(chosen) {
    const bar = $("#upload-bar"), text = $("#upload-text"), { signal } = this.sending = new AbortController();
    $("#upload-error").hidden = $("#upload-retry").hidden = true;
    $("#upload").hidden = false;
    $("#upload-name").textContent = chosen.name;
    const progress = ({ message, fraction }) => {
      if (fraction) bar.value = fraction;
      else bar.removeAttribute("value");
      text.textContent = message;
    };
    try {
      if (chosen.nifti) this.preview(chosen.files[0]).catch(() => { /* the server says what is wrong with the file */ });
      const sha = await send(chosen, progress, signal);
      this.sending = null;
      $("#upload").hidden = true;
      await this.open(sha);
    } catch (error) {
      this.sending = null;
      if (error.name === "AbortError") {
        $("#upload").hidden = true;
        this.show();
        notify("Cancelled. Choose the same files again to go on where it stopped.");
      } else this.#fail(error, true);
    }
  }

  /** Follows an ingest job that was started elsewhere, such as an import from the PACS. */
  async follow(job, name) {
    this.sending = new AbortController();
    const stop = () => api.cancelJob(job).catch(() => {});
    this.sending.signal.addEventListener("abort", stop);
    $("#upload").hidden = false;
    $("#upload-error").hidden = $("#upload-retry").hidden = true;
    $("#upload-name").textContent = name;
    try {
      const { image } = await api.follow(job, state => {
        if (state.progress) $("#upload-bar").value = state.progress;
        else $("#upload-bar").removeAttribute("value");
        $("#upload-text").textContent = state.message || "The server fetches the series";
      });
      this.sending = null;
      $("#upload").hidden = true;
      await this.open(image);
    } catch (error) {
      this.sending = null;
      this.#fail(error.name === "AbortError" ? new Error("The import was cancelled.") : error, false);
    }
  }

  async list() {
    const list = $("#recent");
    try {
      const images = await api.images();
      $("#recent-empty").hidden = images.length > 0;
      list.replaceChildren(...images.map(image => this.#row(image)));
    } catch (error) {
      notify(error.message, "error");
    }
  }

  #row(image) {
    const details = [image.modality, image.study_date, image.shape.join(" × "), image.deidentified ? "de-identified" : ""].filter(Boolean).join(" · ");
    return h("li", {},
      h("button", { type: "button", class: "recent-open", onclick: () => this.open(image.image).catch(error => this.#fail(error, false)) },
        h("span", { class: "name" }, image.name), h("span", { class: "details" }, details)),
      h("button", { type: "button", class: "quiet", "aria-label": `Delete ${image.name} from the server`, title: "Delete from the server", onclick: () => this.#delete(image) }, "×"));
  }

  async #delete(image) {
    if (!await ask(`Delete ${image.name} and its lesions from the server?`, "Delete")) return;
    try {
      await api.deleteImage(image.image);
    } catch (error) {
      if (error.status !== 409) return notify(error.message, "error");
      if (!await ask(`${image.name} holds accepted lesions. Delete these as well?`, "Delete all")) return;
      await api.deleteImage(image.image, true).catch(second => notify(second.message, "error"));
    }
    this.onDeleted?.(image.image);
    this.list();
  }
}
