"""Whom to name under a picture: the photographers that a data set's ATTRIBUTION.csv lists."""

import csv
from pathlib import Path

FILE_NAME = "ATTRIBUTION.csv"


def read_credits(root: Path) -> dict[str, str]:
    """Give the author of each photograph by the file's stem; empty for a set without attributions.

    Args:
        root: Folder that may hold ATTRIBUTION.csv with columns `file` and `author`.
    """
    path = root / FILE_NAME
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {Path(row["file"]).stem: row["author"] for row in csv.DictReader(file)}
