#!/usr/bin/env python3
"""docs/operations.md lists the flags of tesserad, all of them and no others."""

import re
import subprocess
import unittest

from harness import BIN, ROOT

IN_THE_TEXT = {"--help", "--version", "--config"}


class FlagsTest(unittest.TestCase):
    def test_the_guide_lists_what_help_lists(self):
        told = subprocess.run([str(BIN / "tesserad"), "--help"], check=True, capture_output=True,
                              text=True).stdout
        in_help = set(re.findall(r"^\s+(?:-\w,)?(--[a-z-]+)", told, re.MULTILINE)) - IN_THE_TEXT
        guide = (ROOT / "docs/operations.md").read_text()
        in_guide = set(re.findall(r"^\| `(--[a-z-]+)", guide, re.MULTILINE))
        self.assertGreater(len(in_help), 20)
        self.assertEqual(in_help, in_guide)


if __name__ == "__main__":
    unittest.main(verbosity=2)
