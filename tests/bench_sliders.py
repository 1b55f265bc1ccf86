"""How long a slider takes from the key to the changed picture, in JupyterLab: ours beside ipywidgets.interact.

    python tests/bench_sliders.py

Measures all of it in one run, prints a table, and leaves the numbers in bench_sliders.json.
"""

import json
import random
import statistics
import tempfile
from pathlib import Path

from browser import (
    JUMP,
    PICTURE,
    asked,
    chromium,
    count_questions,
    errors,
    in_kernel,
    jupyterlab,
    open_notebook,
    run_all,
    settle,
    shut_down_kernels,
    sliders,
    write_notebook,
)

MOVES = 40
SIZE = 96  # of each of the three matrices

PREPARE = f"""import ipywidgets, psutil, torch
import matplotlib.pyplot as plt
from lora_lab import set_seed
from lora_lab.material import create_planted_task
from lora_lab.pictures.figures import MARKERS, STYLE
from lora_lab.pictures.sliders import rank_explorer, training_explorer

set_seed(0)
smooth = torch.randn({SIZE}, {SIZE}).cumsum(0).cumsum(1)
images = {{"smooth": smooth, "noise": torch.randn({SIZE}, {SIZE}), "mixed": smooth + 20 * torch.randn({SIZE}, {SIZE})}}
drawn = []"""
# rank_explorer's figure, made anew for every position, as notebooks usually do.
INTERACT = """factors = {name: torch.linalg.svd(image, full_matrices=False) for name, image in images.items()}

def draw(rank):
    with plt.rc_context(fname=STYLE):
        figure, (*panels, chart) = plt.subplots(1, 4, figsize=(10, 3.1), width_ratios=[1, 1, 1, 1.35])
        for axes, marker, (name, image) in zip(panels, MARKERS, images.items()):
            U, S, Vh = factors[name]
            low, high = image.quantile(0.01).item(), image.quantile(0.99).item()
            axes.imshow((U[:, :rank] * S[:rank]) @ Vh[:rank], cmap="gray", vmin=low, vmax=high)
            axes.set(xticks=[], yticks=[], title=name)
            axes.grid(False)
            axes.spines[:].set_visible(False)
            squares = S.square()
            errors = 100 * (1 - squares.cumsum(0) / squares.sum()).clamp(min=0).sqrt()
            (line,) = chart.plot(range(1, len(errors) + 1), errors, label=name)
            chart.plot([rank], [errors[rank - 1]], marker=marker, markersize=9, color=line.get_color(), ls="none")
            caption = f"rank {rank}: error {errors[rank - 1]:.0f} %"
            axes.text(0.5, -0.08, caption, ha="center", va="top", transform=axes.transAxes)
        chart.set(xlabel="rank", ylabel="error left, %", ylim=(0, 105), title="What is left out")
        chart.legend()
        figure.set_layout_engine("constrained")
        plt.show()

ipywidgets.interact(draw, rank=ipywidgets.IntSlider(value=4, min=1, max=SIZE));""".replace("SIZE", str(SIZE))
# Three adapters of a model of real size; what they hold does not matter here.
STRENGTH = """from lora_lab import lora_layers, lora_state, replace_linear_with_lora
from lora_lab.material import DigitClassifier, digits
from lora_lab.pictures.sliders import digits_explorer, strength_explorer

names = ["upright", "mirrored", "rotated", "inverted"]
tasks = {name: digits(name, dtype=torch.float64) for name in names}
model, states = DigitClassifier.pretrained().double(), {}
replace_linear_with_lora(model, rank=4)
for name in names[1:]:
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.lora.B)
    states[name] = lora_state(model)"""
