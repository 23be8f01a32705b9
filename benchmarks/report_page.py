"""The report of a large run: how long it takes to make, how large it is, and how soon a browser has drawn it.

    python benchmarks/report_page.py                       # 33,000 pictures of 1,100 things, drawn at random
    python benchmarks/report_page.py --map tsne --keep page.html

Needs chromium on the PATH for the last. Times are of this machine.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import tercet
from tercet.data.records import Records
from tercet.distances import resolve
from tercet.report import write
from tercet.training.assessment.assessment import Asked, assess
from tercet.training.folder.metrics import write_assessment

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --remote-debugging-port=0"
)
OPENED = "the report is drawn after"
PROBE = f"""<script>
(async () => {{
  const rooms = (node) => [node, ...[...node.querySelectorAll("*")].flatMap(
    (each) => each.shadowRoot ? rooms(each.shadowRoot) : [])];
  const canvases = (chart) => chart.id === "map" ? [chart]
    : rooms(chart).flatMap((room) => [...room.querySelectorAll("canvas")]);
  const inked = (canvas) => canvas.width > 99 && canvas.getContext("2d")
    .getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value > 0);
  const waiting = new Set(document.querySelectorAll(".chart, #map"));
  while (waiting.size) {{
    await new Promise((go) => setTimeout(go, 20));
    for (const chart of waiting) {{
      if (canvases(chart).some(inked)) waiting.delete(chart);
    }}
  }}
  console.log("{OPENED} " + performance.now());
}})();
</script></body>"""


def picture(rng: np.random.Generator, kind: np.random.Generator, pixels: int) -> np.ndarray:
    """A few coloured discs of a kind, with noise."""
    image = Image.new("RGB", (pixels, pixels), tuple(kind.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, r = kind.uniform(0, pixels), kind.uniform(0, pixels), kind.uniform(pixels / 12, pixels / 4)
        x, y = x + rng.normal(0, 3), y + rng.normal(0, 3)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(kind.integers(0, 256, 3).tolist()))
    return np.clip(np.asarray(image, dtype=np.int16) + rng.normal(0, 12, (pixels, pixels, 3)), 0, 255).astype(np.uint8)


def large_run(folder: Path, items: int, classes: int, pixels: int) -> Path:
    """A small training with the evaluation of many pictures beside it, whose embeddings are drawn at random."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 8)).repeat(10, axis=0) + 0.3 * rng.normal(size=(120, 8))
    tercet.train((rows.astype(np.float32), np.arange(12).repeat(10)), out=folder, steps=2000, evaluate_every=100,
                 classes_per_batch=6, samples_per_class=4, progress=False)  # fmt: skip
    labels = np.sort(rng.integers(0, classes, items))
    pictures = [picture(rng, np.random.default_rng([7, label]), pixels) for label in labels]
    names = tuple(f"thing-{code:04d}" for code in range(classes))
    records = Records(
        kind="image", items=pictures, names=[f"{names[label]}/picture-{i:05d}.jpg" for i, label in enumerate(labels)],
        labels=labels.astype(np.int64), classes=names, tuples=None, similar=None, columns=(), skipped=(),
        source="drawn", description="",
    )  # fmt: skip
    vectors = rng.normal(size=(classes, 128))[labels] + 1.1 * rng.normal(size=(items, 128))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    began = time.perf_counter()
    found = assess(vectors, records, resolve("euclidean"), Asked(threshold=0.9))
    write_assessment(folder, "test", found, records, duplicates=0)
    print(f"evaluation of {items:,} embeddings, with neighbours, map and pictures: {time.perf_counter() - began:.1f} s")
    return folder


def opened_after_seconds(page: Path, chromium: str, profile: Path) -> float:
    """Until every chart and the map are drawn, from the start of the navigation, by the browser's own clock."""
    probed = page.with_suffix(".probed.html")
    probed.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    command = [chromium, *FLAGS.split(), f"--user-data-dir={profile}", f"file://{probed}"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for line in browser.stderr:
            if "Uncaught" in line or "Refused" in line:
                raise SystemExit(line)
            if OPENED in line:
                return float(line.split(OPENED)[1].split('"')[0]) / 1000
        raise SystemExit("the browser ended before the page was drawn")
    finally:
        browser.terminate()
        browser.wait()


def main() -> None:
    """Print the times and sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=33_000)
    parser.add_argument("--classes", type=int, default=1_100)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--map", default="pca", choices=("pca", "tsne", "umap"))
    parser.add_argument("--times", type=int, default=3, help="how often the page is opened")
    parser.add_argument("--keep", type=Path, help="where to leave the page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = large_run(Path(scratch) / "run", options.items, options.classes, options.pixels)
        began = time.perf_counter()
        page = write(run, layout=options.map)
        print(
            f"the page, map by {options.map}: {time.perf_counter() - began:.1f} s, {os.path.getsize(page) / 1e6:.2f} MB"
        )
        if options.keep:
            shutil.copy(page, options.keep)
        chromium = shutil.which("chromium")
        if chromium is None:
            print("chromium is not on the PATH, so the page was not opened")
            return
        found = [opened_after_seconds(page, chromium, Path(scratch) / f"profile{i}") for i in range(options.times)]
        print("opened, every chart and the map drawn, after " + ", ".join(f"{seconds:.2f} s" for seconds in found))


if __name__ == "__main__":
    main()
