#!/usr/bin/env python3
"""Writes sampling_vectors: what docs/sampling.md says, worked out without any of our C++.

Needs numpy only:  python3 make_sampling_vectors.py > sampling_vectors

Floats stand as the eight hex digits of their bits. Lines:
  noise SEED POSITION TOKEN WORD NOISE
  mass SCORE MAX MASS
  fork SEED INDEX DERIVED_SEED
  case VOCAB KIND SALT TEMPERATURE TOP_K TOP_P MIN_P REPETITION FREQUENCY PRESENCE SEED POSITION
       BIASES SEEN BANNED FORCED NUM_LOGPROBS => STATUS TOKEN LOGPROBS
with lists as comma-separated entries or '-': id:bits, id:count, id, id:bits. KIND and SALT make the
logits: see logits().
"""

import math

import numpy as np

F = np.float32
U = np.uint32
MAX_SCORE = F(np.finfo(F).max)


def bits(x):
    return "%08x" % int(np.asarray(x, F).view(U))


def from_hex(text):
    return F(float.fromhex(text))


# --- fp32 arithmetic: numpy rounds + - * / once; fma rounds to odd in double, then to float.


def fma(a, b, c):
    a, b, c = (np.asarray(v, np.float64) for v in np.broadcast_arrays(a, b, c))
    product = a * b  # exact: 24 + 24 bits
    total = product + c
    rest = total - product
    error = (product - (total - rest)) + (c - rest)
    even = (total.view(np.uint64) & np.uint64(1)) == 0
    toward = np.where(error > 0, np.inf, -np.inf)
    odd = np.where((error != 0) & even & np.isfinite(total), np.nextafter(total, toward), total)
    return odd.astype(F)


