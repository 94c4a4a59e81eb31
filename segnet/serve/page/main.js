// Wires the page: viewer, session, start screen, export, follow-up, keys.

import * as api from "./api.js";
import { $, $$, h, notify } from "./dom.js";
import { Export } from "./export.js";
import { FollowUp } from "./followup.js";
import { listen } from "./keys.js";
import { lesionList } from "./lesions.js";
import { Pacs } from "./pacs.js";
import { Session } from "./session.js";
import { Start } from "./start.js";
import { Viewer } from "./viewer.js";

const WINDOWS = { lung: [-1350, 150], soft: [-160, 240], bone: [-500, 1300], brain: [0, 80] };
const TOOLS = {
  navigate: "A click moves the crosshair.",
  click: "Click a lesion to segment it.",
  brush: "Draw to add to the selected mask.",
  eraser: "Draw to remove from the selected mask.",
};

const seen = {
  get done() { try { return localStorage.getItem("segnet.seen") === "1"; } catch { return false; } },
  mark() { try { localStorage.setItem("segnet.seen", "1"); } catch { /* private mode: shown again next time */ } },
};

const viewer = new Viewer($("#pane-main"), "CT scan in three planes", {
  click: click => session.click(click).then(sayNext),
  stroke: (phase, at) => session.stroke(phase, at),
  moved: showProbe,
  window: showWindow,
  error: error => notify(error.message, "error"),
});
const session = new Session(viewer);
let start, exporter, followUp, pacs;

// the viewer's controls

function showProbe() {
  const found = viewer.probe();
  $("#probe").textContent = found ? `${found.mm.map(value => value.toFixed(1)).join(", ")} mm RAS · voxel ${found.voxel.join(", ")}${found.value === null || found.value === undefined || Number.isNaN(found.value) ? "" : ` · ${Math.round(found.value)}${session.image && session.image.modality !== "CT" ? "" : " HU"}`}` : "";
}

function showWindow([low, high]) {
  const stored = session.image?.window_hu ?? viewer.image?.window_hu;
  const same = window => window && window[0] === low && window[1] === high;
  $("#preset").value = same(stored) ? "default" : Object.keys(WINDOWS).find(name => same(WINDOWS[name])) ?? "manual";
  if (document.activeElement !== $("#level")) $("#level").value = Math.round((low + high) / 2);
  if (document.activeElement !== $("#width")) $("#width").value = Math.round(high - low);
}

function preset(name) {
  const window = name === "default" ? session.image?.window_hu ?? viewer.image?.window_hu : WINDOWS[name];
  if (window) viewer.setWindow(...window);
  else $("#level").focus();
}

function manualWindow() {
  const level = Number($("#level").value), width = Math.max(1, Number($("#width").value) || 1);
  viewer.setWindow(level - width / 2, level + width / 2);
}

function setTool(tool) {
  viewer.setTool(tool);
  for (const button of $$("[data-tool]", $("#toolbar"))) button.setAttribute("aria-pressed", button.dataset.tool === tool);
  $("#brush-group").classList.toggle("idle", tool !== "brush" && tool !== "eraser");
  sayNext();
}

function setBrush(size) {
  viewer.brushMm = Math.min(40, Math.max(1, size));
  $("#brush").value = viewer.brushMm;
  $("#brush-value").value = `${viewer.brushMm} mm`;
  viewer.draw();
}

function setLayout(layout) {
  viewer.setLayout(layout);
  $("#layout").value = layout;
}

function toggleMasks() {
  viewer.showMasks = !viewer.showMasks;
  $("#masks").setAttribute("aria-pressed", viewer.showMasks);
  viewer.draw();
}

/** What a click does now, in one sentence. */
function sayNext() {
  const { current } = session, hint = $("#lesions-hint");
  if (!session.image) hint.textContent = viewer.image ? "Preview. The server is reading the image." : "";
  else if (viewer.tool === "brush" || viewer.tool === "eraser") hint.textContent = session.drawable() ?? `${TOOLS[viewer.tool]} Selected: ${current.lesion.name}.`;
  else if (viewer.tool === "navigate") hint.textContent = TOOLS.navigate;
  else if (current && !current.lesion.accepted) hint.textContent = `Click to segment ${current.lesion.name} again, Shift click to add to it.`;
  else hint.textContent = TOOLS.click;
}

