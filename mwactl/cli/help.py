"""`mwactl help`: what is true of every command, said once."""

from __future__ import annotations

import os
from typing import Any

import typer

from mwactl.cli.options import Debug, Json, Quiet
from mwactl.cli.output import Column, out
from mwactl.errors import EXIT_CODE_MEANINGS

app = typer.Typer(help="Exit codes, references, environment variables, recipe options.", no_args_is_help=True)

_REFERENCES = [
    {"form": "coco-mwa", "meaning": "the newest version of an adapter"},
    {"form": "coco-mwa@3", "meaning": "version 3; a number is never given twice"},
    {"form": "coco-mwa:prod", "meaning": "the version that the alias leads to (mwactl registry alias)"},
    {"form": "coco-mwa@sha256:ab12cd34", "meaning": "the version whose manifest has this digest (8 digits or more)"},
    {
        "form": "./folder",
        "meaning": "an adapter in a folder with manifest.json; also ../folder, ~/folder, /folder",
    },
]

_ENVIRONMENT = [
    {
        "variable": "MWACTL_HOME",
        "meaning": "the directory of catalogue, official weights, cache, runs and registry",
    },
    {"variable": "MWACTL_REGISTRY", "meaning": "the directory of the registry, where it is not in MWACTL_HOME"},
    {"variable": "MWACTL_DEBUG", "meaning": "1: show tracebacks, like --debug"},
    {"variable": "XDG_DATA_HOME", "meaning": "on Linux, where MWACTL_HOME is not set: mwactl's directory is in it"},
    {"variable": "HF_HOME", "meaning": "where downloaded weights are kept (read by huggingface-hub)"},
    {"variable": "HF_HUB_OFFLINE", "meaning": "1: never ask the Hugging Face Hub (read by huggingface-hub)"},
    {"variable": "HF_TOKEN", "meaning": "who you are at the Hugging Face Hub (read by huggingface-hub)"},
    {"variable": "HF_ENDPOINT", "meaning": "another Hub than the public one (read by huggingface-hub)"},
    {"variable": "DOCKER_CONFIG", "meaning": "the directory of the config.json that has logins at OCI registries"},
    {"variable": "NO_COLOR", "meaning": "1: no colours in the progress line (read by rich)"},
    {"variable": "COLUMNS", "meaning": "how wide tables may be, where the terminal does not say"},
    {"variable": "CUDA_VISIBLE_DEVICES", "meaning": "which GPUs there are (read by torch)"},
    {"variable": "OMP_NUM_THREADS", "meaning": "how many CPU threads compute (read by torch)"},
    {"variable": "WANDB_MODE", "meaning": "online: what train.track sends to W&B leaves the machine; default offline"},
    {"variable": "WANDB_PROJECT", "meaning": "the project at W&B; default mwactl"},
    {"variable": "TRACKIO_SPACE_ID", "meaning": "the Space that trackio sends to; default none (read by trackio)"},
    {"variable": "RANK", "meaning": "set by torchrun: which of several training processes this is"},
    {"variable": "WORLD_SIZE", "meaning": "set by torchrun: how many there are"},
    {"variable": "LOCAL_RANK", "meaning": "set by torchrun: which of those on this machine, and so which GPU"},
    {"variable": "LOCAL_WORLD_SIZE", "meaning": "set by torchrun: how many there are on this machine"},
    {"variable": "TORCHELASTIC_RUN_ID", "meaning": "set by torchrun: that it started this process"},
    {"variable": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "meaning": "seconds that a stopped process has to save its state"},
    {"variable": "TORCH_CPP_LOG_LEVEL", "meaning": "how much torch's C++ says; with train --nproc, ERROR if not set"},
    {"variable": "MWACTL_LAUNCH_REPORTS", "meaning": "set by mwactl train --nproc for the processes that it starts"},
    {"variable": "MWACTL_LAUNCH_COMMAND", "meaning": "likewise"},
]


@app.command("exit-codes", epilog="Example: mwactl help exit-codes --json  Next: mwactl help references")
def exit_codes(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """What a command's exit code says."""
    rows = [{"code": int(code), "meaning": meaning} for code, meaning in EXIT_CODE_MEANINGS.items()]
    columns = [Column("code", "code", right=True, keep=True), Column("meaning", "meaning", keep=True)]
    _answer("exit_codes", rows, columns)


@app.command(epilog="Example: mwactl help references  Next: mwactl registry list")
def references(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """How an adapter of the registry is named."""
    columns = [Column("form", "you type", keep=True), Column("meaning", "it means", keep=True)]
    _answer("references", _REFERENCES, columns)


@app.command(epilog="Example: mwactl help environment  Next: mwactl help config")
def environment(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """The environment variables that are read, and what they are now."""
    from mwactl.home import home, registry_path

    in_effect = {"MWACTL_HOME": str(home()), "MWACTL_REGISTRY": str(registry_path())}
    values = {**os.environ, **in_effect}
    rows = [{**row, "set": row["variable"] in os.environ, "value": values.get(row["variable"])} for row in _ENVIRONMENT]
    columns = [
        Column("variable", "variable", keep=True),
        Column("value", "now", format=lambda value: value or "-"),
        Column("meaning", "what it is", keep=True),
    ]
    _answer("environment", rows, columns)


@app.command(epilog="Example: mwactl help config  Next: mwactl recipes show coco")
def config(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Every option of a recipe: what it may be, its default, what it decides."""
    from mwactl.config import options

    rows = [
        {
            "option": option.path,
            "expected": option.expected,
            "required": option.required,
            "default": option.default,
            "description": option.description,
        }
        for option in options().values()
        if not option.is_section
    ]

    def human() -> None:
        for option in options().values():
            heading = option.path + (":" if option.is_section else f" = {option.summary()}")
            out.text(heading)
            out.text(f"    {option.description}")

    out.answer({"schema": 1, "options": rows}, human=human, identifier="\n".join(str(row["option"]) for row in rows))
    out.info("in a file: sections with options indented under them; on the command line: train.epochs=5")


def _answer(key: str, rows: list[dict[str, Any]], columns: list[Column]) -> None:
    """A table as the answer; its first column identifies a row."""
    out.answer(
        {"schema": 1, key: rows},
        human=lambda: out.table(rows, columns),
        identifier="\n".join(str(row[columns[0].key]) for row in rows),
    )
