#!/usr/bin/env python3
"""The page at / in a real browser (headless Chromium), while the daemon works."""

import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from harness import BIN, Daemon, request

SECRET = "a prompt nobody else should read"


def browse(url, profile, *flags):
    return subprocess.run(
        [shutil.which("chromium"), "--headless", "--no-sandbox", "--disable-gpu",
         f"--user-data-dir={profile}", "--virtual-time-budget=6000", *flags, url],
        check=True, capture_output=True, text=True, timeout=120).stdout


class StatusPageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="tessera-page-")
        model = pathlib.Path(cls.folder.name) / "tiny.gguf"
        subprocess.run([str(BIN / "make_tiny_model"), "--output", str(model), "--max-context",
                        "65536"], check=True)
        cls.daemon = Daemon("--max-running", 2, model=model)
        # Two run for as long as the test lasts, three wait.
        cls.streams = [cls.daemon.generation.GenerateStream(
            request(SECRET, 60_000, ignore_eos=True)) for _ in range(5)]
        cls.request_ids = [next(stream).request_id for stream in cls.streams[:2]]
        cls.daemon.wait_for(lambda state: state.num_running == 2 and state.num_waiting == 3)

    @classmethod
    def tearDownClass(cls):
        for stream in cls.streams:
            stream.cancel()
        cls.daemon.stop()
        cls.folder.cleanup()

    def test_a_browser_shows_the_daemon_at_work(self):
        dom = browse(f"http://{self.daemon.metrics_target}/", self.folder.name, "--dump-dom")
        tiles = dict(re.findall(r'<div class="tile">([^<]+)<b>([^<]+)</b>', dom))
        self.assertEqual((tiles["running"], tiles["waiting"]), ("2", "3"))
        self.assertGreater(int(tiles["steps"].replace(",", "")), 0)
        self.assertEqual(dom.count("<td>waiting</td><td>a slot</td>"), 3)
        self.assertRegex(dom, r"<td>a step</td><td>[\d.]+ ms</td>")
        about = re.search(r'id="about">([^<]+)', dom)[1]
        self.assertIn("cpu-", about)
        self.assertIn("at most 2 running, 1,024 waiting, 128 rows a step", about)
        self.assertRegex(dom, r'id="pages-text">[1-9][\d,]* used, [\d,]+ free but holding a prefix')
        self.assertRegex(dom, r'id="rows-text">[\d.]+ of prompts, [\d.]+ decoding, '
                              r'[\d.]+ guesses, at most 128;')

    def test_it_tells_no_ids_and_no_text_and_needs_nothing_from_elsewhere(self):
        page, state = self.daemon.http("/"), self.daemon.http("/status.json")
        self.assertNotRegex(page, r"(https?:)?//[a-z]")
        self.assertEqual(len(json.loads(state)["sequences"]), 5)
        for secret in (*self.request_ids, SECRET):
            self.assertNotIn(secret, page + state)


if __name__ == "__main__":
    unittest.main(verbosity=2)
