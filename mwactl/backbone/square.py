"""The picture transform of models that take squares: BEiT-3 and VLMo resize to a square without keeping the aspect."""

from __future__ import annotations

from typing import Any

from mwactl.backbone.contract import Augmentation, ImageTransform

MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)
_ASPECT = (3 / 4, 4 / 3)


def square_transform(size: int, augmentation: Augmentation | None) -> ImageTransform:
    """A picture -> [3, size, size] between -1 and 1.

    Without an augmentation the whole picture is resized to the square. With one, a random part of it is, which is
    mirrored every second time (their retrieval recipes; VLMo's RandAugment is not part of it).
    """
    # Imported here: counting on the meta device needs no pictures, and this costs it most of a second.
    from torchvision import transforms

    bicubic = transforms.InterpolationMode.BICUBIC
    to_tensor = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    if augmentation is None:
        evaluation: ImageTransform = transforms.Compose([transforms.Resize((size, size), bicubic), *to_tensor])
        return evaluation
    crop = transforms.RandomResizedCrop(size, (augmentation.crop_min_scale, 1.0), _ASPECT, bicubic)
    colour = (
        [transforms.ColorJitter(0.4, 0.4, 0.4, 0.1), transforms.RandomGrayscale(0.2)] if augmentation.colour else []
    )
    training: ImageTransform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), *colour, *to_tensor])
    return training


def portable_square(size: int) -> dict[str, Any]:
    """The transform without an augmentation as data."""
    return {
        "size": [size, size],
        "resize": "squash",
        "interpolation": "bicubic",
        "fill": 0,
        "mean": list(MEAN),
        "std": list(STD),
    }
