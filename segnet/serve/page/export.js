// Export: files to download, and objects to the PACS.

import * as api from "./api.js";
import { $, $$, bytes, h } from "./dom.js";

export class Export {
  constructor(session, about) {
    this.session = session;
    this.about = about;
    this.dialog = $("#export");
    $("#export-form").addEventListener("submit", event => { event.preventDefault(); this.#run(); });
    $("#export-cancel").addEventListener("click", () => { if (this.job) api.cancelJob(this.job).catch(() => {}); });
    for (const box of $$("#export-form input")) box.addEventListener("change", () => this.#ready());
  }

  show() {
    const { image, entries } = this.session;
    if (!image || this.dialog.open) return;
    const done = entries.filter(entry => entry.lesion.state === "done" && entry.lesion.box), accepted = done.filter(entry => entry.lesion.accepted);
    this.sets = { accepted, all: done };
    $("#export-accepted-count").textContent = `(${accepted.length})`;
    $("#export-all-count").textContent = `(${done.length})`;
    $("#export-accepted").disabled = !accepted.length;
    $("#export-all").disabled = !done.length;
    $(accepted.length ? "#export-accepted" : "#export-all").checked = true;
    const dicom = image.source === "dicom" ? null : "Only for images that came as DICOM.";
    for (const format of ["seg", "sr"]) this.#allow(format, dicom);
    this.#allow("pacs", dicom ?? (!this.about.pacs_store ? "No PACS is set up to receive objects."
      : image.deidentified ? "This image is de-identified: it must not go back to the PACS."
        : !image.pacs_export ? "The server does not allow this image to be sent to the PACS." : !accepted.length ? "Accept a lesion first." : null));
    $("#export-result").replaceChildren();
    $("#export-error").hidden = $("#export-progress").hidden = true;
    this.#ready();
    this.dialog.showModal();
  }

  #allow(name, reason) {
    const box = $(`#export-${name}`);
    box.disabled = Boolean(reason);
    if (reason) box.checked = false;
    $(`#export-${name}-reason`).textContent = reason ?? "";
  }

  #chosen() {
    return {
      formats: $$('#export-form input[name="format"]:checked').map(box => box.value),
      lesions: this.sets[$('#export-form input[name="lesions"]:checked').value],
      pacs: $("#export-pacs").checked,
    };
  }

  #ready() {
    const { formats, lesions, pacs } = this.#chosen();
    let reason = "";
    if (!lesions.length) reason = "There is no lesion with a mask yet. Click a lesion first.";
    else if (!formats.length) reason = "Choose at least one format.";
    else if (pacs && !formats.includes("seg") && !formats.includes("sr")) reason = "The PACS takes DICOM SEG or SR: choose one of them.";
    else if (pacs && lesions.some(entry => !entry.lesion.accepted)) reason = "Only accepted lesions go to the PACS.";
    $("#export-run").disabled = Boolean(reason) || Boolean(this.job);
    $("#export-reason").textContent = reason;
  }

  async #run() {
    const { formats, lesions, pacs } = this.#chosen();
    $("#export-error").hidden = true;
    $("#export-progress").hidden = false;
    $("#export-cancel").hidden = true;
    $("#export-bar").removeAttribute("value");
    $("#export-result").replaceChildren();
    $("#export-run").disabled = true;
    try {
      await this.session.settle();
      const answer = await api.newExport({ image: this.session.image.image, lesions: lesions.map(entry => entry.lesion.lesion), formats, pacs });
      this.job = api.jobOf(answer);
      $("#export-cancel").hidden = false;
      const result = await api.follow(this.job, state => {
        if (state.progress) $("#export-bar").value = state.progress;
        $("#export-text").textContent = state.message || state.state;
      });
      const links = result.files.map(file => h("li", {}, h("a", { href: file.url.replace(/^\//, ""), download: file.name.endsWith(".html") ? null : file.name, target: file.name.endsWith(".html") ? "_blank" : null, rel: "noopener" }, file.name),
        h("span", { class: "details" }, ` ${bytes(file.bytes)}`)));
      if (result.pacs) links.push(h("li", { class: result.pacs.verified ? "ok" : "error" }, result.pacs.verified
        ? `The PACS stored ${result.pacs.stored.length} ${result.pacs.stored.length === 1 ? "object" : "objects"}, and each was found again.`
        : "The PACS answered, but the stored objects were not found again. Check the archive."));
      $("#export-result").replaceChildren(...links);
    } catch (error) {
      $("#export-error").textContent = error.name === "AbortError" ? "The export was cancelled." : error.message;
      $("#export-error").hidden = false;
    }
    this.job = null;
    $("#export-progress").hidden = true;
    this.#ready();
  }
}
