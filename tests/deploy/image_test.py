"""The Dockerfile is clean and fits the tree. scripts/image builds and runs the image itself."""

import pathlib
import re
import subprocess
import sys
import unittest

from deploy_harness import BIN, DEPLOY, ROOT

DOCKERFILE = ROOT / "Dockerfile"


def stages():
    """{name: (base, instructions)} in the file's order."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE.read_text(), flags=re.MULTILINE)[1:]
    return {name: (base, text) for base, name, text in zip(*[iter(parts)] * 3)}


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

    def test_both_images_hold_what_passed_its_tests(self):
        found = stages()
        self.assertEqual(found["test"][0], "build")
        self.assertIn("ctest ", found["test"][1])
        self.assertEqual(found["build-cuda"][0], "test")
        self.assertEqual(found["cuda"][0], "${CUDA_BASE}")
        for name, source in (("runtime", "test"), ("runtime-cuda", "build-cuda")):
            self.assertEqual(found[name][0], "image")
            self.assertEqual(re.findall(r"^COPY (.*)$", found[name][1], re.MULTILINE),
                             [f"--from={source} /rootfs /"])
        self.assertEqual(list(found)[-1], "runtime")  # what is built where no target is named

    def test_it_says_what_it_is_and_runs_as_nobody(self):
        base, text = stages()["image"]
        self.assertEqual(base, "scratch")
        labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", text))
        self.assertLessEqual({"title", "description", "licenses", "version", "revision", "created"},
                             labels)
        self.assertIn("\nUSER 65532:65532\n", text)

    def test_the_lock_has_every_package_of_the_build(self):
        text = (ROOT / "scripts/bootstrap").read_text()
        needed = re.search(r"packages_build=\(([^)]*)\)", text)[1].split()
        needed += ["libgtest-dev", "libgmock-dev"]
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
