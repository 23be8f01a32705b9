"""A look at a page in headless Chromium, with nothing but the browser: what a script finds comes back as JSON."""

import base64
import json
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --remote-debugging-port=0 "
    "--force-device-scale-factor=1"
)
FOUND, AT_MOST_SECONDS = "the test found: ", 60
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium binary on the PATH")

LIBRARY = """
const settled = (seconds) => new Promise((go) => setTimeout(go, 1000 * seconds));
const rooms = (node) => [node, ...[...node.querySelectorAll("*")].flatMap(
  (each) => each.shadowRoot ? rooms(each.shadowRoot) : [])];
const inked = (canvas) => canvas.width > 99 && canvas.getContext("2d")
  .getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value > 0);
const canvases = (chart) => rooms(chart).flatMap((room) => [...room.querySelectorAll("canvas")]);
const drawn = async (charts) => {
  for (let tries = 0; tries < 400 && !charts.every((chart) => canvases(chart).some(inked)); tries++) await settled(.05);
  return charts.map((chart) => [chart.id, canvases(chart).some(inked)]);
};
const press = (node, key) => node.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
const point = (node, type, x, y) => {
  const box = node.getBoundingClientRect();
  node.dispatchEvent(new PointerEvent(type, {pointerId: 1, clientX: box.x + x, clientY: box.y + y, bubbles: true}));
};
"""


def look(page: Path, script: str, scratch: Path, width: int = 1200, dark: bool = False) -> tuple[dict, list[str]]:
    """What an asynchronous script returns on a page, and the errors of its console.

    Args:
        page: a file, of which a copy is opened.
        script: the body of a function; `LIBRARY` has what it may call.
        scratch: an empty folder.
        width: of the window, in pixels.
        dark: whether the page is asked for its dark colours.
    """
    probe = (
        f"<script>(async () => {{ {LIBRARY} const found = await (async () => {{ {script} }})();"
        f' console.log("{FOUND}" + btoa(unescape(encodeURIComponent(JSON.stringify(found))))); }})()'
        f'.catch((error) => console.log("{FOUND}" + btoa(JSON.stringify(String(error)))));</script></body>'
    )
    copy = scratch / "probed.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={scratch / 'profile'}", f"--window-size={width},900"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    command.append(f"file://{copy}")
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    clock = threading.Timer(AT_MOST_SECONDS, browser.kill)
    clock.start()
    errors = []
    try:
        for line in browser.stderr:
            if "Uncaught" in line or "Refused" in line or ("CONSOLE" in line and "ERROR" in line.split("]")[0]):
                errors.append(line)
            if FOUND in line:
                return json.loads(_decoded(line.split(FOUND)[1].split('"')[0])), errors
        raise AssertionError(f"the browser ended without an answer; it said: {errors}")
    finally:
        clock.cancel()
        browser.kill()
        browser.wait()
        browser.stderr.close()


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()
