"""The report: its numbers are on the page, the page works in a real browser, and no figure is empty."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from plotly.offline import get_plotlyjs

from dualm.analysis import figures
from dualm.analysis.analyze import SweepAnalysis
from dualm.analysis.charts import Chart, alpha_colour
from dualm.analysis.findings import Finding, Part
from dualm.analysis.page import Cell, Page, Table, render
from dualm.analysis.report import TERMS, charts, write_report
from dualm.analysis.table import POOL
from dualm.sweep.labels import alpha_label

CHROMIUM = shutil.which("chromium")
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
PROBE = """
<script>
(async () => {
  while (!document.body.dataset.drawn) await new Promise(next => setTimeout(next, 20));
  const column = n => [...document.querySelectorAll("#runs tbody tr")].map(row => row.cells[n].dataset.value);
  const heads = [...document.querySelectorAll("#runs thead button")];
  const n = heads.findIndex(head => head.textContent === "AR NLL, end");
  const seen = { width: innerWidth, needed: document.documentElement.scrollWidth,
                 requests: performance.getEntriesByType("resource").length, plots: {}, sorted: [], shown: [] };
  for (const element of document.querySelectorAll(".plot")) {
    const { width, right } = element.querySelector(".main-svg").getBoundingClientRect();
    seen.plots[element.id] = { traces: element.data.length, width, right,
                             drawn: element.querySelectorAll(".scatterlayer .trace, .heatmaplayer image").length };
  }
  for (let press = 0; press < 2; press++) { heads[n].click(); seen.sorted.push(column(n)); }
  const visible = () => document.querySelector("figure[id^=curves]:not(.hidden)").id;
  seen.shown.push(visible());
  document.querySelectorAll(".tabs button")[1].click();
  seen.shown.push(visible());
  document.querySelector(`#${visible()} .legend button`).click();
  seen.faded = document.querySelector(`#${visible()} .plot`).data.filter(trace => trace.opacity < 1).length;
  parent.postMessage(JSON.stringify(seen), "*");
})();
</script></body>"""
FRAME = """<!doctype html><iframe src="probed.html" style="border:0;width:%dpx;height:900px"></iframe><pre></pre>
<script>addEventListener("message", ({ data }) => document.querySelector("pre").textContent = data)</script>"""


@pytest.fixture(scope="module")
def drawn(analysis: SweepAnalysis) -> list[Chart]:
    return charts(analysis)


@pytest.fixture(scope="module")
def report(analysis: SweepAnalysis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    page = write_report(analysis, folder)
    (folder / "probed.html").write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    return folder


def opened(folder: Path, width: int) -> tuple[dict[str, Any], str]:
    """What the probe saw in a window of `width` pixels, and the error output of the browser."""
    frame = folder / f"frame-{width}.html"  # a window cannot be narrower than 500 pixels, but a frame can
    frame.write_text(FRAME % width)
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=60000", "--window-size=1400,1000"]
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [*map(str, command), profile, frame.as_uri()], capture_output=True, text=True, timeout=180, check=True
    )
    (seen,) = re.findall(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    return json.loads(html.unescape(seen)), done.stderr


@browser
@pytest.mark.parametrize("width", [375, 1200])
def test_a_browser_draws_every_figure_without_requests(report: Path, drawn: list[Chart], width: int) -> None:
    seen, errors = opened(report, width)
    assert "CONSOLE" not in errors, errors  # no script error, no blocked request
    assert seen["requests"] == 0
    assert seen["width"] == width
    assert seen["needed"] <= width  # no horizontal scrolling
    assert seen["plots"].keys() == {f"{chart.name}-{n}" for chart in drawn for n in range(len(chart.panels))}
    for name, plot in seen["plots"].items():
        assert plot["drawn"] > 0, name
        assert plot["drawn"] <= plot["traces"], name
        assert 200 < plot["width"] < width, name
        assert plot["right"] <= width, name


@browser
def test_the_table_sorts_and_figures_can_be_chosen(report: Path, table: pd.DataFrame) -> None:
    seen, _ = opened(report, 800)
    up, down = ([float(value) for value in values if value] for values in seen["sorted"])
    assert len(up) == 49
    assert up == sorted(up)
    assert down == up[::-1]
    assert all(values[-1] == "" for values in seen["sorted"])  # the unfinished run has no loss and comes last
    assert seen["shown"] == ["curves-ar", "curves-md"]
    assert seen["faded"] > 0


def test_the_page_is_self_contained(report: Path) -> None:
    own = (report / "report.html").read_text(encoding="utf-8").replace(get_plotlyjs(), "")
    assert len(own) < 2e6
    assert not re.search(r"""(?:src|href|action)\s*=|https?:|@import|url\(|//cdn""", own)
    assert "default-src 'none'" in own
    assert "connect-src" not in own


def test_findings_and_omissions_are_on_the_page(report: Path, analysis: SweepAnalysis) -> None:
    text = html.unescape((report / "report.html").read_text(encoding="utf-8"))
    (group,) = analysis.groups.values()
    statements = [part.statement for finding in group.findings for part in finding.parts]
    assert statements
    assert [line for line in [*statements, *group.left_out] if line not in text] == []
    assert "49 of 50 runs finished" in text
    assert all(definition in text for _, definition in TERMS)
    assert "at step 1024" in text


def test_figures_are_saved_for_papers(report: Path, drawn: list[Chart]) -> None:
    for chart in drawn:
        pixels = matplotlib.image.imread(report / "figures" / f"{chart.name}.png")[..., :3]
        assert pixels.std() > 0.04, chart.name
        assert len(np.unique((pixels * 15).astype(int) @ [256, 16, 1])) > 30, chart.name  # colours
        pdf = (report / "figures" / f"{chart.name}.pdf").read_bytes()
        assert pdf.startswith(b"%PDF"), chart.name
        assert len(pdf) > 10_000, chart.name


def test_a_figure_is_the_same_file_each_time(drawn: list[Chart], tmp_path: Path) -> None:
    once, again = (figures.save(drawn[:1], tmp_path / name) for name in ("once", "again"))
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_every_chart_shows_its_units(drawn: list[Chart]) -> None:
    axes = {axis.title for chart in drawn for panel in chart.panels for axis in (panel.x, panel.y)}
    losses = [title for title in axes if any(word in title for word in ("NLL", "NELBO", "measured", "predicted"))]
    assert len(losses) >= 5
    assert all("nats/token" in title for title in losses)


def test_without_surface_or_fit_the_curves_remain(analysis: SweepAnalysis) -> None:
    (group,) = analysis.groups.values()
    bare = dataclasses.replace(group, surfaces={}, best={}, probabilities={}, scaling=[])
    bare_sweep = dataclasses.replace(analysis, groups={"": bare})
    assert [chart.name for chart in charts(bare_sweep)] == ["curves-ar", "curves-md", "curves-prefix"]


def test_ratios_differ_in_lightness_as_well_as_in_hue() -> None:
    colours = np.array([[int(alpha_colour(a)[i : i + 2], 16) / 255 for i in (1, 3, 5)] for a in POOL])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    assert (
        np.diff(lightness).min() > 2
    )  # rises from 0 to 1, so the order is visible with any colour vision and in a grey print


@pytest.mark.parametrize(
    ("alpha", "label"), [(0, "0"), (1 / 256, "1/256"), (255 / 256, "255/256"), (1, "1"), (0.3, "0.3"), (2 / 3, "0.667")]
)
def test_ratios_are_written_as_published(alpha: float, label: str) -> None:
    assert alpha_label(alpha) == label


def test_names_from_data_are_text_and_not_markup() -> None:
    evil = '</script><script>alert("x")</script>'
    finding = Finding("a", evil, "shows", [Part("shows", evil, {})])
    tables = [Table(evil, evil, [evil], [[Cell(evil, evil)]], "runs")]
    page = Page("t", evil, [(evil, evil)], [(evil, [finding])], [evil], [], tables, evil)
    assert "<script>alert" not in render(page).replace(get_plotlyjs(), "")
