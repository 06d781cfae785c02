"""Running an exported model: onnxruntime, numpy, Pillow and the model's tokenizer, without torch."""

from mwactl.runtime.bundle import (
    BundleError,
    DeviceError,
    MissingPackageError,
    NoBundleError,
    Picture,
    PictureError,
    RetrievalModel,
    UnsupportedBundleError,
    is_bundle,
    load,
    open_picture,
)

__all__ = [
    "BundleError",
    "DeviceError",
    "MissingPackageError",
    "NoBundleError",
    "Picture",
    "PictureError",
    "RetrievalModel",
    "UnsupportedBundleError",
    "is_bundle",
    "load",
    "open_picture",
]
