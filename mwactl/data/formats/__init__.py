"""The annotation formats: one file a format, one line each in `READERS`."""

from mwactl.data.formats.coco import read_coco
from mwactl.data.formats.folder import read_folder
from mwactl.data.formats.karpathy import read_karpathy
from mwactl.data.formats.parquet import read_parquet
from mwactl.data.formats.rows import Reader, Row
from mwactl.data.formats.table import read_csv, read_jsonl, read_tsv
from mwactl.data.formats.webdataset import read_webdataset

READERS: dict[str, Reader] = {
    "karpathy": read_karpathy,
    "coco": read_coco,
    "csv": read_csv,
    "tsv": read_tsv,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "webdataset": read_webdataset,
    "folder": read_folder,
}

PACKED = frozenset({"parquet", "webdataset"})
"""Formats whose files hold the pictures themselves."""

__all__ = ["PACKED", "READERS", "Reader", "Row"]
