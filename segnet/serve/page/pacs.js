// Pick a series from the PACS.

import * as api from "./api.js";
import { $, h } from "./dom.js";

const dicomDate = value => value.replaceAll("-", "");

export class Pacs {
  /** `imported(job, name)` follows the import. */
  constructor(imported) {
    this.imported = imported;
    this.dialog = $("#pacs");
    $("#pacs-form").addEventListener("submit", event => { event.preventDefault(); this.#search(); });
    $("#pacs-open").addEventListener("click", () => { this.#clear(); this.dialog.showModal(); });
  }

  #clear() {
    $("#pacs-error").hidden = true;
    $("#pacs-found").replaceChildren();
    $("#pacs-status").textContent = "";
  }

  async #busy(text, work) {
    $("#pacs-error").hidden = true;
    $("#pacs-status").textContent = text;
    try {
      await work();
    } catch (error) {
      $("#pacs-error").textContent = error.message;
      $("#pacs-error").hidden = false;
      $("#pacs-status").textContent = "";
    }
  }

  #search() {
    const query = { modality: "CT" };
    for (const [field, input] of [["patient_id", "#pacs-id"], ["name", "#pacs-name"]]) if ($(input).value.trim()) query[field] = $(input).value.trim();
    if ($("#pacs-date").value) query.date = dicomDate($("#pacs-date").value);
    return this.#busy("Searching…", async () => {
      const studies = await api.pacsStudies(query);
      $("#pacs-status").textContent = studies.length ? `${studies.length} ${studies.length === 1 ? "study" : "studies"}` : "No study matches. Use * as a wildcard in the name.";
      $("#pacs-found").replaceChildren(...studies.map(study => {
        const series = h("ul", { class: "series" });
        return h("li", {},
          h("button", { type: "button", class: "recent-open", "aria-expanded": "false", onclick: event => {
            event.currentTarget.setAttribute("aria-expanded", "true");
            this.series(study.study, series);
          } },
          h("span", { class: "name" }, `${study.patient_name || "No name"} (${study.patient_id || "no id"})`),
          h("span", { class: "details" }, [study.date, study.description, `${study.series} series`].filter(Boolean).join(" · "))), series);
      }));
    });
  }

  /** Lists a study's series for the reader to choose one. */
  series(study, list = $("#pacs-found")) {
    if (!this.dialog.open) { this.#clear(); this.dialog.showModal(); }
    return this.#busy("Asking for the series…", async () => {
      const series = await api.pacsSeries(study);
      $("#pacs-status").textContent = series.length ? "" : "This study has no series.";
      list.replaceChildren(...series.map(one => {
        const usable = one.modality === "CT" || one.modality === "MR";
        return h("li", {}, h("button", {
          type: "button", class: "recent-open", disabled: !usable, title: usable ? null : `${one.modality} is not an image volume`,
          onclick: () => this.take(study, one.series, one.description),
        }, h("span", { class: "name" }, one.description || "Series without description"),
        h("span", { class: "details" }, `${one.modality} · ${one.instances} images`)));
      }));
    });
  }

  take(study, series, name = "Series from the PACS") {
    return this.#busy("Starting the import…", async () => {
      const job = api.jobOf(await api.pacsImport(study, series));
      this.dialog.close();
      this.imported(job, name || "Series from the PACS");
    });
  }
}
