// Small helpers to build and announce parts of the page.

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** An element: attributes by name, `on…` listeners, properties with a leading dot, children as nodes or text. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith(".")) element[name.slice(1)] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
  return element;
}

/** A message in the corner. Errors stay until dismissed; others leave after six seconds. */
export function notify(text, kind = "info") {
  const box = h("div", { class: `notice ${kind}`, role: kind === "error" ? "alert" : "status" },
    h("span", {}, text),
    h("button", { type: "button", class: "quiet", "aria-label": "Dismiss this message", onclick: () => box.remove() }, "×"));
  const list = $("#notices");
  list.append(box);
  while (list.children.length > 4) list.firstElementChild.remove();
  if (kind !== "error") setTimeout(() => box.remove(), 6000);
}

/** A question in a dialog. Resolves to true for the action, false for cancel. */
export function ask(question, action) {
  return new Promise(resolve => {
    const dialog = h("dialog", { class: "ask", "aria-label": question },
      h("p", {}, question),
      h("form", { method: "dialog", class: "row end" },
        h("button", { value: "no", autofocus: true }, "Cancel"),
        h("button", { value: "yes", class: "primary" }, action)));
    dialog.addEventListener("close", () => { dialog.remove(); resolve(dialog.returnValue === "yes"); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Calls the function once, after calls have paused. */
export function debounce(milliseconds, call) {
  let timer = 0;
  const later = (...values) => { clearTimeout(timer); timer = setTimeout(() => call(...values), milliseconds); };
  later.cancel = () => clearTimeout(timer);
  return later;
}

export const bytes = n => n < 1024 ? `${n} B` : n < 1048576 ? `${(n / 1024).toFixed(0)} kB`
  : n < 1073741824 ? `${(n / 1048576).toFixed(n < 10485760 ? 1 : 0)} MB` : `${(n / 1073741824).toFixed(n % 1073741824 ? 1 : 0)} GB`;

export const mm = value => value === null || value === undefined ? "–" : `${value.toFixed(1)} mm`;
