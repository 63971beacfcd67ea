"""The Dockerfile is clean and fits the tree. scripts/image builds and runs the image itself."""

import pathlib
import re
import subprocess
import sys
import unittest

from deploy_harness import BIN, DEPLOY, ROOT

DOCKERFILE = ROOT / "Dockerfile"


class ImageTest(unittest.TestCase):
    def test_hadolint_finds_nothing(self):
        done = subprocess.run([pathlib.Path(sys.executable).parent / "hadolint", DOCKERFILE],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_every_layer_is_copied(self):
        """Each folder that the build without tests and benches adds, and none that is not there."""
        text = (ROOT / "CMakeLists.txt").read_text()
        added = set(re.findall(r"add_subdirectory\((\w+)\)", text)) - {"tests", "bench"}
        copied = set(re.findall(r"^COPY (\w+) \1$", DOCKERFILE.read_text(), re.MULTILINE))
        self.assertLessEqual(added, copied)
        for folder in copied:
            self.assertTrue((ROOT / folder).is_dir(), folder)

    def test_the_lock_has_every_package_of_the_build(self):
        text = (ROOT / "scripts/bootstrap").read_text()
        needed = re.search(r"packages_build=\(([^)]*)\)", text)[1].split()
        lines = (DEPLOY / "image/packages.lock").read_text().split()
        locked = dict(line.split("=") for line in lines)
        self.assertEqual(lines, sorted(lines))
        self.assertLessEqual(set(needed), set(locked))

    def test_variables_are_known(self):
        known = subprocess.run([BIN / "tesserad", "--help"], check=True, capture_output=True,
                               text=True).stdout
        names = re.findall(r"(?:^ENV|^   ) (TESSERA_\w+)=", DOCKERFILE.read_text(), re.MULTILINE)
        self.assertGreater(len(names), 2)
        for name in names:
            self.assertIn(f"(Env:{name})", known)


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv)
