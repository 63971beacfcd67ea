"""The systemd unit is valid and confined, and a daemon at work keeps to what it allows."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

from deploy_harness import BIN, DEPLOY, FLUSH_S, MODEL, ended, tessera, wait_until

UNIT = DEPLOY / "systemd/tesserad.service"
CONFIG = DEPLOY / "systemd/tesserad.toml"
MAX_EXPOSURE = 1.5  # of 10, by systemd-analyze security


def settings(name):
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


def option(name):
    return re.search(rf"^{name} = (\S+)", CONFIG.read_text(), re.MULTILINE)[1].strip('"')


def system_calls(name, sets):
    """A filter set of systemd with the sets that it includes."""
    calls = set()
    for member in sets[name]:
        calls |= system_calls(member, sets) if member.startswith("@") else {member}
    return calls


def filter_sets():
    listing = subprocess.run(["systemd-analyze", "syscall-filter", "--no-pager"], check=True,
                             capture_output=True, text=True).stdout
    sets = {}
    for line in listing.splitlines():
        if line.startswith("@"):
            members = sets.setdefault(line.strip(), [])
        elif line.startswith(" ") and not line.strip().startswith("#"):
            members.append(line.strip())
    return sets


class UnitTest(unittest.TestCase):
    def analyze(self, *arguments):
        """The unit as it is but for the program's path, which is not installed here."""
        with tempfile.TemporaryDirectory() as folder:
            unit = pathlib.Path(folder) / UNIT.name
            unit.write_text(UNIT.read_text().replace("/usr/bin/tesserad", str(BIN / "tesserad")))
            done = subprocess.run(["systemd-analyze", *arguments, unit], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def test_it_is_valid(self):
        self.assertEqual(self.analyze("verify"), "")

    def test_it_is_confined(self):
        report = self.analyze("security", "--offline=yes", "--no-pager")
        exposure = float(re.search(r"exposure level for \S+: ([\d.]+)", report)[1])
        print(f"exposure {exposure}")
        self.assertLessEqual(exposure, MAX_EXPOSURE)

    def test_the_drain_fits_the_stop_timeout(self):
        (timeout_s,) = settings("TimeoutStopSec")
        self.assertGreaterEqual(float(timeout_s), float(option("drain-timeout")) + FLUSH_S)


class AtWorkTest(unittest.TestCase):
    """Run on the shipped configuration under strace: start, a load, a drain."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="tessera-systemd-")
        folder = pathlib.Path(cls.folder.name)
        config = CONFIG.read_text()
        for name, value in (("model", MODEL), ("listen", "127.0.0.1:0"),
                            ("metrics-listen", "127.0.0.1:0")):
            config = re.sub(rf'^{name} = "[^"]*"', f'{name} = "{value}"', config,
                            flags=re.MULTILINE)
        (folder / "tesserad.toml").write_text(config)
        announce = folder / "announce.json"
        supervisor = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        supervisor.bind(str(folder / "notify"))
        strace = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", folder / "trace", BIN / "tesserad", "--config",
             folder / "tesserad.toml", "--announce", announce], stderr=subprocess.PIPE, text=True,
            env=os.environ | {"NOTIFY_SOCKET": str(folder / "notify")})
        wait_until(lambda: announce.exists() or strace.poll() is not None, "the daemon")
        assert strace.poll() is None, strace.stderr.read()
        target = json.loads(announce.read_text())["grpc"]
        tessera("bench", "--target", target, "--num-requests", 32, "--concurrency", 8)
        task = pathlib.Path(f"/proc/{strace.pid}/task/{strace.pid}")
        children = (task / "children").read_text().split()
        for number in (signal.SIGHUP, signal.SIGTERM):  # reload, stop
            subprocess.run(["kill", f"-{number}", *children], check=True)
        cls.log = strace.stderr.read()
        cls.status = ended(strace)
        cls.trace = (folder / "trace").read_text()
        supervisor.setblocking(False)
        cls.notified = [supervisor.recv(100).decode() for _ in range(2)]

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_it_drains_and_logs_as_configured(self):
        self.assertEqual(self.status, 0)
        events = [json.loads(line)["event"] for line in self.log.splitlines()]
        self.assertEqual(events.count("done"), 32)
        self.assertIn("reloaded", events)
        self.assertEqual(events[-1], "stopped")

    def test_it_tells_systemd_its_state(self):
        self.assertEqual(settings("Type"), ["notify"])
        self.assertEqual(self.notified, ["READY=1", "STOPPING=1"])

    def test_its_system_calls_are_allowed(self):
        sets = filter_sets()
        self.assertEqual(settings("SystemCallFilter"), ["@system-service", "~@privileged"])
        allowed = system_calls("@system-service", sets) - system_calls("@privileged", sets)
        made = set(re.findall(r"^\d+ +([a-z_0-9]+)\(", self.trace, re.MULTILINE))
        self.assertGreater(len(made), 20)
        self.assertLessEqual(made, allowed)

    def test_its_sockets_are_allowed(self):
        families = set(re.findall(r"socket\((AF_\w+)", self.trace))
        self.assertIn("AF_INET", families)
        self.assertLessEqual(families, set(settings("RestrictAddressFamilies")[0].split()))

    def test_it_maps_nothing_writable_and_executable(self):
        self.assertNotRegex(self.trace, r"PROT_WRITE\|PROT_EXEC")


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv)