GRID = """from lora_lab.pictures.sliders import grid_explorer, scaling_explorer

ranks = [1, 2, 4, 8, 16, 32]
runs = {(rank, alpha): [2.0 / (rank + alpha + i) for i in range(100)] for rank in ranks for alpha in ranks}"""
DIGITS = """truth = tasks["upright"].y_test
places = [(name, rank) for name in names[1:] for rank in range(2, 16)]
runs = {(name, rank): ((truth + (torch.rand(450) < 1 / rank)) % 10, 0.5) for name, rank in places}"""
WRITING = """from lora_lab.pictures.sliders import similarity_explorer, writing_explorer

dial = [i / 10 for i in range(16)]
tale = "Once there was a clever goose who had lost a crooked kettle. " * 3
written = {(name, strength): tale[i:] for name in ("code", "names", "tales") for i, strength in enumerate(dial)}
maps = {f"layer {i}": torch.rand(8, 64) for i in range(8)}"""
COUNT = """
update = explorer._update
explorer._update = lambda **values: (drawn.append(values), update(**values))[1]
explorer"""
NOTEBOOKS = {
    "interact": [PREPARE, INTERACT],
    "rank": [PREPARE, "explorer = rank_explorer(images)" + COUNT],
    "training": [PREPARE, "explorer = training_explorer(create_planted_task())" + COUNT],
    "strength": [PREPARE, STRENGTH, "explorer = strength_explorer(model, states, tasks)" + COUNT],
    "digits": [PREPARE, STRENGTH, DIGITS, "explorer = digits_explorer(runs, tasks)" + COUNT],
    "scaling": [PREPARE, GRID, "explorer = scaling_explorer()" + COUNT],
    "grid": [PREPARE, GRID, "explorer = grid_explorer(runs)" + COUNT],
    "writing": [PREPARE, WRITING, "explorer = writing_explorer(written, {key: (1, 2) for key in written})" + COUNT],
    "similarity": [PREPARE, WRITING, "explorer = similarity_explorer(maps, 192, 'one', 'other')" + COUNT],
}

# In the page: from the key until what it changed has been painted, or loaded and decoded, and handed to the screen.
WATCH = """
window.measure = (move, look, isNew) => new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error("no new picture after 20 s")), 20000);
    const before = look();
    let done = false;
    const check = async () => {
        const now = look();
        if (done || !now || now === before || !isNew(now)) return;
        done = true;
        watcher.disconnect();
        if (look === window.outputLook) await window.outputPicture().decode();
        requestAnimationFrame(() => {
            const channel = new MessageChannel();
            channel.port1.onmessage = () => resolve(performance.now() - start);
            channel.port2.postMessage(0);
        });
    };
    const watcher = new MutationObserver(check);
    const attributeFilter = ["src", "data-position"];
    watcher.observe(document.body, { subtree: true, childList: true, attributes: true, attributeFilter });
    let start = performance.now();
    move((moment) => (start = moment ?? start));
});
window.outputPicture = () => [...document.querySelectorAll(".jp-OutputArea img")].at(-1);
window.outputLook = () => window.outputPicture()?.src;
window.explorerLook = () => document.querySelector(".lora-explorer canvas").dataset.position;
window.jump = (position) => window.measure(
    () => window.moveTo(position),
    window.explorerLook,
    (look) => look === position.join(),
);
window.key = (look) => window.measure(
    (started) => document.addEventListener("keydown", () => started(performance.now()), { once: true, capture: true }),
    look,
    () => true,
);
"""


def open_and_run(context, address, name):
    """A page with that notebook, run."""
    page = context.new_page()
    count_questions(page)
    open_notebook(page, address, f"{name}.ipynb")
    run_all(page)
    assert errors(page) == []
    page.evaluate(f"() => {{ window.moveTo = {JUMP}; {WATCH} }}")
    return page


def close(page):
    shut_down_kernels(page)
    page.close()


def press_keys(page, slider, look, key="ArrowRight", moves=MOVES):
    """Milliseconds of each of so many presses of a key on a focused slider, with a pause after each."""
    times = []
    slider.focus()
    settle(page)
    for _ in range(moves):
        page.evaluate(f"() => {{ window.measured = window.key(window.{look}); }}")
        page.keyboard.press(key)
        times.append(page.evaluate("() => window.measured"))
        settle(page)
    return times


def jump_to(page, positions):
    """Milliseconds of each jump of the explorer to a position."""
    times = []
    for position in positions:
        times.append(page.evaluate("(position) => window.jump(position)", position))
        settle(page)
    return times


def unseen(positions, apart):
    """So many positions in random order, no two of them neighbours: none has been drawn ahead."""
    chosen = []
    for position in random.Random(0).sample(positions, len(positions)):
        if all(sum(abs(a - b) for a, b in zip(position, other, strict=True)) >= apart for other in chosen):
            chosen.append(position)
    return chosen[:MOVES]


def measure_interact(context, address):
    page = open_and_run(context, address, "interact")
    handle = page.locator(".widget-slider [role=slider], .noUi-handle").first
    yield "interact, key", press_keys(page, handle, "outputLook")
    close(page)


