"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);

  // The theme is kept for the session only, where the browser allows that at all.
  const theme = byId("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const session = (value) => {
    try {
      if (value) sessionStorage.setItem("theme", value);
      return sessionStorage.getItem("theme");
    } catch { return null; }
  };
  const current = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const label = () => { theme.textContent = current() === "dark" ? "Light theme" : "Dark theme"; };
  const kept = session();
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  theme.addEventListener("click", () => {
    root.dataset.theme = current() === "dark" ? "light" : "dark";
    session(root.dataset.theme);
    label();
  });
  dark.addEventListener("change", label);
  label();
  theme.hidden = false;

  // The table of lesions: rows are made from the data as they are asked for.
  const data = JSON.parse(byId("rows").textContent);
  const table = byId("list");
  const body = table.tBodies[0];
  const find = byId("find"), most = byId("most"), shown = byId("shown"), more = byId("more");
  const dice = data.digits.findIndex((digits, column) => digits === 3 && table.tHead.rows[1].cells[column].textContent.trim() === "Dice");
  const words = data.rows.map((row) => row.filter((_, column) => data.digits[column] === null).join(" ").toLowerCase());
  const text = (value, digits) => {
    if (digits === null) return String(value);
    if (value === null) return "–";
    const fixed = Math.abs(value) < 1e15 ? value.toFixed(digits) : value.toExponential(digits);
    return fixed.startsWith("-") ? (Number(fixed) === 0 ? fixed.slice(1) : "−" + fixed.slice(1)) : fixed;
  };
  // The rows come sorted by the Dice of the model that leads.
  let order = data.rows.map((_, index) => index), column = dice, up = true, limit = data.first;

  const line = (index) => {
    const tr = document.createElement("tr");
    data.rows[index].forEach((value, at) => {
      const cell = document.createElement(at === 0 ? "th" : "td");
      if (data.digits[at] !== null) cell.className = "n";
      if (at === 0) {
        cell.scope = "row";
        if (data.sections[index]) {
          const link = document.createElement("a");
          link.href = "#lesion-" + data.sections[index];
          link.textContent = text(value, null);
          cell.append(link);
        } else cell.textContent = text(value, null);
      } else cell.textContent = text(value, data.digits[at]);
      tr.append(cell);
    });
    return tr;
  };

  const compare = (a, b) => {
    const x = data.rows[a][column], y = data.rows[b][column];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;  // no value: last, both ways
    const difference = data.digits[column] === null ? x.localeCompare(y, "en", { numeric: true }) : x - y;
    return (up ? difference : -difference) || a - b;
  };

  const render = () => {
    const wanted = find.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const cap = most.value === "" ? null : Number(most.value);
    const found = order.filter((index) =>
      wanted.every((word) => words[index].includes(word)) &&
      (cap === null || dice < 0 || (data.rows[index][dice] !== null && data.rows[index][dice] <= cap)));
    body.replaceChildren(...found.slice(0, limit).map(line));
    const n = found.length.toLocaleString("en"), whole = data.rows.length.toLocaleString("en");
    shown.textContent = n === whole ? `${whole} lesions` : `${n} of ${whole} lesions`;
    const left = found.length - limit;
    more.hidden = left <= 0;
    more.textContent = `Show ${Math.min(left, data.first).toLocaleString("en")} more of ${n}`;
  };

  table.querySelectorAll("button.sort").forEach((button) => {
    button.disabled = false;
    button.addEventListener("click", () => {
      const chosen = Number(button.dataset.column);
      up = chosen === column ? !up : true;
      column = chosen;
      order.sort(compare);
      limit = data.first;
      table.querySelectorAll("th[aria-sort]").forEach((th) => th.removeAttribute("aria-sort"));
      button.closest("th").setAttribute("aria-sort", up ? "ascending" : "descending");
      render();
    });
  });
  let waiting = 0;
  const later = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { limit = data.first; render(); }, 120);
  };
  find.addEventListener("input", later);
  most.addEventListener("input", later);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { limit += data.first; render(); });
  byId("controls").hidden = false;
  render();

  // Paper shows what was folded, and all rows found.
  let opened = [], before = limit;
  addEventListener("beforeprint", () => {
    before = limit;
    limit = Infinity;
    render();
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((d) => { d.open = true; });
  });
  addEventListener("afterprint", () => {
    opened.forEach((d) => { d.open = false; });
    limit = before;
    render();
  });
})();
