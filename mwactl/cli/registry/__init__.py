"""`mwactl registry`: one file a verb."""

from __future__ import annotations

import typer

from mwactl.cli.registry.add import add
from mwactl.cli.registry.list import list_
from mwactl.cli.registry.show import show

app = typer.Typer(help="Look at the adapters that are kept, and add others.", no_args_is_help=True)

app.command("list", epilog="Example: mwactl registry list  Next: mwactl registry show coco-mwa@3")(list_)
app.command(epilog="Example: mwactl registry show coco-mwa@3  Next: mwactl eval coco-mwa@3")(show)
app.command(
    epilog="Example: mwactl registry add --from-authors checkpoint-best.pth --name authors-coco  "
    "Next: mwactl eval authors-coco --data coco"
)(add)
