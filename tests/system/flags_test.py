#!/usr/bin/env python3
"""docs/operations.md lists the flags of tesserad as its --help does: all of them and no others."""

import importlib.machinery
import importlib.util
import re
import subprocess
import unittest

from harness import BIN, ROOT

IN_THE_TEXT = {"--help", "--version"}


def load(script):
    loader = importlib.machinery.SourceFileLoader("script", str(ROOT / "scripts" / script))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("script", loader))
    loader.exec_module(module)
    return module


class FlagsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.help = subprocess.run([str(BIN / "tesserad"), "--help"], check=True,
                                  capture_output=True, text=True).stdout
        cls.guide = (ROOT / "docs/operations.md").read_text()
        cls.rows = re.findall(r"^\| `(--[a-z-]+)` \| (.*?) \| (.*?) \| (.*) \|$", cls.guide,
                              re.MULTILINE)

    def test_the_guide_holds_what_the_script_writes(self):
        self.assertEqual(self.guide, load("make-flags-table").guide_with(self.help))

    def test_the_guide_lists_what_help_lists(self):
        in_help = set(re.findall(r"^\s+(?:-\w,)?(--[a-z-]+)", self.help, re.MULTILINE))
        self.assertGreater(len(in_help), 30)
        self.assertEqual(in_help - IN_THE_TEXT, {flag for flag, *_ in self.rows})
        for flag in IN_THE_TEXT:
            self.assertIn(f"`{flag}`", self.guide)

    def test_every_flag_has_a_unit_and_a_default(self):
        for flag, takes, default, meaning in self.rows:
            with self.subTest(flag):
                self.assertNotRegex(takes, "TEXT|INT|FLOAT")
                self.assertTrue(takes or default == "off")
                self.assertTrue(default and meaning)


if __name__ == "__main__":
    unittest.main(verbosity=2)
