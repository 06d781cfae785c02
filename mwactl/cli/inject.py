"""`mwactl inject`: fresh modules on a frozen backbone."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mwactl.cli.completion import complete_override
from mwactl.cli.options import Backbone, Debug, Download, DryRun, Json, Quiet, Weights
from mwactl.cli.output import out, size

if TYPE_CHECKING:
    from mwactl.workflow.inject import Injection


def inject(
    backbone: Backbone,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OPTION=VALUE]…",
            help="Options of the method, such as method.mwa.alpha=0.1.",
            autocompletion=complete_override,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The adapter's name (default: BACKBONE-mwa).")] = None,
    weights: Weights = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the modules' initial values, and of random weights.")] = 0,
    preset: Annotated[str | None, typer.Option("--preset", help="paper or authors-code.")] = None,
    knowledge_extractor: Annotated[
        int | None, typer.Option("--knowledge-extractor", help="Middle dimension (default 64).")
    ] = None,
    alignment_enhancer: Annotated[
        int | None, typer.Option("--alignment-enhancer", help="Middle dimension (default 128).")
    ] = None,
    modalities: Annotated[str | None, typer.Option("--modalities", help="image, text or image,text.")] = None,
    download: Download = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Inject MultiWay-Adapter modules, count them, and publish the untrained adapter as version 1.

    A dry run reads no weights: it counts on the meta device, in seconds, and estimates training's memory.
    """
    from mwactl.backbone import WeightsRequest
    from mwactl.registry import Registry
    from mwactl.registry.reference import checked_name
    from mwactl.workflow.inject import default_name, inject_adapter, method_of_options, plan_injection

    flags = {
        "preset": preset,
        "knowledge_extractor": knowledge_extractor,
        "alignment_enhancer": alignment_enhancer,
        "modalities": f"[{modalities}]" if modalities else None,
    }
    given = [f"method.mwa.{key}={value}" for key, value in flags.items() if value is not None]
    method = method_of_options([*given, *(overrides or [])])
    adapter_name = checked_name(name or default_name(backbone, method.name))
    if dry_run:
        injection = plan_injection(backbone, method)
    else:
        injection = inject_adapter(
            Registry.default(reporter=out),
            backbone,
            method,
            name=adapter_name,
            weights=WeightsRequest(weights, seed, download, out),
            seed=seed,
        )
    identifier = injection.entry.reference if injection.entry else adapter_name
    out.answer(injection.as_dict() | {"dry_run": dry_run}, human=lambda: _describe(injection), identifier=identifier)
    source = injection.model.backbone.weights
    options = [f"name={adapter_name}", f"backbone.name={backbone}", *given, *(overrides or [])]
    if weights is not None:
        options.append(f"backbone.weights={source.path if source.source == 'file' else weights}")
    if source.seed:
        options.append(f"backbone.weights_seed={source.seed}")
    again = [word for word in sys.argv[1:] if word != "--dry-run"]
    out.hint(
        f"{shlex.join(['mwactl', *again])}" if dry_run
        else f"mwactl train RECIPE {shlex.join(options)}   (mwactl recipes list)"
    )  # fmt: skip


def _describe(injection: Injection) -> None:
    model, adapter = injection.model, injection.model.adapter
    trained, total = model.trainable_count(), model.backbone.count_parameters()
    out.text(f"{model.backbone.spec.name}   {total:,} parameters, frozen   weights: {model.backbone.weights.source}")
    if adapter is not None:
        out.text(adapter.description())
    out.text(f"{trained:,} trainable parameters ({100 * trained / total:.2f} %)")
    if missing := sorted(model.backbone.untrained_parameter_names()):
        out.text(f"the weights lack {', '.join(missing)}: trained and saved with the adapter")
    if injection.memory is not None:
        memory = injection.memory
        out.text(
            f"training memory (fp32, estimate): weights {size(memory.weights)}, adapter {size(memory.adapter)}, "
            f"gradients and optimiser {size(memory.gradients_and_optimiser)}, "
            f"activations {size(memory.activations_per_pair)} a pair"
        )
        totals = memory.as_dict()["total_at_batch"].items()
        at_batch = ", ".join(f"{size(total)} at batch {batch}" for batch, total in totals)
        out.text(f"in all {at_batch} (captions of full length)")
    if injection.entry is None:
        out.text("nothing written (dry run)")
    else:
        out.text(f"published {injection.entry.reference}   sha256:{injection.entry.digest[:12]}…")
