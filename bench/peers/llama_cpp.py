"""llama.cpp as a peer: its own llama-bench and llama-batched-bench for what they measure, and its
llama-server under the same load as ours for what clients see. Every figure is the best of the
settings tried (flash attention on and off)."""

import asyncio
import json
import pathlib
import socket
import subprocess
import tempfile
import time
import urllib.request

from load import Sent, make_prompts, summarize

HERE = pathlib.Path(__file__).resolve().parent
FLASH_ATTENTION = ("on", "off")
START_TIMEOUT_S = 120


def build(isa):
    """The folder of the programs."""
    return pathlib.Path(subprocess.run([HERE / "build-llama-cpp", isa], check=True,
                                       stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def requantized(programs, model, kind):
    """The model in another format, made once by llama-quantize, beside the programs."""
    out = programs.parent / f"{model.stem}.{kind}.gguf"
    if not out.exists():
        part = out.with_suffix(".part")
        subprocess.run([programs / "llama-quantize", "--allow-requantize", model, part, kind],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        part.rename(out)
    return out


def bench(programs, model, threads, *args):
    """tokens/s of llama-bench's only test, the better of flash attention on and off."""
    output = subprocess.run(
        [programs / "llama-bench", "-m", model, "-t", str(threads), "-r", "1", "-o", "json", "-fa",
         ",".join(FLASH_ATTENTION), *map(str, args)],
        check=True, capture_output=True, text=True).stdout
    return max(row["avg_ts"] for row in json.loads(output))


def batched_decode(programs, model, threads, batch, prompt, tokens):
    """tokens/s of `batch` sequences that decode together."""
    rates = []
    for flash in FLASH_ATTENTION:
        output = subprocess.run(
            [programs / "llama-batched-bench", "-m", model, "-t", str(threads), "-c",
             str(batch * (prompt + tokens)), "-npp", str(prompt), "-ntg", str(tokens), "-npl",
             str(batch), "-fa", flash, "--output-format", "jsonl"],
            check=True, capture_output=True, text=True).stdout
        rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        rates.append(rows[-1]["speed_tg"])
    return max(rates)


class Server:
    """llama-server with one slot for each request at a time. Use as a context manager."""

    def __init__(self, programs, model, threads, slots, slot_tokens, flash):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.command = [
            str(programs / "llama-server"), "-m", str(model), "-t", str(threads), "-np", str(slots),
            "-c", str(slots * slot_tokens), "-fa", flash, "--host", "127.0.0.1", "--port",
            str(self.port), "--no-webui", "--no-kv-unified"]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        self.wait_until_ready()

    def wait_until_ready(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"{self.command} exited"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1)
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError(f"{self.command} is not ready after {START_TIMEOUT_S} s")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()

    def peak_mib(self):
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024

    def load(self, **shape):
        """What `tessera bench` reports, of the same load."""
        return asyncio.run(self._load(**shape))

    async def _load(self, num_requests, concurrency, input_len, output_len, prefix_len=0, seed=0):
        prompts = make_prompts(num_requests, input_len, prefix_len, seed)
        turns = asyncio.Semaphore(concurrency)
        start = time.monotonic()

        async def one(prompt):
            async with turns:
                return await self._send(prompt, output_len, bool(prefix_len))

        sent = await asyncio.gather(*map(one, prompts))
        return summarize(sent, num_requests * output_len, time.monotonic() - start)

    async def _send(self, prompt, output_len, cache_prompt):
        body = json.dumps({"prompt": prompt, "n_predict": output_len, "stream": True,
                           "ignore_eos": True, "temperature": 0,
                           "cache_prompt": cache_prompt}).encode()
        sent = Sent(time.monotonic())
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"POST /completion HTTP/1.1\r\nHost: peer\r\nConnection: close\r\n"
                     b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body)
        while line := await reader.readline():
            if line.startswith(b"data: "):
                # Tokens that end within a character are counted, but come with a later message.
                sent.on_message(time.monotonic(), json.loads(line[6:]).get("tokens_predicted", 0))
        writer.close()
        assert sent.tokens == output_len, f"{sent.tokens} tokens of {output_len} came"
        return sent
