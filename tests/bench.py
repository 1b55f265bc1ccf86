"""What LoRA costs: ours beside PEFT's, loralib's, a frozen layer and full fine-tuning. Run it with ``make bench``.

Every figure is a ratio to full fine-tuning of the same ``nn.Linear``, measured in the same run: the methods take turns,
so that a machine that slows down slows all of them. Printed are the median ratio and the middle half of all ratios. One
thread, because two that share two cores with anything else measure the neighbours.
"""

import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

os.environ["KINETO_LOG_LEVEL"] = "99"  # the memory profiler talks too much

import loralib
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.profiler import ProfilerActivity, profile

from lora_lab import (
    LinearWithLoRA,
    load_adapter,
    load_lora_state,
    lora_state,
    merge_lora,
    replace_linear_with_lora,
    save_adapter,
)
from lora_lab.many import put_side_by_side, which_adapter
from lora_lab.material import TinyGPT, shipped_adapter

RANK, ALPHA = 8, 16
BASELINE = "full fine-tuning"


def peft_layer(width):
    return get_peft_model(
        nn.Sequential(nn.Linear(width, width)), LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["0"])
    )


def frozen_layer(width):
    return nn.Linear(width, width).requires_grad_(False)


METHODS = {
    BASELINE: lambda width: nn.Linear(width, width),
    "frozen nn.Linear": frozen_layer,
    "lora_lab": lambda width: LinearWithLoRA(nn.Linear(width, width), RANK, ALPHA),
    "peft": peft_layer,
    "loralib": lambda width: _freeze_for_loralib(loralib.Linear(width, width, r=RANK, lora_alpha=ALPHA)),
}


def _freeze_for_loralib(layer):
    loralib.mark_only_lora_as_trainable(layer)
    return layer


def merge(model):
    """The model merged by its own library's means."""
    if isinstance(model, LinearWithLoRA):
        merge_lora(model)
    elif isinstance(model, loralib.Linear):
        model.eval()
    elif hasattr(model, "merge_adapter"):
        model.merge_adapter()
    return model


def forward(model, x, optimizer):
    model(x)


def forward_backward(model, x, optimizer):
    model(x).sum().backward()
    model.zero_grad()
    x.grad = None


def training_step(model, x, optimizer):
    model(x).sum().backward()
    if optimizer:
        optimizer.step()
    model.zero_grad()
    x.grad = None


def inference(model, x, optimizer):
    with torch.inference_mode():
        model(x)


PASSES = {
    "forward": forward,
    "forward + backward": forward_backward,
    "with AdamW step": training_step,
    "merged inference": inference,
}


def adamw(model):
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trainable, fused=True) if trainable else None


def ratios(work, width, tokens, repeats):
    """Each method's time over the baseline's, turn by turn: ``{method: [ratio, …]}``."""
    models = {name: make(width) for name, make in METHODS.items()}
    if work is inference:
        models = {name: merge(model) for name, model in models.items()}
    optimizers = {name: adamw(model) for name, model in models.items()}
    # The gradient flows on to the layer before, as it does inside a model.
    x = torch.randn(tokens, width, requires_grad=work is not inference)
    inner = max(1, 64 // tokens)  # short work is timed in bundles
    times = {name: [] for name in models}
    for turn in range(repeats + 3):
        for name in random.sample(sorted(models), len(models)):  # nobody always follows the same neighbour
            start = time.perf_counter()
            for _ in range(inner):
                work(models[name], x, optimizers[name])
            if turn >= 3:  # the first turns warm up
                times[name].append(time.perf_counter() - start)
    return {name: [a / b for a, b in zip(times[name], times[BASELINE], strict=True)] for name in models}


def summary(values):
    quarter = statistics.quantiles(values, n=4)
    return {"median": round(quarter[1], 3), "low": round(quarter[0], 3), "high": round(quarter[2], 3)}


def peak_memory(make, width, tokens=512):
    """Bytes at the worst moment of two training steps: weights, gradients, optimizer and activations."""
    model, x = make(width), torch.randn(tokens, width, requires_grad=True)
    optimizer = adamw(model)
    training_step(model, x, None)  # libraries that allocate something once have done so
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        for _ in range(2):
            training_step(model, x, optimizer)
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = sum(p.numel() * p.element_size() for p in model.parameters()) + x.numel() * x.element_size()
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def file_sizes(width=768, layers=12):
    """Bytes of an adapter on disk beside the model's own weights, and the time to swap one, in memory and from disk."""
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
    whole = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    replace_linear_with_lora(model, RANK, ALPHA)
    state = lora_state(model)
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, folder)
        adapter = sum(path.stat().st_size for path in Path(folder).iterdir())
        from_disk = best_of(lambda: load_adapter(model, folder))
    in_memory = best_of(lambda: load_lora_state(model, state))
    one_pass = best_of(lambda: model(torch.ones(1, width)))
    return {
        "layers": f"{layers} × {width}×{width}, r = {RANK}",
        "model_bytes": whole,
        "adapter_bytes": adapter,
        "adapter_over_model": round(adapter / whole, 4),
        "swap_in_memory_ms": round(1e3 * in_memory, 2),
        "swap_from_disk_ms": round(1e3 * from_disk, 2),
        "swap_in_memory_over_one_forward_pass_of_one_token": round(in_memory / one_pass, 2),
    }


