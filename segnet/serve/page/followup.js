// Two time points side by side. The reader pairs the lesions; the server computes the response by RECIST 1.1.

import * as api from "./api.js";
import { $, h, mm, notify } from "./dom.js";
import { Session } from "./session.js";
import { Viewer } from "./viewer.js";

const RESPONSES = { CR: "Complete response", PR: "Partial response", SD: "Stable disease", PD: "Progressive disease", NE: "Not evaluable" };
const GONE = "gone", OPEN = "";
const percent = value => value === null || value === undefined ? "–" : `${value > 0 ? "+" : ""}${value.toFixed(1)} %`;
const signed = value => value === null || value === undefined ? "–" : `${value > 0 ? "+" : ""}${value.toFixed(1)} mm`;

export class FollowUp {
  /** `session` holds the image that is open: the later time point unless the reader swaps them. */
  constructor(session) {
    this.session = session;
    this.panel = $("#followup");
    this.pane = $("#pane-other");
    this.swapped = false;
    this.pairs = new Map(); // baseline lesion id → follow-up lesion id, GONE or OPEN
    $("#followup-other").addEventListener("change", event => this.#pick(event.target.value));
    $("#followup-swap").addEventListener("click", () => { this.swapped = !this.swapped; this.pairs.clear(); this.#render(); });
    $("#followup-form").addEventListener("submit", event => { event.preventDefault(); this.#compare(); });
    session.addEventListener("change", () => { if (this.active) this.#render(); });
  }

  get active() { return document.body.classList.contains("comparing"); }

  async show() {
    const { image } = this.session;
    if (!image || this.active) return;
    document.body.classList.add("comparing");
    this.panel.hidden = this.pane.hidden = false;
    $("#lesion-panel").hidden = true;
    $("#followup-answer").replaceChildren();
    $("#followup-error").hidden = true;
    try {
      const others = (await api.images()).filter(other => other.image !== image.image);
      $("#followup-other").replaceChildren(h("option", { value: "" }, others.length ? "Choose an image…" : "No other image on the server"),
        ...others.map(other => h("option", { value: other.image }, [other.name, other.study_date].filter(Boolean).join(" · "))));
      $("#followup-other").disabled = !others.length;
    } catch (error) {
      notify(error.message, "error");
    }
    this.#render();
    $("#followup-other").focus();
  }

  hide() {
    if (!this.active) return;
    document.body.classList.remove("comparing");
    this.panel.hidden = this.pane.hidden = true;
    $("#lesion-panel").hidden = false;
    this.other?.viewer.dispose();
    this.other = null;
    this.pairs.clear();
    this.#captions();
  }

  async #pick(sha) {
    this.pairs.clear();
    $("#followup-answer").replaceChildren();
    if (!sha) {
      this.other?.close();
      return this.#render();
    }
    try {
      if (!this.other) {
        const viewer = new Viewer(this.pane, "Images of the other time point", { error: error => notify(error.message, "error") });
        viewer.setTool("navigate");
        await viewer.start();
        this.other = new Session(viewer);
        this.other.addEventListener("change", () => { if (this.active) this.#render(); });
      }
      $("#pane-other-text").textContent = "Loading…";
      await this.other.open(sha);
      const [mine, theirs] = [this.session.image.study_date, this.other.image.study_date];
      this.swapped = Boolean(mine && theirs && mine < theirs);
    } catch (error) {
      if (error.name !== "AbortError") notify(error.message, "error");
    }
    this.#render();
  }

  /** The sessions in order of time. */
  get order() {
    return this.swapped ? [this.session, this.other] : [this.other, this.session];
  }

  #captions() {
    const text = (role, image) => image ? [role, image.name, image.study_date].filter(Boolean).join(" · ") : "";
    const [mine, theirs] = this.swapped ? ["Baseline", "Follow-up"] : ["Follow-up", "Baseline"];
    $("#pane-main-text").textContent = this.active ? text(mine, this.session.image) : "";
    $("#pane-other-text").textContent = this.other?.image ? text(theirs, this.other.image) : "Choose the other time point on the right.";
    $("#panes").classList.toggle("swapped", this.swapped);
  }

  #usable(session) {
    return (session?.entries ?? []).filter(entry => entry.lesion.state === "done" && entry.lesion.box);
  }

  #render() {
    this.#captions();
    const ready = Boolean(this.other?.image);
    $("#followup-swap").disabled = !ready;
    $("#followup-form").hidden = !ready;
    if (!ready) return;
    const [before, after] = this.order, earlier = this.#usable(before), later = this.#usable(after);
    for (const { lesion } of earlier)
      if (!this.pairs.has(lesion.lesion)) {
        const same = later.find(entry => entry.lesion.tracking_uid && entry.lesion.tracking_uid === lesion.tracking_uid);
        this.pairs.set(lesion.lesion, same ? same.lesion.lesion : OPEN);
      }
    const taken = new Set(this.pairs.values());
    const focus = document.activeElement?.dataset?.pair;
    const jump = (session, entry) => h("button", { type: "button", class: "link", onclick: () => session.select(entry, true) }, entry.lesion.name);
    $("#pairs").replaceChildren(...earlier.map(entry => {
      const { lesion } = entry, value = this.pairs.get(lesion.lesion);
      const select = h("select", { "aria-label": `Follow-up of ${lesion.name}`, "data-pair": lesion.lesion, onchange: event => {
        this.pairs.set(lesion.lesion, event.target.value);
        const partner = later.find(other => other.lesion.lesion === event.target.value);
        if (partner) after.select(partner, true);
        before.select(entry, true);
        this.#render();
      } },
      h("option", { value: OPEN }, "Choose…"), h("option", { value: GONE }, "Not visible any more"),
      ...later.filter(other => !taken.has(other.lesion.lesion) || other.lesion.lesion === value)
        .map(other => h("option", { value: other.lesion.lesion }, `${other.lesion.name} (${mm(other.lesion.long_axis_mm)})`)));
      select.value = value;
      return h("tr", {}, h("td", {}, jump(before, entry), h("span", { class: "details" }, ` ${lesion.role ?? "no role"}`)), h("td", {}, select));
    }));
    if (focus) $(`[data-pair="${CSS.escape(focus)}"]`)?.focus();
    $("#pairs-empty").hidden = earlier.length > 0;
    const fresh = later.filter(entry => !taken.has(entry.lesion.lesion));
    $("#new-lesions").replaceChildren(...(fresh.length ? ["Unpaired in the follow-up, counted as new: ", ...fresh.flatMap((entry, i) => [i ? ", " : "", jump(after, entry)])] : []));
    if (this.answered !== this.#question()) $("#followup-answer").replaceChildren(); // it would answer another question
    const open = earlier.filter(({ lesion }) => this.pairs.get(lesion.lesion) === OPEN).length;
    $("#followup-run").disabled = !earlier.length || open > 0;
    $("#followup-reason").textContent = !earlier.length ? "The baseline has no lesion with a mask." : open ? `Say what became of ${open} more ${open === 1 ? "lesion" : "lesions"}.` : "";
  }

  /** What an answer depends on: pairs, and the revisions of all lesions. */
  #question() {
    return JSON.stringify([this.swapped, [...this.pairs], this.order.map(session => this.#usable(session).map(({ lesion }) => [lesion.lesion, lesion.revision]))]);
  }

  async #compare() {
    const [before, after] = this.order, earlier = this.#usable(before), later = this.#usable(after), taken = new Set(this.pairs.values());
    const pairs = earlier.map(({ lesion }) => ({ baseline: lesion.lesion, followup: this.pairs.get(lesion.lesion) === GONE ? null : this.pairs.get(lesion.lesion) }));
    for (const { lesion } of later) if (!taken.has(lesion.lesion)) pairs.push({ baseline: null, followup: lesion.lesion });
    const request = { baseline: before.image.image, followup: after.image.image, pairs };
    const nadir = $("#nadir").value.trim();
    if (nadir) request.nadir_mm = Number(nadir);
    $("#followup-error").hidden = true;
    $("#followup-run").disabled = true;
    try {
      await this.session.settle();
      const question = this.#question();
      this.#answer(await api.compare(request));
      this.answered = question;
    } catch (error) {
      $("#followup-error").textContent = error.message;
      $("#followup-error").hidden = false;
    }
    this.#render();
  }

  #answer(found) {
    const cell = text => h("td", {}, text), number = text => h("td", { class: "number" }, text), head = text => h("th", { scope: "col" }, text);
    const facts = [
      ["Sum of diameters", `${mm(found.baseline_sum_mm)} → ${mm(found.followup_sum_mm)}`], ["Change from baseline", percent(found.change_from_baseline_percent)],
      ["Nadir", mm(found.nadir_mm)], ["Change from nadir", `${percent(found.change_from_nadir_percent)}, ${signed(found.change_from_nadir_mm)}`], ["New lesions", String(found.new_lesions)],
    ];
    $("#followup-answer").replaceChildren(
      h("p", { class: `response ${found.response}`, role: "status" }, h("strong", {}, found.response), ` ${RESPONSES[found.response] ?? ""}`, h("span", { class: "details" }, " of the target lesions")),
      ...(found.problems.length ? [h("ul", { class: "warnings", "aria-label": "Problems" }, ...found.problems.map(text => h("li", {}, text)))] : []),
      h("table", { class: "recist" }, h("caption", {}, "Target lesions"),
        h("thead", {}, h("tr", {}, head("Lesion"), head("Baseline"), head("Follow-up"))),
        h("tbody", {}, ...found.targets.map(target => h("tr", {},
          cell([target.name, target.site, target.node ? "short axis" : "", target.note].filter(Boolean).join(" · ")), number(mm(target.baseline_mm)), number(mm(target.followup_mm)))))),
      h("dl", { class: "measures" }, ...facts.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value)))),
      h("details", { open: true }, h("summary", {}, "Rules"), h("ul", {}, ...found.rules.map(rule => h("li", {}, rule)))));
  }
}
