"""Folders served to a browser, on this machine alone, and what is measured in it."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class _Ranges(SimpleHTTPRequestHandler):
    """Quiet, and gives parts of files, as every web server that holds data does."""

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if asked is None or not path.is_file():
            super().do_GET()
            return
        data, (first, last) = path.read_bytes(), asked.groups()
        start = int(first) if first else max(0, len(data) - int(last))
        stop = int(last) + 1 if first and last else len(data)
        self.send_response(206)
        self.send_header("Content-Length", str(len(data[start:stop])))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(data[start:stop])


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder's address on the loopback interface."""
    handler = functools.partial(_Ranges, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


#: Texts whose colour is too near that of what they stand on, by WCAG's ratio; in a part, or in all.
CONTRAST = """(part) => {
  const rgb = s => (s.match(/[\\d.]+/g) || []).map(Number);
  const lum = c => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255;
    return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b };
  const behind = e => { for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0.99) return c } return [255, 255, 255] };
  const found = [];
  const top = document.querySelector(part || "body");
  const walk = document.createTreeWalker(top, NodeFilter.SHOW_TEXT);
  let texts = 0;
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || e.closest("style,title,desc")) continue;
    texts += 1;
    const style = getComputedStyle(e);
    const ink = lum(rgb(e.ownerSVGElement ? style.fill : style.color)), paper = lum(behind(e));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (ratio < 4.5) found.push([walk.currentNode.data.trim(), ratio]);
  }
  return [texts, found];
}"""