def measure_rank(context, address):
    page = open_and_run(context, address, "rank")
    first = unseen([[i] for i in range(SIZE) if i > 4], apart=2)
    yield "live, jump to an unseen rank", jump_to(page, first)
    yield "remembered rank, jump", jump_to(page, first)
    close(page)
    page = open_and_run(context, address, "rank")
    (slider,) = sliders(page)
    yield "key, drawn ahead", press_keys(page, slider, "explorerLook")
    yield "remembered rank, key", press_keys(page, slider, "explorerLook", key="ArrowLeft")
    close(page)


def one_slider_at_a_time(sizes, start):
    """So many positions, each one slider away from the last, as a hand moves them, and none drawn ahead before."""
    dice, here, drawn, positions = random.Random(0), start, _with_neighbours(start), []
    for _ in range(10000):  # where there are few positions, fewer than MOVES of them are far enough apart
        slider = dice.randrange(len(sizes))
        there = (*here[:slider], dice.randrange(sizes[slider]), *here[slider + 1 :])
        if there not in drawn and len(positions) < MOVES:
            drawn |= _with_neighbours(there)
            positions.append(list(there))
            here = there
    return positions


def _with_neighbours(position):
    near = {(*position[:i], position[i] + step, *position[i + 1 :]) for i in range(len(position)) for step in (-1, 1)}
    return near | {position}


def measure_others(context, address):
    """Explorers with several sliders: each jump moves one of them to a position that was not drawn before."""
    for name in list(NOTEBOOKS)[2:]:
        page = open_and_run(context, address, name)
        sizes = json.loads(in_kernel(page, "[len(slider['options']) for slider in explorer.sliders]"))
        start = tuple(json.loads(in_kernel(page, "list(explorer.position)")))
        yield f"{name} slider, jump to an unseen one", jump_to(page, one_slider_at_a_time(sizes, start))
        close(page)


def measure_burst(context, address):
    """500 moves at the speed of the screen: what was drawn, and what it cost in memory."""
    page = open_and_run(context, address, "rank")
    sliders(page)[0].focus()
    settle(page)
    memory = "round(psutil.Process().memory_info().rss / 2**20)"
    heap = "() => Math.round(performance.memory.usedJSHeapSize / 2**20)"
    page.request_gc()
    before = {"kernel MiB": int(in_kernel(page, memory)), "page heap MiB": page.evaluate(heap)}
    count, questions = int(in_kernel(page, "len(drawn)")), asked(page)
    page.evaluate(
        """async (size) => {
            const input = document.querySelector(".lora-explorer input");
            for (let move = 0; move < 500; move++) {
                input.value = (move * 7) % size;
                input.dispatchEvent(new Event("input"));
                await new Promise(requestAnimationFrame);
            }
        }""",
        SIZE,
    )
    settle(page)
    page.request_gc()
    result = {
        "last position shown": page.locator(PICTURE).get_attribute("data-position") == str(499 * 7 % SIZE),
        "asked for": asked(page) - questions,
        "drawn": int(in_kernel(page, "len(drawn)")) - count,
        "before": before,
        "after": {"kernel MiB": int(in_kernel(page, memory)), "page heap MiB": page.evaluate(heap)},
    }
    close(page)
    return result


def summary(times):
    return {"median": statistics.median(times), "p95": statistics.quantiles(times, n=20)[-1], "moves": len(times)}


def measure():
    with tempfile.TemporaryDirectory() as folder, jupyterlab(folder) as address, chromium() as context:
        for name, cells in NOTEBOOKS.items():
            write_notebook(Path(folder) / f"{name}.ipynb", *cells)
        rows = {}
        for measured in (measure_interact, measure_rank, measure_others):
            rows |= {name: summary(times) for name, times in measured(context, address)}
        return {"milliseconds": rows, "burst of 500": measure_burst(context, address)}


def print_table(result):
    rows = result["milliseconds"]
    yardstick = rows["interact, key"]["median"]
    print(f"{'from the key to the picture':40}{'median':>9}{'95 %':>9}{'of interact':>13}")
    for name, row in rows.items():
        print(f"{name:40}{row['median']:6.0f} ms{row['p95']:6.0f} ms{row['median'] / yardstick:13.2f}")
    print("\n500 moves:", json.dumps(result["burst of 500"]))


if __name__ == "__main__":
    result = measure()
    print_table(result)
    Path("bench_sliders.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
