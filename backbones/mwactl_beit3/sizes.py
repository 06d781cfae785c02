"""The sizes in which BEiT-3 exists. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

#: Rows 0 and 1 of both position tables are never used (fairseq counts its paddings there).
POSITION_OFFSET = 2


@dataclass(frozen=True)
class Beit3Config:
    """The sizes of a BEiT-3.

    Args:
        width: d.
        layers: Encoder layers.
        heads: h.
        hidden: f.
        image_size: Height and width of a picture in pixels, a multiple of the patch size.
        vocabulary: Rows of the text embedding.
        text_positions: Rows of the text position table.
        patch: Height and width of a patch in pixels.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    image_size: int
    vocabulary: int = 64010
    text_positions: int = 1024
    patch: int = 16

    @property
    def patches(self) -> int:
        """p."""
        return (self.image_size // self.patch) ** 2

    @property
    def context_length(self) -> int:
        """Tokens of the longest caption: 64 as in the original's recipes, unless the position table is shorter."""
        return min(64, self.text_positions - POSITION_OFFSET)

    def check(self) -> None:
        """Refuse sizes of which no model can be made.

        Raises:
            ValueError: A size is no positive number, or does not divide another.
        """
        for name, value in asdict(self).items():
            if type(value) is not int or value < 1:
                raise ValueError(f"`{name}` must be a positive number, not {value!r}")
        for whole, part in (("width", "heads"), ("image_size", "patch")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(f"`{whole}` must be a multiple of `{part}`")
        if self.context_length < 3:
            raise ValueError("`text_positions` leaves no room for a caption")


BASE = Beit3Config(width=768, layers=12, heads=12, hidden=3072, image_size=224)
LARGE = Beit3Config(width=1024, layers=24, heads=16, hidden=4096, image_size=224)
