"""Large language models on a small machine: memory, and time by the number of layers.

    python benchmarks/large.py [--tokens 2048]

Configurations like Llama's, of 7 and 70 billion parameters, with a quarter, a half and all of their layers. Each is
built without data and inspected in a process of its own, which tells its largest resident set, libraries included, and
the CPU seconds of the second inspection of two (the first imports what it needs). Multiply-adds are held against a
closed form: of every token, the weights of each linear layer, and twice the tokens times the width for the scores of
each layer. Writes ``benchmarks/results/large.txt``; exits with 1 if a process needs 2 GB, if the time of a layer grows,
or if a figure is not that of the closed form.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from skipgraph.scan.isolated import Isolated

CONFIGURATIONS: dict[str, dict[str, int]] = {
    "7 B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096},
    "70 B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
             "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 4096},
}  # fmt: skip
MOST_BYTES = 2_000_000_000
MOST_GROWTH = 1.25  # of the time of a layer


def inspected(settings: dict[str, int], tokens: int) -> dict[str, Any]:
    """Build one and inspect it, in this process."""
    import skipgraph as sg
    from skipgraph.sources.torchvision_operators import declare_missing

    declare_missing()
    import transformers

    with torch.device("meta"):
        model = transformers.AutoModel.from_config(transformers.LlamaConfig(**settings))
    inputs = {"input_ids": torch.zeros(1, tokens, dtype=torch.int64, device="meta")}
    seconds = 0.0
    for _ in range(2):
        start = time.process_time()
        graph = sg.trace(model, inputs)
        seconds = time.process_time() - start
    return {
        "parameters": graph.cost.parameters, "flops": graph.cost.flops, "skips": graph.counts.skips,
        "seconds": seconds, "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }  # fmt: skip


def closed_form(settings: dict[str, int], tokens: int) -> int:
    """Multiply-adds of the linear layers and of attention."""
    width, inner = settings["hidden_size"], settings["intermediate_size"]
    keys = width * settings["num_key_value_heads"] // settings["num_attention_heads"]
    weights = 2 * width * width + 2 * width * keys + 3 * width * inner
    return settings["num_hidden_layers"] * (tokens * weights + 2 * tokens * tokens * width)


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    tokens = parser.parse_args().tokens
    lines = [f"torch {torch.__version__}; {tokens} tokens; CPU seconds of one inspection; largest resident set", ""]
    lines.append(
        f"{'':6} {'layers':>6} {'parameters':>12} {'multiply-adds':>16} {'skips':>6} {'s':>7} {'ms/layer':>9} {'MB':>6}"
    )
    good = True
    from large import inspected  # by its importable name: another process has to find it

    with Isolated() as isolated:
        for name, whole in CONFIGURATIONS.items():
            each: list[float] = []
            for share in (4, 2, 1):
                layers = whole["num_hidden_layers"] // share
                settings = whole | {"num_hidden_layers": layers}
                found = isolated.call(inspected, settings, tokens, seconds=600)
                each.append(found["seconds"] / layers)
                other = found["flops"] - closed_form(settings, tokens)
                good &= found["bytes"] < MOST_BYTES and abs(other) < 1e-4 * found["flops"]
                lines.append(
                    f"{name:6} {layers:6} {found['parameters']:12,} {found['flops']:16,} {found['skips']:6} "
                    f"{found['seconds']:7.2f} {1e3 * each[-1]:9.2f} {found['bytes'] / 1e6:6.0f}"
                )
            good &= each[-1] < MOST_GROWTH * each[0]
    lines += ["", "as asked" if good else "NOT as asked"]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    (Path(__file__).parent / "results" / "large.txt").write_text(text, encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
