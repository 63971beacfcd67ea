#!/usr/bin/env python3
"""docs/operations.md lists the flags of tesserad, all of them and no others, with their defaults."""

import re
import subprocess
import unittest

from harness import BIN, ROOT

IN_THE_TEXT = {"--help", "--version", "--config"}


class FlagsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.help = subprocess.run([str(BIN / "tesserad"), "--help"], check=True,
                                  capture_output=True, text=True).stdout
        cls.guide = (ROOT / "docs/operations.md").read_text()

    def test_the_guide_lists_what_help_lists(self):
        in_help = set(re.findall(r"^\s+(?:-\w,)?(--[a-z-]+)", self.help, re.MULTILINE))
        in_guide = set(re.findall(r"^\| `(--[a-z-]+)", self.guide, re.MULTILINE))
        self.assertGreater(len(in_help), 20)
        self.assertEqual(in_help - IN_THE_TEXT, in_guide)

    def test_the_guide_gives_the_defaults_that_help_gives(self):
        """Those of one word; the guide may say of others how they are chosen."""
        defaults = dict(re.findall(r"^\s+(--[a-z-]+) .*?=([^=\s]+) \(Env:", self.help,
                                   re.MULTILINE))
        self.assertGreater(len(defaults), 10)
        rows = [re.split(r" (?<!\\)\| ", line) for line in self.guide.splitlines()]
        told = {row[0].split()[1].strip("`"): row[1].strip("`") for row in rows
                if row[0].startswith("| `--")}
        for flag, default in defaults.items():
            with self.subTest(flag):
                self.assertEqual(told[flag], default)


if __name__ == "__main__":
    unittest.main(verbosity=2)
