#!/usr/bin/env python3
"""Writes smollm2_logprobs.json: log-probabilities of the default model by an independent forward pass.

The weights are dequantised by the gguf package and everything after that is float64 numpy, so the
numbers are those of the file's weights without any error of arithmetic. tests/model/accuracy_test.cc
compares Tessera with them. Needs the PyPI packages gguf==0.19.0, numpy and tokenizers:

    make_logprob_golden.py MODEL.gguf > smollm2_logprobs.json
"""

import hashlib
import json
import sys

import gguf
import numpy as np
import tokenizers

NUM_GENERATED = 24  # greedy tokens behind each prompt
NUM_TOP = 5
LONG_PROMPT_TOKENS = 600
LONG_PROMPT_STRIDE = 12  # of the long prompt's positions, every 12th is kept

PLAIN = ("The lighthouse keeper climbed the stairs every evening to light the lamp. One night, as the "
         "storm rolled in from the west, he noticed a small boat drifting towards the rocks.")
UNICODE = ("Zo\u00eb's caf\u00e9 in M\u00fcnchen serves cr\u00e8me br\u00fbl\u00e9e \u2014 \u20ac7,50. "
           "\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u3002 \u041f\u0440\u0438\u0432\u0435\u0442, "
           "\u043c\u0438\u0440! \U0001F680\U0001F30D \u0645\u0631\u062d\u0628\u0627 na\u00efve \u2192 \u221e")
CODE = ("def fibonacci(n):\n    \"\"\"Return the first n Fibonacci numbers.\"\"\"\n    numbers = [0, 1]\n"
        "    while len(numbers) < n:\n        numbers.append(numbers[-1] + numbers[-2])\n"
        "    return numbers[:n]\n\n\ndef test_fibonacci():\n    assert fibonacci(5) ==")
DIGITS = "1 2 3 4 5 6 7 8 9 10 11 12 13 14\n3.14159265358979\n2024-02-29 12:34:56\n17 * 24 = 408\n128 + 256 ="
CHAT = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")


def long_text():
    subjects = ["The river", "An old map", "The committee", "Her garden", "The engine", "A young fox"]
    verbs = ["followed", "revealed", "ignored", "changed", "remembered", "described"]
    objects = ["the northern road", "seven quiet villages", "a simple rule", "the winter of 1847",
               "the sound of distant bells", "an unfinished bridge"]
    sentences = []
    for i in range(120):
        sentences.append(f"{subjects[i % 6]} {verbs[(i * 5 + i // 6) % 6]} {objects[(i * 7 + i // 4) % 6]}.")
        if i % 9 == 8:
            sentences.append(f"\n\nChapter {i // 9 + 2}. ")
    return " ".join(sentences)


def load_tokenizer(reader):
    """The file's vocabulary in an implementation that is not ours."""
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in reader.fields["tokenizer.ggml.merges"].contents()]
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    model = tokenizers.models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([t for t, kind in zip(tokens, types) if kind == 3])
    return tokenizer


