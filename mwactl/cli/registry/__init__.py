"""`mwactl registry`: one file a verb."""

from __future__ import annotations

import typer

from mwactl.cli.registry.add import add
from mwactl.cli.registry.alias import alias
from mwactl.cli.registry.diff import diff
from mwactl.cli.registry.gc import gc
from mwactl.cli.registry.list import list_
from mwactl.cli.registry.log import log
from mwactl.cli.registry.pack import pack
from mwactl.cli.registry.pull import pull
from mwactl.cli.registry.push import push
from mwactl.cli.registry.rm import rm
from mwactl.cli.registry.show import show
from mwactl.cli.registry.tag import tag
from mwactl.cli.registry.unpack import unpack
from mwactl.cli.registry.verify import verify

app = typer.Typer(
    help="Look at the adapters that are kept, name them, remove them, and add others.", no_args_is_help=True
)

app.command("list", epilog="Example: mwactl registry list  Next: mwactl registry show coco-mwa@3")(list_)
app.command(epilog="Example: mwactl registry show coco-mwa@3  Next: mwactl eval coco-mwa@3")(show)
app.command(epilog="Example: mwactl registry diff coco-mwa@3 coco-mwa@4  Next: mwactl registry show coco-mwa@4")(diff)
app.command(
    epilog="Example: mwactl registry add --from-authors checkpoint-best.pth --name authors-coco  "
    "Next: mwactl eval authors-coco --data coco"
)(add)
app.command(epilog="Example: mwactl registry alias coco-mwa@3 prod  Next: mwactl eval coco-mwa:prod --data coco")(alias)
app.command(epilog="Example: mwactl registry tag coco-mwa@3 reviewed-by=ann  Next: mwactl registry list")(tag)
app.command(epilog="Example: mwactl registry log coco-mwa  Next: mwactl registry show coco-mwa")(log)
app.command(epilog="Example: mwactl registry rm coco-mwa@1  Next: mwactl registry rm --undo coco-mwa@1")(rm)
app.command(epilog="Example: mwactl registry pack coco-mwa@3 -o coco.tar  Next: mwactl registry unpack coco.tar")(pack)
app.command(epilog="Example: mwactl registry unpack coco.tar  Next: mwactl registry list")(unpack)
app.command(
    epilog="Example: mwactl registry push coco-mwa@3 hf://my-group/coco-mwa  "
    "Next: mwactl registry pull hf://my-group/coco-mwa"
)(push)
app.command(epilog="Example: mwactl registry pull hf://my-group/coco-mwa  Next: mwactl registry show coco-mwa")(pull)
app.command(epilog="Example: mwactl registry verify coco-mwa@3  Next: mwactl registry verify --repair")(verify)
app.command(epilog="Example: mwactl registry gc  Next: mwactl registry gc --apply")(gc)
