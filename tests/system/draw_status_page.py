#!/usr/bin/env python3
"""Draws the status page for the documentation: a daemon under load in headless Chromium.

Usage: draw_status_page.py OUTPUT.png   (TESSERA_MODEL names the model, TESSERA_BIN the programs)
"""

import base64
import fcntl
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from harness import Daemon, tessera

LOAD_S = 20  # for which the page has watched when it is drawn
SIZE = (900, 1020)


class Page:
    """A browser with one page, driven by the DevTools protocol over a pipe, in real time: with
    --virtual-time-budget, as in status_page_test.py, a second of the page's rates is none."""

    def __init__(self, url, profile):
        reading, self.commands = os.pipe()
        self.answers, writing = os.pipe()
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (reading, writing)]
        self.process = subprocess.Popen(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             f"--user-data-dir={profile}", "--window-size=%d,%d" % SIZE, "--remote-debugging-pipe"],
            stderr=subprocess.DEVNULL, pass_fds=(3, 4),
            preexec_fn=lambda: [os.dup2(end, fd) for end, fd in zip(ends, (3, 4))])
        self.num_sent = 0
        target = self.ask("Target.createTarget", url=url)["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}

    def ask(self, method, session=None, **parameters):
        self.num_sent += 1
        command = {"id": self.num_sent, "method": method, "params": parameters} | (session or {})
        os.write(self.commands, json.dumps(command).encode() + b"\0")
        while (answer := self.read()).get("id") != self.num_sent:
            pass  # events
        return answer["result"]

    def read(self):
        data = bytearray()
        while (byte := os.read(self.answers, 1)) != b"\0":
            data += byte
        return json.loads(data)

    def picture(self):
        answer = self.ask("Page.captureScreenshot", self.session, format="png")
        return base64.b64decode(answer["data"])

    def close(self):
        self.ask("Browser.close")
        self.process.wait(30)


def load(daemon, stopped):
    while not stopped.is_set():
        tessera("bench", "--target", daemon.target, "--num-requests", 28, "--concurrency", 14,
                "--input-len", 300, "--prefix-len", 100, "--output-len", 200, "--range-ratio", 0.6)


def main(path):
    with tempfile.TemporaryDirectory() as profile:
        with Daemon("--max-running", 8, "--served-model-name", "SmolLM2-135M-Instruct") as daemon:
            stopped = threading.Event()
            clients = threading.Thread(target=load, args=(daemon, stopped))
            clients.start()
            page = Page(f"http://{daemon.metrics_target}/", profile)
            time.sleep(LOAD_S)
            pathlib.Path(path).write_bytes(page.picture())
            page.close()
            stopped.set()
            clients.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
