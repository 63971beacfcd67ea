"""The load of `tessera bench`, for servers that do not speak gRPC."""

import random

FIRST_TOKEN, VOCABULARY = 100, 49152  # of the default model; the first ones are special


class Sent:
    """One request: when it was sent, and when its tokens came."""

    def __init__(self, sent_at):
        self.last = sent_at
        self.tokens = 0
        self.ttft_s = None
        self.gaps_s = []

    def on_message(self, now, num_tokens):
        """num_tokens: that have come by now. Those that come together share their gap."""
        new = num_tokens - self.tokens
        if new <= 0:
            return
        if self.ttft_s is None:
            self.ttft_s = now - self.last
        else:
            self.gaps_s += [(now - self.last) / new] * new
        self.tokens = num_tokens
        self.last = now


def make_prompts(count, input_len, prefix_len, seed):
    """Random token ids; the shared prefix is the same for every seed."""
    def ids(source, length):
        return [source.randrange(FIRST_TOKEN, VOCABULARY) for _ in range(length)]

    prefix = ids(random.Random(-1), prefix_len)
    own = random.Random(seed)
    return [prefix + ids(own, input_len) for _ in range(count)]


def percentile(values, percent):
    values = sorted(values)
    return values[max(0, -(-len(values) * percent // 100) - 1)] if values else 0.0


def summarize(sent, num_tokens, seconds):
    gaps = [gap for one in sent for gap in one.gaps_s]
    return {
        "output_tokens_per_second": num_tokens / seconds,
        "ttft_ms": {f"p{p}": 1e3 * percentile([s.ttft_s for s in sent], p) for p in (50, 99)},
        "itl_ms": {f"p{p}": 1e3 * percentile(gaps, p) for p in (50, 99)},
    }