// images

async function open(sha) {
  followUp.hide();
  start.hide();
  const bar = $("#loading");
  bar.hidden = false;
  bar.textContent = "Loading the image…";
  try {
    await session.open(sha, (received, total) => {
      bar.textContent = total ? `Loading the image… ${Math.round(100 * received / total)} %` : `Loading the image… ${(received / 1048576).toFixed(0)} MB`;
    });
    history.replaceState(null, "", `?image=${encodeURIComponent(sha)}`);
    showWindow(viewer.window);
    setTool(viewer.tool);
  } catch (error) {
    if (error.name === "AbortError") return;
    session.close();
    start.show();
    throw error;
  } finally {
    bar.hidden = true;
  }
}

function showImage() {
  const { image } = session, shown = image ?? viewer.image;
  $("#image-name").textContent = shown ? [shown.name, shown.study_date, shown.shape.join(" × "), image ? null : "preview", image?.deidentified ? "de-identified" : null].filter(Boolean).join(" · ") : "";
  for (const button of [$("#followup-button"), $("#export-button"), $("#new-lesion")]) button.disabled = !image;
  $("#start-close").hidden = !image;
  $("#image-warnings").replaceChildren(...(image?.warnings ?? []).map(text => h("li", {}, text)));
  $("#image-warnings").hidden = !image?.warnings?.length;
  for (const option of $("#preset").options) option.disabled = image?.modality === "MR" && option.value in WINDOWS;
  $("#undo").disabled = !session.current?.mask?.strokes.length || Boolean(session.drawable());
  $("#lesions-empty").textContent = image ? "No lesions yet. Scroll to one and click it." : "No lesions yet.";
  const step = !shown ? "open" : "click";
  $("#steps").hidden = seen.done;
  for (const item of $$("#steps li")) {
    if (item.dataset.step === step) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  }
  sayNext();
}

function neighbour(step) {
  const { entries, current } = session;
  if (!entries.length) return;
  const at = current ? entries.indexOf(current) + step : step > 0 ? 0 : entries.length - 1;
  session.select(entries[(at + entries.length) % entries.length], true);
}

function threshold(step) {
  const input = $(".card.selected .threshold input");
  if (!input || input.disabled) return notify("Select a lesion that is not accepted to change its threshold.");
  input.value = Number(input.value) + step;
  input.dispatchEvent(new Event("input"));
}

function newLesion() {
  session.select(null);
  if (viewer.tool !== "click") setTool("click");
  viewer.overlay.focus({ preventScroll: true });
}

async function toggleFollowUp() {
  if (followUp.active) followUp.hide();
  else await followUp.show();
  $("#followup-button").setAttribute("aria-pressed", followUp.active);
}

function announce({ detail: { lesion } }) {
  if (!seen.done) {
    seen.mark();
    showImage();
  }
  $("#live").textContent = lesion.long_axis_mm === null ? `${lesion.name}: the mask is empty.`
    : `${lesion.name}: ${lesion.long_axis_mm.toFixed(1)} by ${lesion.short_axis_mm.toFixed(1)} millimetres, ${lesion.volume_ml.toFixed(2)} millilitres.`;
}

