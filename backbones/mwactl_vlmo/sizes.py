"""The sizes in which VLMo exists. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class VlmoConfig:
    """The sizes of a VLMo.

    Args:
        width: d.
        layers: Transformer blocks.
        heads: h.
        hidden: f.
        first_joint_block: The blocks from this one on own a third expert, for pictures and text together.
        image_size: Height and width of a picture in pixels, a multiple of the patch size.
        relative_positions: A bias on the attention scores says where tokens are; else position tables do.
        layer_scale: What a block's two parts add is multiplied by learned factors.
        vocabulary: Rows of the word embedding.
        text_length: The longest caption in tokens: rows of the text position table.
        bias_text_length: The text length for which the bias table has rows, at least `text_length`.
        patch: Height and width of a patch in pixels.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    first_joint_block: int
    image_size: int = 224
    relative_positions: bool = True
    layer_scale: bool = True
    vocabulary: int = 30522
    text_length: int = 40
    bias_text_length: int = 196
    patch: int = 16

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch

    @property
    def patches(self) -> int:
        """p."""
        return self.grid**2

    def check(self) -> None:
        """Refuse sizes of which no model can be made.

        Raises:
            ValueError: A size is no positive number, does not divide another, or exceeds it.
        """
        for name, value in asdict(self).items():
            if name in ("relative_positions", "layer_scale"):
                if type(value) is not bool:
                    raise ValueError(f"`{name}` must be true or false, not {value!r}")
            elif type(value) is not int or value < (name != "first_joint_block"):
                raise ValueError(f"`{name}` must be a positive number, not {value!r}")
        for whole, part in (("width", "heads"), ("image_size", "patch")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(f"`{whole}` must be a multiple of `{part}`")
        if self.text_length < 3:
            raise ValueError("`text_length` leaves no room for a caption")
        if self.relative_positions and self.text_length > self.bias_text_length:
            raise ValueError("`text_length` must not exceed `bias_text_length`")


BASE = VlmoConfig(width=768, layers=12, heads=12, hidden=3072, first_joint_block=10)
BASE_PLUS = VlmoConfig(
    width=544, layers=24, heads=16, hidden=2176, first_joint_block=21, relative_positions=False, layer_scale=False
)
LARGE = VlmoConfig(width=1024, layers=24, heads=16, hidden=4096, first_joint_block=21)
