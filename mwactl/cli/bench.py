"""`mwactl bench`: measurements that anyone can repeat."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mwactl.cli.bench_methods import methods
from mwactl.cli.completion import complete_data
from mwactl.cli.options import Backbone, Debug, Device, Json, Quiet
from mwactl.cli.output import Column, out

if TYPE_CHECKING:
    from mwactl.bench import Comparison

app = typer.Typer(help="Benchmarks: what a step costs here, side by side.", no_args_is_help=True)


def _ratio(value: dict[str, float] | None) -> str:
    return "" if value is None else f"{value['median']:.2f} [{value['q1']:.2f}–{value['q3']:.2f}]"


def _number(digits: int, unit: float = 1.0) -> Any:
    return lambda value: "" if value is None else f"{value / unit:,.{digits}f}"


_COLUMNS = [
    Column("variant", "variant", keep=True),
    Column("seconds", "s/step", right=True, format=lambda seconds: f"{seconds['total']:.4g}", keep=True),
    Column("full", "× full [IQR]", right=True, format=_ratio, keep=True),
    Column("mwa-plain", "× mwa-plain [IQR]", right=True, format=_ratio, keep=True),
    Column("saved_bytes_per_pair", "saved MB/pair", right=True, format=_number(1, 1e6), keep=True),
    Column("peak_memory_bytes", "peak GB", right=True, format=_number(2, 1e9)),
    Column("pairs_per_second", "pairs/s", right=True, format=_number(2)),
    Column("flops_per_pair", "GFLOP/pair", right=True, format=_number(1, 1e9)),
    Column("utilisation", "of matmul rate", right=True, format="{:.0%}".format),
    Column("trained_parameters", "trained", right=True, format="{:,}".format),
    Column(
        "parts",
        "forward+backward+optimiser",
        right=True,
        format=lambda parts: "+".join(f"{part:.3g}" for part in parts),
    ),
    Column("same_function", "function", format=lambda same: "" if same is None else f"= {same['reference']}"),
]


@app.command(
    epilog="Example: mwactl bench step --backbone clip-vit-b-32 --variants full,mwa --rounds 5 -o step.json  "
    "Next: mwactl train coco.yaml"
)
def step(
    backbone: Backbone,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2, help="Pairs a step.")] = 8,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often every variant's turn comes.")] = 7,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Timed steps a turn.")] = 2,
    variants: Annotated[
        str, typer.Option("--variants", metavar="A,B,…", help="Which ones (default: all that can be measured here).")
    ] = "",
    captions_per_image: Annotated[
        int, typer.Option("--captions-per-image", min=1, help="Captions a picture, of the variant mwa-k.")
    ] = 5,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="A data set (default: noise, with captions as long as COCO's).",
            autocompletion=complete_data,
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Its split.")] = "train",
    weights: Annotated[
        str, typer.Option("--weights", help="random, default, a tag or a file: the time does not depend on them.")
    ] = "random",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of random weights and of the noise.")] = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16; auto: bf16 on a GPU.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Of the CPU.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the JSON document here.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the result into this PNG.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Time the training step of full fine-tuning and of MWA, written the plain way and as it is here.

    Each variant has a process of its own, and their turns alternate. First it is checked, in fp32, that variants which
    should compute the same loss and the same gradients do; where one does not, nothing is timed (exit code 5).
    """
    from mwactl.bench import Setup, compare_steps, plot_steps
    from mwactl.bench.prepare import choose_variants, prepare_batch, timed_precision
    from mwactl.files import atomic_write

    chosen = choose_variants([name for name in variants.split(",") if name])
    setup = Setup(
        backbone, weights=weights, seed=seed, batch_size=batch_size, captions_per_image=captions_per_image,
        device=device, precision=timed_precision(precision, device), threads=threads, rounds=rounds, steps=steps,
    )  # fmt: skip
    comparison = compare_steps(setup, prepare_batch(setup, chosen, data, split), chosen, reporter=out)
    document = comparison.as_dict()
    document["batch"]["data"] = data
    if output is not None:
        atomic_write(output, (json_module.dumps(document, indent=2) + "\n").encode())
    if plot is not None:
        plot_steps(comparison, plot)
    out.answer(document, human=lambda: _describe(document), identifier=_headline(comparison))
    out.hint("mwactl train RECIPE")


app.command(
    "methods",
    epilog="Example: mwactl bench methods flickr8k train.epochs=5 --methods head,lora,mwa,full --lr full=5e-5  "
    "Next: mwactl compare REF REF --data flickr8k",
)(methods)


def _headline(comparison: Comparison) -> str:
    """The ratio that counts, or the pairs a second of the last variant."""
    from mwactl.bench.comparison import BASES
    from mwactl.bench.setup import MWA

    ratios = [ratio for base in BASES if (ratio := comparison.ratios(MWA, base)) is not None]
    return f"{ratios[0][0]:.3f}" if ratios else f"{comparison.as_dict()['variants'][-1]['pairs_per_second']:.3f}"


def _describe(document: dict[str, Any]) -> None:
    batch, machine = document["batch"], document["machine"]
    where = machine["gpu"]["name"] if machine["gpu"] else f"{machine['processor']}, {machine['threads']} threads"
    out.text(
        f"{document['backbone']}, batch of {batch['pairs']}, {document['precision']}, captions of "
        f"{batch['tokens_mean']:.1f} tokens (padded: {batch['tokens_padded']}); {where}; torch "
        f"{document['versions']['torch']}"
    )
    rows = [
        {**row, **row["ratio"], "parts": [row["seconds"][part] for part in ("forward", "backward", "optimiser")]}
        for row in document["variants"]
    ]
    out.table(rows, _COLUMNS)
    for row in document["variants"]:
        for note in row["notes"]:
            out.text(f"{row['variant']}: {note}")
    for left_out in document["left_out"]:
        out.text(f"{left_out['variant']}: left out, {left_out['why']}")
