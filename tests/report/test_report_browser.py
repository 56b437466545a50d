"""The report in a real browser: it shows, nothing is cut off, nothing complains, nothing is sent.

Headless Chromium draws the page; a copy of it without its policy carries a probe that measures
what a reader would see.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import report_records as records

from zsei.report import html

BINARY = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        BINARY is None, reason="no chromium, chromium-browser or google-chrome on PATH"
    ),
]

PROBE = """
<pre id="probe"></pre><script>
const box = (e) => e.getBoundingClientRect();
const wide = [...document.querySelectorAll("svg.flow g.boxes rect")].map(box);
const labels = [...document.querySelectorAll("svg.flow g[text-anchor=middle] text")];
const cut = labels.filter((t, i) => box(t).width > wide[i].width + 1).map((t) => t.textContent);
const scrolls = ".scroll, .tables > *, .halves > *, .drawing, .hidden, .skip";
const inside = (e) => !e.closest(scrolls) && !e.closest("details:not([open])");
const over = [...document.querySelectorAll("main *, header *")].filter(
  (e) => inside(e) && box(e).width && box(e).right > innerWidth + 1);
const form = document.querySelector("#threshold");
const shown = () => document.querySelectorAll("svg.flow path[data-s]:not(.off)").length;
const before = shown();
let after = before;
if (form && !form.hidden) {
  const slider = form.querySelector("input");
  slider.value = 0.9;
  slider.dispatchEvent(new Event("input"));
  after = shown();
}
document.getElementById("probe").textContent = JSON.stringify({
  sideways: document.documentElement.scrollWidth - innerWidth,
  cut, over: over.map((e) => e.tagName + "." + e.className + ": " + e.textContent.slice(0, 40)),
  slider: Boolean(form && !form.hidden), before, after,
  background: getComputedStyle(document.body).backgroundColor,
  loaded: performance.getEntriesByType("resource").length,
});
</script>
"""


def _chromium(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(BINARY), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--enable-logging=stderr", "--disable-dev-shm-usage", f"--user-data-dir={page.parent}/user",
        *options, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "HOME": str(page.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def _complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def _written(tmp_path: Path, name: str, probe: bool = False) -> Path:
    page = html.render(getattr(records, name)())
    if probe:
        page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
        page = page.replace("</body>", PROBE + "</body>")
    path = tmp_path / f"{name}.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["encoder", "hostile"])
def test_the_page_runs_under_its_own_policy_without_a_complaint(tmp_path, name):
    done = _chromium(_written(tmp_path, name), "--dump-dom")
    assert _complaints(done) == []
    dom = done.stdout
    form = re.search(r'<form id="threshold"([^>]*)>', dom).group(1)
    assert "hidden" not in form  # the script ran
    assert re.search(r"<output[^>]*>0\.0 %, \d+ of \d+ edges shown</output>", dom)
    assert dom.count("<script>") == 1
    assert "<img" not in dom
    if name == "encoder":
        assert dom.count('class="finding"') == 13
        assert dom.count("<td class=") > 72


def _probe(tmp_path: Path, name: str, width: int, *options: str) -> dict:
    path = _written(tmp_path, name, probe=True)
    done = _chromium(path, "--dump-dom", f"--window-size={width},1000", *options)
    assert _complaints(done) == []
    return json.loads(re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL).group(1))


@pytest.mark.parametrize(
    ("name", "width"),
    [("encoder", 1280), ("encoder", 600), ("hostile", 1000), ("encoder_decoder", 1280)],
)
def test_nothing_is_cut_off_and_nothing_is_fetched(tmp_path, name, width):
    seen = _probe(tmp_path, name, width)
    assert (seen["sideways"], seen["over"]) == (0, [])
    assert seen["loaded"] == 0
    if name != "hostile":
        assert seen["cut"] == []
    assert seen["slider"]
    assert seen["after"] < seen["before"]


def test_dark_is_dark_and_light_is_light(tmp_path):
    light = _probe(tmp_path, "cnn", 1000)
    dark = _probe(tmp_path, "cnn", 1000, "--blink-settings=preferredColorScheme=0")
    assert light["background"] == "rgb(255, 255, 255)"
    assert dark["background"] == "rgb(17, 21, 25)"


def test_a_picture_can_be_taken(tmp_path):
    page = _written(tmp_path, "monster")
    picture = tmp_path / "page.png"
    done = _chromium(page, f"--screenshot={picture}", "--window-size=1400,2400")
    assert _complaints(done) == []
    assert picture.stat().st_size > 100_000  # an empty page of this size takes about 15 kB
