"""What the processes of a run tell each other in one step: their embeddings, the sum of their gradients, and bad news.

Processes that wait for each other must agree on what they do next. So before the embeddings are exchanged, and with the
gradients, each tells whether it ran out of memory, which is then an error of all of them; and with the gradients also
whether it was asked to stop.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mwactl.data.loader import PairBatch
from mwactl.train.distributed import Processes


class OutOfMemoryElsewhereError(torch.cuda.OutOfMemoryError):
    """Another process's memory was not enough, so that this one's step is void as well."""


@dataclass(frozen=True)
class WholeBatch:
    """The embeddings of a batch and what the loss must know of its pairs, as of one process.

    Args:
        image: [p, e]; this process's own rows have a gradient, the others' none.
        text: [c, e], likewise.
        picture_ids: [p].
        caption_ids: [c].
        owners: [c], rows of `image`; None: the row of the same number.
    """

    image: Tensor
    text: Tensor
    picture_ids: Tensor
    caption_ids: Tensor
    owners: Tensor | None


class Exchange:
    """The exchanges of one process with the others.

    Args:
        processes: At least two.
        parameters: What is trained.
        sharded: Whether they share a backbone too: then they wait for each other within the towers, and one whose
            memory runs out there cannot tell.
    """

    def __init__(self, processes: Processes, parameters: Mapping[str, nn.Parameter], *, sharded: bool = False) -> None:
        self._processes = processes
        self._sharded = sharded
        self._parameters = list(parameters.values())
        self._sizes = [parameter.numel() for parameter in self._parameters]
        # Gradients; for each parameter whether it has one; out of memory; asked to stop. One tensor, made once: an
        # exchange must not run out of memory itself.
        size = sum(self._sizes) + len(self._sizes) + 2
        self._flat = torch.zeros(size, dtype=torch.float32, device=self._parameters[0].device)
        self._gathered = False
        self._pictures: list[int] = []
        self._captions: list[int] = []
        self.pairs = 0
        """Captions of the last whole batch."""
        self.stop = False
        """Whether some process had been asked to stop when the last gradients were added up: the same in all."""

    @property
    def largest_share(self) -> tuple[int, int]:
        """The most pictures, and the most captions, that a process has of the batch in work."""
        return max(self._pictures), max(self._captions)

    def start_equal(self) -> None:
        """Give every process the first one's trained parameters."""
        with torch.no_grad():
            for parameter, own in zip(self._parameters, self._split(), strict=True):
                own.copy_(parameter.flatten())
            self._processes.spread(self._flat)
            for parameter, own in zip(self._parameters, self._split(), strict=True):
                parameter.copy_(own.view_as(parameter))

    def attempt(self, compute: Callable[[], Tensor], batch: PairBatch, asked_to_stop: Callable[[], bool]) -> Tensor:
        """Compute a step's gradient; all processes succeed, or all fail.

        Args:
            compute: Leaves the gradient of this process's rows in the parameters and gives the loss, shape []. It calls
                `gather` once.
            batch: This process's share; may be empty.
            asked_to_stop: Whether this process was.

        Raises:
            torch.cuda.OutOfMemoryError: A process's memory was not enough.
            PeerLostError: A process is gone.
        """
        self._gathered = False
        sizes = self._processes.gather(torch.tensor([len(batch.pixels), len(batch.tokens)]))
        self._pictures, self._captions = torch.stack(sizes, dim=1).tolist()
        self.pairs = sum(self._captions)
        try:
            loss = compute()
        except OutOfMemoryElsewhereError:
            raise
        except torch.cuda.OutOfMemoryError:
            if self._sharded:
                raise
            if self._gathered:
                self._add_up(failed=True, stop=asked_to_stop())
            else:
                self._agree(failed=True)
            raise
        self._add_up(failed=False, stop=asked_to_stop())
        return loss

    def gather(self, image: Tensor, text: Tensor, batch: PairBatch) -> WholeBatch:
        """Every process's embeddings [p, e] and [c, e] of its share, as those of the whole batch.

        Raises:
            OutOfMemoryElsewhereError: A process cannot encode its share.
        """
        processes = self._processes
        pictures, captions = self._pictures, self._captions
        # What is needed on the device is taken before all agree that they could, and nothing until they have met.
        image_room = processes.room_for(image.detach(), pictures)
        text_room = processes.room_for(text.detach(), captions)
        self._agree(failed=False)
        self._gathered = True
        images, texts = processes.gather_rows(image_room, pictures), processes.gather_rows(text_room, captions)
        images[processes.rank], texts[processes.rank] = image, text
        owners = None
        if sum(pictures) != sum(captions):
            own = torch.arange(len(text)) if batch.owners is None else batch.owners
            owned = self._all_rows(own, captions)
            starts = itertools.accumulate(pictures[:-1], initial=0)  # each process's first picture in the whole batch
            owners = torch.cat([rows + start for rows, start in zip(owned, starts, strict=True)])  # [c]
        return WholeBatch(
            image=torch.cat(images),
            text=torch.cat(texts),
            picture_ids=torch.cat(self._all_rows(batch.picture_ids, pictures)),
            caption_ids=torch.cat(self._all_rows(batch.caption_ids, captions)),
            owners=owners,
        )

    def _all_rows(self, own: Tensor, counts: Sequence[int]) -> list[Tensor]:
        return self._processes.gather_rows(self._processes.room_for(own, counts), counts)

    def _agree(self, *, failed: bool) -> None:
        """Tell the others whether this process ran out of memory, and fail with the one that did."""
        lost = [rank for rank, told in enumerate(self._processes.gather(torch.tensor([int(failed)]))) if told.item()]
        if lost and not failed:
            raise OutOfMemoryElsewhereError(f"process {lost[0]} ran out of memory")

    def _add_up(self, *, failed: bool, stop: bool) -> None:
        """Replace the gradients by their sums; where no process has one, a parameter has none afterwards."""
        self._flat.zero_()
        *_, present, news = torch.split(self._flat, [*self._sizes, len(self._sizes), 2])
        if not failed:
            for number, (parameter, own) in enumerate(zip(self._parameters, self._split(), strict=True)):
                if parameter.grad is not None:
                    own.copy_(parameter.grad.flatten())
                    present[number] = 1
        news.copy_(torch.tensor([failed, stop]))
        self._processes.add_up(self._flat)
        out_of_memory, asked = news.tolist()
        self.stop = asked > 0
        if failed:
            return
        if out_of_memory:
            raise OutOfMemoryElsewhereError("another process ran out of memory")
        for parameter, own, count in zip(self._parameters, self._split(), present.tolist(), strict=True):
            parameter.grad = own.view_as(parameter) if count else None  # a view: no memory that one might not have

    def _split(self) -> tuple[Tensor, ...]:
        """The part of each parameter in the flat tensor."""
        return torch.split(self._flat[: sum(self._sizes)], self._sizes)