function wire() {
  for (const button of $$("[data-tool]", $("#toolbar"))) button.addEventListener("click", () => setTool(button.dataset.tool));
  $("#brush").addEventListener("input", event => setBrush(Number(event.target.value)));
  $("#undo").addEventListener("click", () => session.undo());
  $("#preset").addEventListener("change", event => preset(event.target.value));
  $("#level").addEventListener("input", manualWindow);
  $("#width").addEventListener("input", manualWindow);
  $("#layout").addEventListener("change", event => setLayout(event.target.value));
  $("#reset").addEventListener("click", () => viewer.image && viewer.reset());
  $("#masks").addEventListener("click", toggleMasks);
  $("#new-lesion").addEventListener("click", newLesion);
  $("#open-button").addEventListener("click", () => start.show());
  $("#start-close").addEventListener("click", () => start.hide());
  $("#export-button").addEventListener("click", () => exporter.show());
  $("#followup-button").addEventListener("click", toggleFollowUp);
  $("#followup-close").addEventListener("click", toggleFollowUp);
  $("#help-button").addEventListener("click", () => $("#help").showModal());
  for (const button of $$("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
  session.addEventListener("change", showImage);
  session.addEventListener("segmented", announce);
  session.addEventListener("measured", announce);
  lesionList(session, $("#lesions"), $("#lesions-empty"));
  addEventListener("beforeunload", event => { if (session.busy || start.busy) event.preventDefault(); });
  const selected = act => () => session.current ? act(session.current) : notify("Select a lesion first.");
  listen({
    undo: () => session.undo(), v: () => setTool("navigate"), c: () => setTool("click"), b: () => setTool("brush"), e: () => setTool("eraser"),
    "[": () => setBrush(viewer.brushMm - 1), "]": () => setBrush(viewer.brushMm + 1),
    n: () => session.image && newLesion(), j: () => neighbour(1), k: () => neighbour(-1),
    a: selected(entry => entry.progress || !entry.lesion.box ? notify("There is no mask to accept.") : session.accept(entry, !entry.lesion.accepted)),
    Delete: selected(entry => session.remove(entry)), Backspace: selected(entry => session.remove(entry)),
    ",": () => threshold(-0.02), ".": () => threshold(0.02),
    w: () => {
      const names = [...$("#preset").options].filter(option => !option.disabled && option.value !== "manual").map(option => option.value);
      preset(names[(names.indexOf($("#preset").value) + 1) % names.length]);
    },
    1: () => setLayout("all"), 2: () => setLayout("z"), 3: () => setLayout("y"), 4: () => setLayout("x"),
    "+": () => viewer.image && viewer.zoomBy(1.25), "=": () => viewer.image && viewer.zoomBy(1.25), "-": () => viewer.image && viewer.zoomBy(0.8),
    0: () => viewer.image && viewer.reset(), m: toggleMasks, h: () => { viewer.showCrosshair = !viewer.showCrosshair; viewer.draw(); },
    g: () => viewer.overlay.focus(), o: () => start.show(), f: () => session.image && toggleFollowUp(), x: () => exporter.show(), "?": () => $("#help").showModal(),
    Escape: () => { if (!start.panel.hidden && session.image) start.hide(); else if (followUp.active) toggleFollowUp(); else session.select(null); },
  });
}

async function main() {
  let about;
  try {
    about = await api.about();
  } catch (error) {
    $("#start").hidden = false;
    $("#drop").replaceChildren(h("h2", { id: "start-title" }, "The page cannot start"), h("p", { class: "error", role: "alert" }, error.message));
    return;
  }
  $("#version").textContent = `segnet ${about.version}`;
  start = new Start(about, {
    open,
    preview: async file => {
      session.close();
      if (await viewer.preview(file)) start.hide();
      showImage();
    },
  });
  start.onDeleted = sha => {
    if (session.image?.image !== sha) return;
    session.close();
    history.replaceState(null, "", location.pathname);
  };
  exporter = new Export(session, about);
  followUp = new FollowUp(session);
  const imported = (job, name) => start.follow(job, name);
  if (about.pacs) {
    pacs = new Pacs(imported);
    $("#pacs-open").hidden = false;
  }
  wire();
  setBrush(6);
  await viewer.start();
  setTool("click");
  showWindow(viewer.window);
  showImage();
  const query = new URLSearchParams(location.search), [sha, study, series] = ["image", "study", "series"].map(name => query.get(name));
  start.show();
  if (sha) await open(sha).catch(error => notify(error.message, "error"));
  else if (study && !pacs) notify("This link names a study of the PACS, but no PACS is set up on this server.", "error");
  else if (study && series) {
    try {
      imported(api.jobOf(await api.pacsImport(study, series)), "Series from the PACS");
    } catch (error) {
      notify(error.message, "error");
    }
  } else if (study) pacs.series(study);
  document.documentElement.dataset.ready = "yes";
}

main();
