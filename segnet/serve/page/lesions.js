// The list of lesions: name, site, role, measurements, threshold, accept, delete.

import { h, mm } from "./dom.js";

export const SITES = ["lung", "lymph node", "liver", "adrenal", "kidney", "pancreas", "bone", "soft tissue", "brain", "pleura", "other"];
export const ROLES = [["target", "Target"], ["non-target", "Non-target"], ["node", "Lymph node (target)"]];
const ml = value => value === null || value === undefined ? "–" : `${value < 10 ? value.toFixed(2) : value.toFixed(1)} ml`;
const grey = (value, modality) => value === null || value === undefined ? "–" : `${Math.round(value)}${modality === "CT" ? " HU" : ""}`;
const choices = (first, list) => [h("option", { value: "" }, first), ...list.map(([value, text]) => h("option", { value }, text))];

/** Sets a control's value unless the user is in it. */
function show(control, value) {
  if (document.activeElement !== control) control.value = value ?? "";
}

class Card {
  constructor(session, entry) {
    this.session = session;
    this.entry = entry;
    const field = (text, control) => h("label", { class: "field" }, h("span", {}, text), control);
    this.title = h("button", { type: "button", class: "title", onclick: () => session.select(entry, true) });
    this.summary = h("p", { class: "summary" });
    this.bar = h("progress", { max: 1 });
    this.message = h("span", { class: "message", role: "status" });
    this.cancel = h("button", { type: "button", onclick: () => session.cancel(entry) }, "Cancel");
    this.progress = h("div", { class: "row progress" }, this.bar, this.message, this.cancel);
    this.error = h("p", { class: "error", role: "alert" });
    this.name = h("input", { type: "text", maxlength: 64, autocomplete: "off", onchange: () => this.#change("name", this.name.value.trim() || entry.lesion.name) });
    this.site = h("select", { onchange: () => this.#change("site", this.site.value || null) }, choices("Choose…", SITES.map(site => [site, site])));
    this.role = h("select", { onchange: () => this.#change("role", this.role.value || null) }, choices("Choose…", ROLES));
    this.measures = h("dl", { class: "measures" });
    this.where = h("button", { type: "button", class: "link where", onclick: () => session.jump(entry) });
    this.warnings = h("ul", { class: "warnings", "aria-label": "Warnings" });
    this.thresholdValue = h("output", {});
    this.threshold = h("input", { type: "range", min: 0.02, max: 0.98, step: 0.02, oninput: () => {
      this.thresholdValue.value = Number(this.threshold.value).toFixed(2);
      session.setThreshold(entry, Number(this.threshold.value));
    } });
    this.accept = h("button", { type: "button", class: "primary accept", onclick: () => session.accept(entry, !entry.lesion.accepted) });
    this.remove = h("button", { type: "button", class: "danger", onclick: () => session.remove(entry) }, "Delete");
    this.saved = h("span", { class: "saved", role: "status" });
    this.body = h("div", { class: "body" },
      this.warnings, this.measures, this.where, field("Name", this.name),
      h("div", { class: "pair" }, field("Site", this.site), field("Role", this.role)),
      h("label", { class: "field threshold" }, h("span", {}, "Threshold ", this.thresholdValue), this.threshold),
      h("div", { class: "row" }, this.accept, this.remove, this.saved));
    this.element = h("li", { class: "card" }, this.title, this.summary, this.progress, this.error, this.body);
  }

  #change(field, value) {
    this.session.patch(this.entry, { [field]: value });
  }

  update() {
    const { entry, session, entry: { lesion, progress } } = this, done = lesion.state === "done" && !progress;
    this.element.dataset.lesion = lesion.lesion ?? "";
    this.element.dataset.state = progress ? "running" : lesion.state;
    this.element.classList.toggle("selected", entry.selected);
    this.element.style.setProperty("--colour", entry.colour);
    this.title.setAttribute("aria-pressed", entry.selected);
    this.title.replaceChildren(h("span", { class: "swatch", "aria-hidden": "true" }), h("span", { class: "name" }, lesion.name),
      ...lesion.edited ? [h("span", { class: "badge" }, "Edited")] : [], ...lesion.accepted ? [h("span", { class: "badge ok" }, "Accepted")] : []);
    const size = lesion.long_axis_mm === null || lesion.long_axis_mm === undefined ? "" : `${lesion.long_axis_mm.toFixed(1)} × ${lesion.short_axis_mm.toFixed(1)} mm`;
    this.summary.textContent = [size, ml(lesion.volume_ml), lesion.site, lesion.role].filter(part => part && part !== "–").join(" · ");
    this.summary.hidden = !done || entry.selected;
    this.progress.hidden = !progress;
    if (progress) {
      if (progress.progress > 0) this.bar.value = progress.progress;
      else this.bar.removeAttribute("value");
      this.bar.setAttribute("aria-label", `Segmentation of ${lesion.name}`);
      const ahead = progress.state === "queued" && progress.position ? `${progress.position} ahead` : "";
      this.message.textContent = ahead || progress.message || "Segmenting";
      this.cancel.hidden = !lesion.job;
    }
    const failed = !progress && (lesion.state === "failed" || lesion.state === "cancelled");
    this.error.hidden = !failed;
    this.error.textContent = lesion.error || (lesion.state === "cancelled" || entry.cancelled ? "Cancelled. Click again to segment." : "The segmentation failed. Click again, or delete this lesion.");
    this.body.hidden = !entry.selected || (!done && !failed);
    const locked = lesion.accepted || !done;
    show(this.name, lesion.name);
    show(this.site, lesion.site);
    show(this.role, lesion.role);
    if (document.activeElement !== this.threshold || lesion.threshold !== this.shownThreshold || entry.refused) {
      entry.refused = false;
      this.threshold.value = lesion.threshold ?? 0.5;
      this.thresholdValue.value = Number(this.threshold.value).toFixed(2);
      this.shownThreshold = lesion.threshold;
    }
    for (const control of [this.name, this.site, this.role, this.threshold]) {
      control.disabled = locked;
      control.title = lesion.accepted ? "Reopen the lesion to change it" : "";
    }
    const row = (term, value, strong) => h("div", { class: strong ? "strong" : null }, h("dt", {}, term), h("dd", {}, value));
    this.measures.replaceChildren(
      row("Long axis", mm(lesion.long_axis_mm), lesion.role !== "node"), row("Short axis", mm(lesion.short_axis_mm), lesion.role === "node"),
      row("Volume", ml(lesion.volume_ml)), row("Mean", grey(lesion.mean_hu, session.image?.modality)));
    this.measures.hidden = !done;
    this.where.hidden = !done || !lesion.axes;
    this.where.textContent = lesion.axes ? `Show the axes on axial slice ${lesion.axes.slice + 1}` : "";
    this.warnings.replaceChildren(...(lesion.warnings ?? []).map(text => h("li", {}, text)));
    this.warnings.hidden = !lesion.warnings?.length;
    this.accept.textContent = lesion.accepted ? "Reopen" : "Accept";
    this.accept.disabled = !done || !lesion.box;
    this.accept.title = this.accept.disabled ? "There is no mask to accept" : "";
    this.saved.textContent = entry.saving ? "Saving…" : entry.dirty ? "Not saved yet" : lesion.edited ? "Saved" : "";
  }
}

/** Keeps the list in step with the session. Cards live as long as their lesion, so that focus stays where it is. */
export function lesionList(session, list, empty) {
  const cards = new Map();
  session.addEventListener("change", () => {
    for (const [entry, card] of cards)
      if (!session.entries.includes(entry)) {
        card.element.remove();
        cards.delete(entry);
      }
    for (const entry of session.entries) {
      if (!cards.has(entry)) {
        cards.set(entry, new Card(session, entry));
        list.append(cards.get(entry).element);
      }
      cards.get(entry).update();
    }
    empty.hidden = session.entries.length > 0;
  });
}
