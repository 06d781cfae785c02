"""The annotation formats: one file a format, one line each in `READERS`."""

from mwactl.data.formats.folder import read_folder
from mwactl.data.formats.karpathy import read_karpathy
from mwactl.data.formats.rows import Reader, Row
from mwactl.data.formats.table import read_csv, read_jsonl, read_tsv

READERS: dict[str, Reader] = {
    "karpathy": read_karpathy,
    "csv": read_csv,
    "tsv": read_tsv,
    "jsonl": read_jsonl,
    "folder": read_folder,
}

__all__ = ["READERS", "Reader", "Row"]
