"""The page's script in a real browser, where there is one: sorting, filtering, rows as they are asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from segnet.report.page import Sources, write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = """
<script>
"use strict";
const seen = [];
addEventListener("error", (e) => seen.push("error: " + e.message));
const press = (column) => document.querySelector(`button.sort[data-column="${column}"]`).click();
const rows = () => [...document.querySelectorAll("#list tbody tr")];
const state = () => seen.push({
  rows: rows().length, first: rows()[0].cells[0].textContent, last: rows().at(-1).cells[0].textContent,
  sorted: [...document.querySelectorAll("th[aria-sort]")].map((th) => th.getAttribute("aria-sort")),
  more: !document.getElementById("more").hidden, shown: document.getElementById("shown").textContent,
  text: rows()[0].textContent,
});
state();
press(COLUMN); state();
press(COLUMN); state();
document.getElementById("more").click(); state();
document.getElementById("find").value = "c00007";
document.getElementById("find").dispatchEvent(new Event("input"));
setTimeout(() => {
  state();
  document.getElementById("find").value = "";
  dispatchEvent(new Event("beforeprint")); state();
  dispatchEvent(new Event("afterprint")); state();
  document.getElementById("theme").click();
  seen.push(document.documentElement.dataset.theme);
  const colour = () => getComputedStyle(document.querySelector(".chart text")).fill;
  seen.push(colour());
  document.getElementById("theme").click();
  seen.push(colour());
  document.title = "x";
  const out = document.createElement("pre"); out.id = "seen"; out.textContent = JSON.stringify(seen); document.body.append(out);
}, 300);
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_sorting_filtering_and_theme(document: Any, tmp_path: Path) -> None:
    lesions = [
        {**document["lesions"][k % 10], "case": f"c{k:05d}", "hd95_mm": None if k == 5 else k / 16} for k in range(250)
    ]
    (tmp_path / "evaluation.json").write_text(json.dumps({**document, "lesions": lesions}))
    out = tmp_path / "r.html"
    write_report(out, Sources({"a": tmp_path}))
    text = out.read_text()
    labels = re.findall(r'data-column="(\d+)" disabled>([^<]+)<', text)
    column = next(number for number, label in labels if label.startswith("HD95"))
    static = re.search(r"<tbody>\s*(<tr>.*?</tr>)", text.split('id="list"')[1], re.DOTALL)
    assert static
    out.write_text(text.replace("</body>", DRIVER.replace("COLUMN", column) + "</body>"))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=3000", "--dump-dom", out.as_uri()]
    environment = {**os.environ, "HOME": str(tmp_path)}
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    found = re.search(r'<pre id="seen">(.*?)</pre>', run.stdout, re.DOTALL)
    assert found, run.stderr[-2000:]
    start, up, down, longer, one, printed, after, theme, fill, other = json.loads(found[1])
    assert (start["rows"], start["sorted"], start["more"]) == (100, ["ascending"], True)
    assert printed["rows"] == 250
    assert after["rows"] == 100
    # the script makes the first row as the file has it
    assert re.sub(r"<[^>]+>", "", static[1]).strip() == start["text"]
    assert (up["first"], up["sorted"]) == ("c00000", ["ascending"])
    assert (down["first"], down["sorted"]) == ("c00249", ["descending"])
    assert longer["rows"] == 200
    assert (one["rows"], one["first"], one["shown"], one["more"]) == (1, "c00007", "1 of 250 lesions", False)
    assert theme in ("dark", "light")
    assert {fill, other} == {"rgb(86, 96, 107)", "rgb(164, 173, 184)"}  # charts follow the theme
