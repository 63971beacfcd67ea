"""Attention's time and memory against length, from the JSON lines of the programs that measure it:
{"bench": "length", "who": ..., "length": ..., "heads": ..., "ms": ..., "mib": ...}.
"""


def draw(records, path):
    """Into a picture at path, where matplotlib is there."""
    try:
        import matplotlib
    except ImportError:
        print("no matplotlib: no plot")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = [r for r in records if r["bench"] == "length" and "ms" in r]
    figure, (time_axis, memory_axis) = pyplot.subplots(1, 2, figsize=(10, 4))
    for who in dict.fromkeys(r["who"] for r in records):
        mine = [r for r in records if r["who"] == who]
        lengths = [r["length"] for r in mine]
        time_axis.loglog(lengths, [r["ms"] for r in mine], "o-", label=who, base=2)
        memory_axis.loglog(lengths, [r["mib"] for r in mine], "o-", label=who, base=2)
    heads = records[0]["heads"] if records else 0
    time_axis.set(xlabel="tokens", ylabel="ms", title=f"causal attention, {heads} heads of 64")
    memory_axis.set(xlabel="tokens", ylabel="MiB", title="memory, q, k, v and out included")
    for axis in (time_axis, memory_axis):
        axis.grid(True, which="both", alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80)
