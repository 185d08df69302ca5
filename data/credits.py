"""Whom to name under a picture: the photographers that a data set's ATTRIBUTION.csv lists."""

import csv
import io
import re
from pathlib import Path

from data.folder import read_text

FILE_NAME = "ATTRIBUTION.csv"
OCTAL = re.compile(r"(?:\\[0-3][0-7]{2})+")
CREATIVE_COMMONS = re.compile(r"creativecommons\.org/licenses/([a-z-]+)/([0-9.]+)")


def read_credits(text: str, where: str) -> dict[str, str]:
    """Give author and licence of each photograph by the file's stem.

    Args:
        text: Of an ATTRIBUTION.csv with columns `file`, `author` and, where there is one, `license_url`.
        where: What messages call it.
    """
    rows = csv.DictReader(io.StringIO(text, newline=""))
    missing = {"file", "author"} - set(rows.fieldnames or ())
    if missing:
        raise ValueError(f"{where} has no column {', '.join(sorted(missing))}; it has {rows.fieldnames}")
    return {Path(row["file"]).stem: _credit(row) for row in rows}


def _credit(row: dict[str, str]) -> str:
    url = row.get("license_url") or ""
    licence = CREATIVE_COMMONS.search(url)
    short = f"CC {licence[1].upper()} {licence[2]}" if licence else url
    return f"{row['author']} ({short})" if short else row["author"]


def read_attributions(root: Path) -> bytes | None:
    """Give ATTRIBUTION.csv where there is one, with the names that were written as octal bytes made readable."""
    path = root / FILE_NAME
    return OCTAL.sub(_decode, read_text(path)).encode() if path.is_file() else None


def _decode(match: re.Match[str]) -> str:
    codes = [int(code, 8) for code in match[0].split("\\")[1:]]
    return bytes(codes).decode("utf-8", errors="replace")
