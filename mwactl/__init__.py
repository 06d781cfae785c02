"""mwactl: the whole life of an adapter in image-text retrieval."""

__version__ = "0.1.0"