def horner(x, coefficients):
    result = F(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        result = fma(result, x, F(c))
    return result


EXP2 = [from_hex(c) for c in ("0x1p+0", "0x1.62e430p-1", "0x1.ebfbe0p-3", "0x1.c6af72p-5",
                              "0x1.3b2a48p-7", "0x1.5f0dccp-10", "0x1.4424b0p-13")]
LOG = [from_hex(c) for c in ("0x1.555546p-2", "-0x1p-2", "0x1.99a546p-3", "-0x1.555f16p-3",
                             "0x1.232fe8p-3", "-0x1.fbc1e6p-4", "0x1.e6f4eep-4", "-0x1.e04a3ap-4",
                             "0x1.16babcp-4")]
LOG2_E = from_hex("0x1.715476p+0")


def exp2(x):
    """2^x for x <= 0; 0 below -126. The integer part is rounded to nearest even."""
    x = np.atleast_1d(np.asarray(x, F))
    tiny = x < -126
    safe = np.where(tiny, F(0), x)
    n = np.rint(safe)
    power = ((n.astype(np.int64) + 127) << 23).astype(U).view(F)
    return np.where(tiny, F(0), horner(safe - n, EXP2) * power)


def log(x):
    """Natural logarithm of positive normal floats."""
    x = np.atleast_1d(np.asarray(x, F))
    assert np.all(x >= F(2.0**-126)) and np.all(np.isfinite(x))
    b = x.view(U).astype(np.int64)
    exponent = (b - 0x3F3504F3) >> 23
    f = (b - (exponent << 23)).astype(U).view(F) - F(1)
    e = exponent.astype(F)
    f2 = f * f
    tail = fma(e, from_hex("0x1.7f7d1cp-20"), f * f2 * horner(f, LOG))
    tail = fma(F(-0.5), f2, tail)
    return fma(e, F(0xB172 * 2.0**-16), f + tail)


# --- noise and mass


def philox(key, counter):
    """Philox4x32-10 of arrays of counters; four arrays of words."""
    c = [np.asarray(v, np.uint64) for v in np.broadcast_arrays(*counter)]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    low = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c[0]
        p1 = np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> shift) ^ c[1] ^ np.uint64(k0), p1 & low,
             (p0 >> shift) ^ c[3] ^ np.uint64(k1), p0 & low]
        k0 = (k0 + 0x9E3779B9) & 0xFFFFFFFF
        k1 = (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def noise_words(seed, position, tokens):
    tokens = np.asarray(tokens, np.uint64)
    words = philox(seed, (position & 0xFFFFFFFF, position >> 32, tokens // np.uint64(4), 0))
    return np.choose((tokens % np.uint64(4)).astype(np.int64), words).astype(U)


def noise_of(words):
    uniform = ((words >> U(9)).astype(F) + F(0.5)) * F(2.0**-23)
    return -log(-log(uniform))


def mass_of(scores, maximum):
    with np.errstate(over="ignore"):
        e = exp2((np.asarray(scores, F) - F(maximum)) * LOG2_E)
    return [int(v) for v in e.astype(np.float64) * 2.0**40]


def fork_seed(seed, index):
    if index == 0:
        return seed
    words = philox(seed, (index, 0, 0, 1))
    return ((int(words[1]) << 32) | int(words[0])) & (2**53 - 1)


# --- sampling


def logits(kind, salt, vocab):
    h = (np.arange(vocab, dtype=np.uint64) + np.uint64(salt * 0x9E3779B9)) & np.uint64(0xFFFFFFFF)
    h = h.astype(U)
    h ^= h >> U(16)
    h *= U(0x7FEB352D)
    h ^= h >> U(15)
    h *= U(0x846CA68B)
    h ^= h >> U(16)
    uniform = ((h >> U(12)).astype(F) - F(2.0**19)) * F(2.0**-15)  # [-16, 16)
    if kind == "uniform":
        return uniform
    if kind == "ties":
        return (h >> U(28)).astype(F) - F(8)
    if kind == "flat":
        return np.zeros(vocab, F)
    if kind == "peaked":
        uniform = uniform * F(0.25)
        uniform[salt % vocab] = F(20)
        return uniform
    if kind == "huge":
        return uniform * F(2.0**122)
    if kind == "negative":
        return (uniform + F(17)) * F(-(2.0**122))
    if kind == "infinite":
        uniform[salt % vocab] = F(np.inf)
        return uniform
    raise ValueError(kind)


DEFAULTS = dict(kind="uniform", salt=1, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0,
                repetition=1.0, frequency=0.0, presence=0.0, seed=0, position=0, biases=(), seen=(),
                banned=(), forced=-1, num_logprobs=0)


def saturate(x):
    return np.clip(x, -MAX_SCORE, MAX_SCORE)


def penalized(score, case, count):
    with np.errstate(over="ignore"):
        penalty = F(case["repetition"])
        score = score / penalty if score > 0 else score * penalty
        score = score - F(case["frequency"]) * F(count)
        if count > 0:
            score = score - F(case["presence"])
    return saturate(score)


def edited_scores(raw, case):
    """Scores by token id; masked tokens are missing."""
    scores = {t: s for t, s in enumerate(raw) if t not in set(case["banned"])}
    for token, bias in case["biases"]:
        if token in scores:
            scores[token] = scores[token] + F(bias)
    for token, count in case["seen"]:
        if token in scores:
            scores[token] = penalized(scores[token], case, count)
    return scores


def choose(raw, case):
    scores = edited_scores(raw, case)
    tokens = np.array(sorted(scores), np.int64)
    if len(tokens) == 0:
        return None
    s = np.array([scores[t] for t in tokens.tolist()], F)
    temperature = F(case["temperature"])
    if temperature < F(1e-5):
        return int(tokens[np.argmax(s)])  # the first of equals
    with np.errstate(over="ignore"):
        s = saturate(s / temperature)
    order = np.argsort(-s.astype(np.float64), kind="stable")
    tokens, s = tokens[order], s[order]
    if case["top_k"] > 0:
        tokens, s = tokens[:case["top_k"]], s[:case["top_k"]]
    masses = mass_of(s, s[0])
    if case["top_p"] < 1:
        target = math.ceil(float(F(case["top_p"])) * float(sum(masses)))
        total, count = 0, 0
        while total < target:
            total += masses[count]
            count += 1
        tokens, s, masses = tokens[:count], s[:count], masses[:count]
    if case["min_p"] > 0:
        least = math.ceil(float(F(case["min_p"])) * 2.0**40)
        kept = [i for i, m in enumerate(masses) if m >= least]
        tokens, s = tokens[kept], s[kept]
    totals = s + noise_of(noise_words(case["seed"], case["position"], tokens))
    return int(np.min(tokens[totals == np.max(totals)]))


def logprobs(raw, token, num_top):
    maximum = np.max(raw)
    log_sum = log(F(float(sum(mass_of(raw, maximum))) / 2.0**40))[0]
    top = [int(t) for t in np.argsort(-raw.astype(np.float64), kind="stable")[:num_top]]
    if token not in top:
        top.append(token)
    return [(t, (raw[t] - maximum) - log_sum) for t in top]


def run(case):
    raw = logits(case["kind"], case["salt"], case["vocab"])
    if not np.all(np.isfinite(raw)):
        return "non_finite", -1, []
    token = case["forced"] if case["forced"] >= 0 else choose(raw, case)
    if token is None:
        return "no_token_left", -1, []
    return "ok", token, logprobs(raw, token, case["num_logprobs"])


def joined(items):
    return ",".join(items) if items else "-"


def print_case(**changes):
    case = dict(DEFAULTS, **changes)
    status, token, entries = run(case)
    fields = [case["vocab"], case["kind"], case["salt"], bits(case["temperature"]), case["top_k"]]
    fields += [bits(case[k]) for k in ("top_p", "min_p", "repetition", "frequency", "presence")]
    fields += [case["seed"], case["position"]]
    fields += [joined(["%d:%s" % (t, bits(b)) for t, b in case["biases"]])]
    fields += [joined(["%d:%d" % entry for entry in case["seen"]])]
    fields += [joined(["%d" % t for t in case["banned"]]), case["forced"], case["num_logprobs"]]
    fields += ["=>", status, token, joined(["%d:%s" % (t, bits(p)) for t, p in entries])]
    print("case", *fields)


def print_noise():
    for seed in (0, 1, 0x0123456789ABCDEF, 2**53 - 1, 2**64 - 1):
        for position in (0, 1, 4096, 2**32 + 7):
            tokens = [0, 1, 2, 3, 4, 63, 64, 49151, 128255]
            words = noise_words(seed, position, tokens)
            for token, word, noise in zip(tokens, words, noise_of(words)):
                print("noise", seed, position, token, "%08x" % int(word), bits(noise))


def print_masses():
    for score, maximum in ((0, 0), (-1, 0), (1.5, 2.75), (-27.7, 0), (-27.8, 0), (-1e-6, 0),
                           (-87.0, 0), (-1000, 10), (19.999998, 20), (-MAX_SCORE, MAX_SCORE)):
        print("mass", bits(score), bits(maximum), mass_of(score, maximum)[0])


def print_cases():
    for vocab in (1, 2, 17, 64, 65, 1000, 49152):
        print_case(vocab=vocab, temperature=0.0, num_logprobs=5)
        print_case(vocab=vocab, seed=11, position=vocab, num_logprobs=3)
        print_case(vocab=vocab, seed=12, position=5, temperature=0.7, top_p=0.9)
    for kind in ("ties", "flat", "peaked", "huge"):
        for vocab in (50, 1000, 20000):
            print_case(vocab=vocab, kind=kind, temperature=0.0, num_logprobs=20)
            print_case(vocab=vocab, kind=kind, seed=21, position=3, num_logprobs=2)
            print_case(vocab=vocab, kind=kind, seed=22, temperature=1.3, top_k=7)
            print_case(vocab=vocab, kind=kind, seed=23, top_p=0.5)
            print_case(vocab=vocab, kind=kind, seed=24, temperature=5.0, top_k=40, top_p=0.95)
            print_case(vocab=vocab, kind=kind, seed=25, temperature=2.0, min_p=0.05)
    for seed in range(100, 108):
        print_case(vocab=4000, salt=seed, seed=seed, position=seed, temperature=0.8, top_k=50,
                   top_p=0.9, min_p=0.02, repetition=1.1, frequency=0.5, presence=0.25,
                   biases=((7, 3.5), (3999, -100.0), (7, 0.25)),
                   seen=((0, 0), (7, 2), (100, 1), (3998, 40)), banned=(1, 2, 3999),
                   num_logprobs=4)
    for temperature in (1e-6, 9.9e-6, 1.01e-5, 0.01, 100.0, 1e30):
        print_case(vocab=300, seed=31, temperature=temperature, kind="ties")
    for top_p in (1e-30, 1e-6, 0.1, 0.999, 0.9999999):
        print_case(vocab=3000, seed=32, top_p=top_p, temperature=4.0)
    for min_p in (1e-30, 0.5, 1.0):
        print_case(vocab=3000, seed=33, min_p=min_p, temperature=4.0)
    print_case(vocab=100, kind="huge", temperature=0.5, repetition=1e-5, seed=41,
               seen=tuple((t, 1) for t in range(100)))
    for kind in ("huge", "negative"):  # the temperature saturates scores
        for changes in (dict(), dict(top_p=0.5), dict(min_p=0.5), dict(top_k=30, top_p=0.9)):
            print_case(vocab=200, kind=kind, temperature=0.01, seed=42, banned=(3,), **changes)
    print_case(vocab=100, banned=tuple(range(100)))
    print_case(vocab=100, banned=tuple(range(99)), biases=((99, -100.0),), temperature=2.0)
    print_case(vocab=100, kind="infinite", salt=3, banned=(3,))
    print_case(vocab=100, forced=42, num_logprobs=2, temperature=0.0)
    print_case(vocab=100, forced=42, banned=tuple(range(100)))
    print_case(vocab=128256, seed=2**64 - 1, position=2**33, temperature=3.0, top_p=0.99)
    print_case(vocab=128256, seed=5, position=131071, temperature=10.0)


def main():
    print("# Made by make_sampling_vectors.py, which explains the format.")
    print_noise()
    print_masses()
    for seed in (0, 7, 2**53 - 1, 2**64 - 1):
        for index in (0, 1, 2, 63):
            print("fork", seed, index, fork_seed(seed, index))
    print_cases()


if __name__ == "__main__":
    main()
