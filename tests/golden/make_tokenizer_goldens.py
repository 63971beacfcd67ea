#!/usr/bin/env python3
"""Writes tests/golden/tokenizer, from two independent implementations.

pieces.json   texts cut by the regular expressions in model/pretokenizer.h, with PyPI `regex`
ids.json      texts encoded with the vocabulary of the default model, with PyPI `tokenizers`

Both follow Unicode 16 in the versions pinned here:
  pip install regex==2024.11.6 tokenizers==0.23.3 gguf==0.19.0

Usage: tests/golden/make_tokenizer_goldens.py MODEL.gguf [--random-texts N] [--out FOLDER]
"""

import argparse
import json
import pathlib
import random

import gguf
import regex
import tokenizers
from tokenizers import pre_tokenizers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "I'm sure they've said it's what we'd like; you'll see, it isn't theirs, 'tis ours.",
    "I'M SURE THEY'VE SAID IT'S WHAT WE'D LIKE, YOU'LL SEE. '\u017fome long s'",
    "x' s ' 's'' ''ll '' 're'",
    "1 12 123 1234 12345678 3.14159 1e-9 0xFF 1,234,567 \u0661\u0662\u0663 \u00bd \u2167 \u4e09",
    "  two   three    four\ttab\t\ttabs \t mixed \n newline\n\n  \n\n   indent\r\n\r\nend  ",
    "trailing spaces   ",
    "\n\n\n",
    "   \n  \n x",
    "a\u00a0b\u3000c\u2003\u2003d\u180ee\u200bf\u0085g\u2028h\ufeffi",
    "def f(x: int) -> int:\n    return x ** 2 + 1  # square\n\n\nif __name__ == \"__main__\":\n\tf(3)\n",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }  // dot product\n",
    "SELECT * FROM t WHERE id != 42 AND name LIKE '%s';",
    "<div class=\"a\"><p>&nbsp;</p></div>",
    "https://example.org/a/b?c=d&e=%20#f user@example.org",
    "Gr\u00fc\u00dfe aus K\u00f6ln, \u00e7a va? \u00bfQu\u00e9 tal? \u0141\u00f3d\u017a \u010de\u0161tina",
    "e\u0301 decomposed, a\u0308o\u0308u\u0308, \u1e9b\u0323",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3067\u3059\u3002\ud55c\uad6d\uc5b4 \ubb38\uc7a5",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u0661\u0662\u0663 \u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea \u2764\ufe0f\U0001f44d\U0001f3fd emoji\U0001f680rocket",
    "\U0001d54f\U0001d4ea math \u2211\u222b\u221a \u2192 \u2260 \u2264 \u20ac\u00a3\u00a5",
    "\u0000\u0001\u0002\u001b[0m\u007f",
    "...!!!???---===___***///\\\\\\~~~```",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "bananabandanabananabandana Mississippi Mississippi antidisestablishmentarianism",
    "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|<|im_start|><|im_end|><|endoftext|><file_sep><filename>a.py",
]

# Characters at which the rules differ from one another.
TRICKY = (
    ["'", "'", "s", "S", "t", "re", "VE", "m", "ll", "d", "\u017f", "a", "Z", "\u00e9", "\u4f60"]
    + ["\u0301", "1", "2", "3", "\u0661", "\u00bd", "\u2167", " ", " ", " ", "\t", "\n", "\n", "\r"]
    + ["\u00a0", "\u3000", "\u0085", "\u2028", "\u180e", "\u200b", "!", "-", "_", "\u2014"]
    + ["\U0001f600", "\U0001d54f", "\U00010900", "\U0001e950", "\u0000"]
)


def make_random_texts(count):
    rng = random.Random(20240601)
    return ["".join(rng.choices(TRICKY, k=rng.randint(1, 24))) for _ in range(count)]


def cut(kind, text):
    """Pieces of `text`; what no match covers is a piece too."""
    if kind == "smollm":
        parts = regex.split(r"(\p{N})", text)
        return [piece for part in parts for piece in cut("gpt-2", part)]
    pattern = {"gpt-2": GPT2, "llama-bpe": LLAMA3, "qwen2": QWEN2}[kind]
    pieces, end = [], 0
    for match in regex.finditer(pattern, text):
        pieces += [text[end : match.start()], match.group()]
        end = match.end()
    return [piece for piece in pieces + [text[end:]] if piece]


KINDS = ["gpt-2", "smollm", "llama-bpe", "qwen2"]


def make_pieces(texts):
    return [
        {"text": t, **{kind: [len(p.encode()) for p in cut(kind, t)] for kind in KINDS}}
        for t in texts
    ]


def read_strings(reader, key):
    field = reader.fields[key]
    return [bytes(field.parts[i]).decode() for i in field.data]


def make_tokenizer(reader, kind, parse_special):
    tokens = read_strings(reader, "tokenizer.ggml.tokens")
    merges = read_strings(reader, "tokenizer.ggml.merges")
    model = tokenizers.models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[tuple(merge.split(" ")) for merge in merges],
        ignore_merges=kind == "llama-bpe",
    )
    tokenizer = tokenizers.Tokenizer(model)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    by_gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    split = {"llama-bpe": LLAMA3, "qwen2": QWEN2}.get(kind)
    if split:
        cutter = [pre_tokenizers.Split(tokenizers.Regex(split), "isolated"), byte_level]
    elif kind == "smollm":
        cutter = [pre_tokenizers.Digits(individual_digits=True), by_gpt2]
    else:
        cutter = [by_gpt2]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cutter)
    if parse_special:
        types = reader.fields["tokenizer.ggml.token_type"]
        control = [t for t, i in zip(tokens, types.data) if types.parts[i][0] == 3]
        tokenizer.add_special_tokens(control)
    return tokenizer


def make_ids(reader, texts):
    """ids by kind, and for the model's own kind with special tokens parsed."""
    encoders = {kind: make_tokenizer(reader, kind, parse_special=False) for kind in KINDS}
    encoders["smollm-special"] = make_tokenizer(reader, "smollm", parse_special=True)
    return [
        {"text": t, **{name: e.encode(t, add_special_tokens=False).ids for name, e in encoders.items()}}
        for t in texts
    ]


def spelled(reader, texts):
    """Those without a byte that the vocabulary has no token for: what is made of it is our choice."""
    tokens = set(read_strings(reader, "tokenizer.ggml.tokens"))
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [
        t for t in texts if all(c in tokens for p, _ in alphabet.pre_tokenize_str(t) for c in p)
    ]


def write(path, rows):
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    path.write_text("[\n" + lines + "\n]\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--random-texts", type=int, default=400)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "tokenizer")
    args = parser.parse_args()
    random_texts = make_random_texts(args.random_texts)
    write(args.out / "pieces.json", make_pieces(TEXTS + random_texts))
    reader = gguf.GGUFReader(args.model)
    texts = spelled(reader, TEXTS + random_texts[: args.random_texts // 8])
    write(args.out / "ids.json", make_ids(reader, texts))


if __name__ == "__main__":
    main()