class Model:
    def __init__(self, reader):
        def value(key):
            return reader.fields["llama." + key].contents()

        self.num_layers = value("block_count")
        self.num_heads = value("attention.head_count")
        self.num_kv_heads = value("attention.head_count_kv")
        self.epsilon = float(value("attention.layer_norm_rms_epsilon"))
        self.rope_base = float(value("rope.freq_base"))
        self.head_dim = value("embedding_length") // self.num_heads
        self.weights = {
            t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64).reshape(
                tuple(reversed(t.shape.tolist()))) for t in reader.tensors}
        self.keys = [np.zeros((0, self.num_kv_heads, self.head_dim))] * self.num_layers
        self.values = list(self.keys)

    def norm(self, x, name):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.epsilon) * self.weights[name]

    def rope(self, x, positions):
        """Rotates the pairs (2i, 2i + 1), as a GGUF file's rows of Q and K are ordered."""
        frequencies = self.rope_base ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        angles = positions[:, None] * frequencies
        cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
        rotated = np.empty_like(x)
        rotated[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
        rotated[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
        return rotated

    def attention(self, layer, x, positions):
        prefix = f"blk.{layer}.attn_"
        q, k, v = (
            (x @ self.weights[prefix + part + ".weight"].T).reshape(len(x), -1, self.head_dim) for part in "qkv")
        self.keys[layer] = np.concatenate([self.keys[layer], self.rope(k, positions)])
        self.values[layer] = np.concatenate([self.values[layer], v])
        q = self.rope(q, positions)
        visible = np.arange(len(self.keys[layer])) <= positions[:, None]
        out = np.empty_like(q)
        for head in range(self.num_heads):
            kv_head = head * self.num_kv_heads // self.num_heads
            scores = q[:, head] @ self.keys[layer][:, kv_head].T / np.sqrt(self.head_dim)
            scores = np.where(visible, scores, -np.inf)
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            out[:, head] = scores / scores.sum(axis=-1, keepdims=True) @ self.values[layer][:, kv_head]
        return out.reshape(len(x), -1) @ self.weights[prefix + "output.weight"].T

    def feed_forward(self, layer, x):
        prefix = f"blk.{layer}.ffn_"
        gate = x @ self.weights[prefix + "gate.weight"].T
        up = x @ self.weights[prefix + "up.weight"].T
        return (gate / (1 + np.exp(-gate)) * up) @ self.weights[prefix + "down.weight"].T

    def logprobs(self, ids):
        """Log-probabilities behind each of `ids`, which continue what was given before."""
        start = len(self.keys[0])
        positions = np.arange(start, start + len(ids))
        x = self.weights["token_embd.weight"][ids]
        for layer in range(self.num_layers):
            x = x + self.attention(layer, self.norm(x, f"blk.{layer}.attn_norm.weight"), positions)
            x = x + self.feed_forward(layer, self.norm(x, f"blk.{layer}.ffn_norm.weight"))
        output = self.weights.get("output.weight", self.weights["token_embd.weight"])
        logits = self.norm(x, "output_norm.weight") @ output.T
        logits -= logits.max(axis=-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    def reset(self):
        self.keys = [k[:0] for k in self.keys]
        self.values = [v[:0] for v in self.values]


def top(row):
    best = np.argsort(-row, kind="stable")[:NUM_TOP]
    return [[int(i), round(float(row[i]), 6)] for i in best]


def make_case(model, name, text, prompt, stride):
    model.reset()
    ids = list(prompt)
    rows = list(model.logprobs(ids))
    for _ in range(NUM_GENERATED):
        ids.append(int(np.argmax(rows[-1])))
        rows.append(model.logprobs(ids[-1:])[0])
    kept = [p for p in range(len(ids)) if p % stride == 0 or p >= len(prompt) - 1]
    return {
        "name": name,
        "text": text,
        "num_prompt_tokens": len(prompt),
        "token_ids": ids,
        "next_tokens": [{"position": p, "top": top(rows[p])} for p in kept],
    }


def main():
    path = sys.argv[1]
    reader = gguf.GGUFReader(path)
    tokenizer = load_tokenizer(reader)
    model = Model(reader)
    cases = []
    for name, text in [("plain", PLAIN), ("unicode", UNICODE), ("code", CODE), ("digits", DIGITS), ("chat", CHAT),
                       ("long", long_text())]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        stride = 1
        if name == "long":
            ids = ids[:LONG_PROMPT_TOKENS]
            text = tokenizer.decode(ids, skip_special_tokens=False)
            assert len(ids) == LONG_PROMPT_TOKENS
            assert tokenizer.encode(text, add_special_tokens=False).ids == ids
            stride = LONG_PROMPT_STRIDE
        cases.append(make_case(model, name, text, ids, stride))
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    lines = [json.dumps(case, separators=(",", ":")) for case in cases]
    print('{"model_sha256":"%s","cases":[\n%s\n]}' % (sha256, ",\n".join(lines)))


if __name__ == "__main__":
    main()