def best_of(work, repeats=20):
    def timed():
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return min(timed() for _ in range(repeats))


def serving():
    """Time of swapping adapters over that of one batch, a token a row: ``{"8 rows and 2 adapters": ratio, …}``."""
    names, found = ("code", "names", "tales"), {}
    swapped, states = TinyGPT.pretrained(), []
    for i in range(8):
        load_adapter(swapped, shipped_adapter(names[i % 3]))
        states.append(lora_state(swapped))
    together = TinyGPT.pretrained()
    put_side_by_side(together, {str(i): shipped_adapter(names[i % 3]) for i in range(8)})

    @torch.inference_mode()
    def swap(tokens, adapters):
        for i in range(adapters):
            load_lora_state(swapped, states[i])
            swapped(tokens[i::adapters])

    @torch.inference_mode()
    def one_batch(tokens, adapters):
        with which_adapter(together, [str(row % adapters) for row in range(len(tokens))]):
            together(tokens)

    for rows in (8, 32):
        tokens = torch.zeros(rows, 1, dtype=torch.long)
        for adapters in (1, 2, 4, 8):
            both = [best_of(partial(way, tokens, adapters)) for way in (swap, one_batch)]
            found[f"{rows} rows and {adapters} adapters"] = round(both[0] / both[1], 2)
    return found


def import_ratio(repeats=7):
    """Seconds that ``import lora_lab`` takes over those of ``import torch``, in fresh interpreters, taking turns."""

    def seconds(module):
        code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    return summary([seconds("lora_lab") / seconds("torch") for _ in range(repeats)])


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    report = {"machine": platform.platform(), "torch": torch.__version__, "rank": RANK, "ratios": []}
    print(
        f"Ratios to full fine-tuning of the same nn.Linear: median (middle half). Rank {RANK}, one thread, float32.\n"
    )
    for width, tokens, repeats in ((768, 512, 120), (2048, 512, 30), (768, 1, 150), (2048, 1, 60)):
        print(f"{width} × {width}, {tokens} token{'s' * (tokens > 1)}")
        print(f"  {'':18}" + "".join(f"{name:>24}" for name in PASSES) + f"{'peak memory':>14}" * (tokens > 1))
        columns = {name: ratios(work, width, tokens, repeats) for name, work in PASSES.items()}
        base_memory = peak_memory(METHODS[BASELINE], width)
        for method in METHODS:
            line = f"  {method:18}"
            row = {"width": width, "tokens": tokens, "method": method}
            for name in PASSES:
                row[name] = summary(columns[name][method])
                line += f"{row[name]['median']:>10.2f} ({row[name]['low']:.2f} – {row[name]['high']:.2f})"
            if tokens > 1:
                row["peak memory"] = round(peak_memory(METHODS[method], width, tokens) / base_memory, 3)
                line += f"{row['peak memory']:>14.2f}"
            report["ratios"].append(row)
            print(line)
        print()
    report["on disk"] = file_sizes()
    report["swapping adapters over one batch of all"] = serving()
    report["import lora_lab over import torch"] = import_ratio()
    for name in ("on disk", "swapping adapters over one batch of all", "import lora_lab over import torch"):
        print(f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in report[name].items()))
    Path("bench.json").write_text(json.dumps(report, indent=2) + "\n")
    print("\nwritten to bench.json")


if __name__ == "__main__":
    main()
