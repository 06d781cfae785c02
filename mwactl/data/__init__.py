"""Captioned pictures: reading them from annotation files, remembering where they are, checking every one."""

from mwactl.data.captioned import CaptionedImages, SplitCounts
from mwactl.data.catalogue import Catalogue
from mwactl.data.entry import CatalogueEntry
from mwactl.data.formats import READERS, Reader, Row
from mwactl.data.picture import open_image
from mwactl.data.picture_file import PictureFile
from mwactl.data.scan import Problem, ScanReport, scan

__all__ = [
    "READERS",
    "CaptionedImages",
    "Catalogue",
    "CatalogueEntry",
    "PictureFile",
    "Problem",
    "Reader",
    "Row",
    "ScanReport",
    "SplitCounts",
    "open_image",
    "scan",
]
