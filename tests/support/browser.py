"""Chromium without a window, driven by its DevTools protocol over two pipes: no package is needed."""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")

# all text of a page, also in the shadow roots that TensorBoard's components draw in
_TEXT = """(() => {
  const read = root => [...root.childNodes].map(node => {
    if (node.nodeType === 3) return node.data;
    if (['STYLE', 'SCRIPT', 'TEMPLATE'].includes(node.nodeName)) return '';
    return (node.shadowRoot ? read(node.shadowRoot) : '') + ' ' + read(node);
  }).join(' ');
  return document.body ? read(document.body).replace(/\\s+/g, ' ') : '';
})()"""


class Browser:
    """One page of a browser."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out, self._in = os.fdopen(to_browser, "wb", 0), os.fdopen(from_browser, "rb")
        self._count, self._session, self._buffer = 0, "", b""
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:  # events and old answers come between
            while b"\0" not in self._buffer:
                received = os.read(self._in.fileno(), 1 << 16)
                assert received, "the browser ended"
                self._buffer += received
            text, _, self._buffer = self._buffer.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, url: str) -> None:
        """Starts to load a page."""
        self._send("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Returns the JSON value of a JavaScript expression."""
        answer = self._send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, *words: str, seconds: float = 60) -> str:
        """Returns the page's text as soon as it contains all words; fails after some time."""
        end = time.monotonic() + seconds
        while any(word not in (text := str(self.evaluate(_TEXT))) for word in words):
            missing = [word for word in words if word not in text]
            assert time.monotonic() < end, f"{missing} not in: {text}"
            time.sleep(0.3)
        return text

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._send("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Starts a browser; skips the test if there is none."""
    program = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is installed")
    commands, answers = os.pipe(), os.pipe()
    shown = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1500,1000"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        line = [program, *shown, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        # the browser reads commands from descriptor 3 and answers on 4
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands[0], answers[1])]
        shell = f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}'
        process = subprocess.Popen(["bash", "-c", shell, "bash", *line], pass_fds=ends, stderr=subprocess.DEVNULL)
        for end in (commands[0], answers[1], *ends):
            os.close(end)
        try:
            yield Browser(commands[1], answers[0])
        finally:
            process.terminate()
            process.wait(timeout=20)
