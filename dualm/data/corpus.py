"""A corpus is a stream of entries, divided once and for all into train and valid: documents, or prompts with responses.

A source is a record in SOURCES with a function (data, split) -> entries. Where a recipe names no validation data, the hash
of an entry's text (of a pair: its prompt) decides its side, so the division depends on neither order nor number of
entries, and copies of one document or prompt never stand on both sides.
"""

from __future__ import annotations

import glob
import hashlib
import json
import platform
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from dualm.config import DataConfig
from dualm.data import embedded
from dualm.errors import UserError
from dualm.registry import Registry

Split = Literal["train", "valid"]
SPLITS: tuple[Split, Split] = ("train", "valid")

HASHES = 2**64

Entry: TypeAlias = tuple[str, ...]  # (text,), or in data.format: pairs (prompt, response)


def documents(data: DataConfig, split: Split) -> Iterator[str]:
    """The documents of one split, in the order of the source; a prompt and its response are two, one after the other.

    Raises:
        UserError: as `read`.
    """
    entries = (entry for side, entry in _divided(data) if side == split)
    if _validation_given(data):
        entries = read(data, split)
    return (text for entry in entries for text in entry)


def labelled(data: DataConfig) -> Iterator[tuple[Split, str]]:
    """Every document with its split. Reads the source once where `documents` for each split would read it twice."""
    for split, entry in _with_split(data):
        for text in entry:
            yield split, text


def read(data: DataConfig, split: Split) -> Iterator[Entry]:
    """The entries in the files of one split; without a text, or without a response, they are dropped.

    Raises:
        UserError: an unknown source, or files that are missing, empty, damaged or without the field asked for.
    """
    return (entry for entry in SOURCES.choose(data.source).entries(data, split) if entry[-1].strip())


def check_source(data: DataConfig) -> None:
    """Raises UserError for an unknown source, or one that reads files where none are named."""
    if SOURCES.choose(data.source).reads_files and not data.train:
        raise UserError(f"data.train: got [], expected the files of source '{data.source}'")


def inventory(data: DataConfig) -> list[list[Any]]:
    """What the documents are read from: [path, bytes, mtime in ns] of every local file, for telling changes."""
    if not SOURCES.choose(data.source).reads_files:
        return [["Python", platform.python_version()]]
    matches = {Path(match).resolve() for pattern in [*data.train, *data.valid] for match in _glob(pattern)}
    files = {file for match in matches for file in (match.rglob("*") if match.is_dir() else [match]) if file.is_file()}
    return file_states(sorted(files))


def file_states(files: Iterable[Path]) -> list[list[Any]]:
    """[path, bytes, mtime in ns] of each file."""
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def total_bytes(data: DataConfig) -> int | None:
    """Bytes of text in the corpus, where that is known without reading it."""
    return sum(size for _, size, _ in inventory(data)) if SOURCES.choose(data.source).sized else None


# ---------------------------------------------------------------- train and valid


def _validation_given(data: DataConfig) -> bool:
    return bool(data.valid) or (SOURCES[data.source].splits and data.valid_split is not None)


def _with_split(data: DataConfig) -> Iterator[tuple[Split, Entry]]:
    if _validation_given(data):
        for split in SPLITS:
            for entry in read(data, split):
                yield split, entry
    else:
        yield from _divided(data)


def _divided(data: DataConfig) -> Iterator[tuple[Split, Entry]]:
    threshold = _threshold(map(_hash, read(data, "train")), int(data.valid_fraction * HASHES))
    for entry in read(data, "train"):
        yield ("valid" if _hash(entry) < threshold else "train"), entry


def _hash(entry: Entry) -> int:
    return int.from_bytes(hashlib.blake2b(entry[0].encode(), digest_size=8).digest(), "little")


def _threshold(hashes: Iterable[int], wanted: int) -> int:
    """`wanted`, moved where it would leave one side empty. Looks no further than both sides have a document."""
    low, high = HASHES, -1
    for value in hashes:
        low, high = min(low, value), max(high, value)
        if low < wanted <= high:
            return wanted
    if low == high:
        raise UserError(
            "data.train: got a single document, expected two or more to hold one out; "
            "give data.valid, or data.documents: paragraph"
        )
    return high if high < wanted else low + 1


# ---------------------------------------------------------------- sources


def _embedded(data: DataConfig, split: Split) -> Iterator[Entry]:
    if data.train or data.valid:
        raise UserError(
            f"data.source: got 'embedded' with files {[*data.train, *data.valid]}, expected one that reads files: "
            f"{', '.join(name for name, source in SOURCES.items() if source.reads_files)}"
        )
    if data.format == "pairs":
        raise UserError("data.source: got 'embedded' with data.format: pairs, expected one with prompts and responses")
    yield from ((text,) for text in embedded.documents())


def _text(data: DataConfig, split: Split) -> Iterator[Entry]:
    for path in files_of(data, split):
        if data.format == "pairs":
            yield from _separated(path, data.separator)
        else:
            yield from ((text,) for text in TEXT_DOCUMENTS[data.documents](path))


def _separated(path: Path, separator: str) -> Iterator[Entry]:
    """A pair a line, divided where the separator first stands."""
    for number, line in enumerate(lines_of(path), start=1):
        prompt, found, response = line.rstrip("\n").partition(separator)
        if found:
            yield prompt, response
        elif line.strip():
            raise UserError(f"{path}:{number}: no '{separator}' (data.separator) between a prompt and its response")


def _whole_file(path: Path) -> Iterator[str]:
    yield "".join(lines_of(path))


def _paragraphs(path: Path) -> Iterator[str]:
    paragraph: list[str] = []
    for line in lines_of(path):
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield "".join(paragraph).rstrip("\n")
            paragraph = []
    yield "".join(paragraph).rstrip("\n")


TEXT_DOCUMENTS: Registry[Callable[[Path], Iterator[str]]] = Registry(
    "data.documents",
    {
        "file": _whole_file,
        "line": lambda path: (line.rstrip("\n") for line in lines_of(path)),
        "paragraph": _paragraphs,
    },
)


def _jsonl(data: DataConfig, split: Split) -> Iterator[Entry]:
    for path in files_of(data, split):
        for number, line in enumerate(lines_of(path), start=1):
            if line.strip():
                yield texts_of(json_object(line, f"{path}:{number}"), data, f"{path}:{number}")


def _parquet(data: DataConfig, split: Split) -> Iterator[Entry]:
    import pyarrow
    import pyarrow.parquet

    for path in files_of(data, split):
        try:
            table = pyarrow.parquet.ParquetFile(path)
            _check_fields(table.schema_arrow.names, data, str(path))
            for batch in table.iter_batches(batch_size=1024, columns=list(_fields(data).values())):
                yield from (texts_of(row, data, str(path)) for row in batch.to_pylist())
        except pyarrow.ArrowInvalid as error:
            raise UserError(f"{path}: not readable as parquet: {_first_line(error)}") from None


def _huggingface(data: DataConfig, split: Split) -> Iterator[Entry]:
    names = data.valid if split == "valid" and data.valid else data.train
    wanted = data.valid_split if split == "valid" and data.valid_split else data.split
    if len(names) != 1:
        raise UserError(f"data.{split}: got {names}, expected one data set (path or hub name)")
    rows = _load_dataset(names[0], wanted, data)
    for number, row in enumerate(rows):
        yield texts_of(row, data, f"{names[0]}, split {wanted}, row {number}")


def _load_dataset(name: str, split: str, data: DataConfig) -> Any:
    """Rows (dicts) of a hub data set, a folder of data files, or a folder written by `save_to_disk`."""
    import datasets  # slow to import
    from datasets.exceptions import DatasetsError

    saved = any((Path(name) / marker).is_file() for marker in ("state.json", "dataset_dict.json"))
    try:
        if not saved:
            return datasets.load_dataset(name, data.subset, split=split, streaming=data.streaming)
        loaded = datasets.load_from_disk(name)
    except (OSError, ValueError, DatasetsError) as error:
        raise UserError(f"data.source: cannot load '{name}', split '{split}': {_first_line(error)}") from None
    if isinstance(loaded, datasets.Dataset):
        return loaded
    if split not in loaded:
        raise UserError(f"data.split: '{name}' has no split '{split}', expected one of {', '.join(map(str, loaded))}")
    return loaded[split]


@dataclass(frozen=True)
class Source:
    """Where documents come from, and what preparing them must know of it."""

    entries: Callable[[DataConfig, Split], Iterator[Entry]]
    reads_files: bool = True  # those of data.train and data.valid
    sized: bool = False  # its files hold text alone, so that their bytes are known without reading them
    splits: bool = False  # has splits of its own, which data.split and data.valid_split name


SOURCES = Registry(
    "data.source",
    {
        "embedded": Source(_embedded, reads_files=False),
        "text": Source(_text, sized=True),
        "jsonl": Source(_jsonl),
        "parquet": Source(_parquet),
        "huggingface": Source(_huggingface, splits=True),
    },
)

# ---------------------------------------------------------------- files and fields


def _glob(pattern: str) -> list[str]:
    return sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))


def files_of(data: DataConfig, split: Split) -> list[Path]:
    """The files of a split: patterns in the order given, the matches of each by name, no file twice."""
    patterns = data.train if split == "train" else data.valid
    files: list[Path] = []
    for pattern in patterns:
        matches = [Path(match) for match in _glob(pattern) if not Path(match).is_dir()]
        if not matches:
            raise UserError(f"data.{split}: no file matches '{pattern}'")
        files += matches
    for path in files:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty (data.{split})")
    return list(dict.fromkeys(files))


def lines_of(path: Path) -> Iterator[str]:
    r"""Lines with their "\n", as UTF-8 without byte order mark; "\r\n" becomes "\n"."""
    offset = 0
    with path.open("rb") as file:
        for raw in file:
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: not UTF-8 at byte {offset + error.start}") from None
            yield (line.removeprefix("\ufeff") if offset == 0 else line).replace("\r\n", "\n")
            offset += len(raw)


def json_object(line: str, where: str) -> dict[str, Any]:
    """A line of JSON Lines; `where` names it in errors. Raises UserError where it is no object."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: got a JSON {type(record).__name__}, expected an object")
    return record


def _fields(data: DataConfig) -> dict[str, str]:
    """The fields of a record that make an entry, by the recipe key that names them."""
    if data.format == "pairs":
        return {"data.prompt_field": data.prompt_field, "data.response_field": data.response_field}
    return {"data.field": data.field}


def _check_fields(fields: Collection[str], data: DataConfig, where: str) -> None:
    for key, field in _fields(data).items():
        if field not in fields:
            raise UserError(f"{where}: no field '{field}' ({key}), has {', '.join(fields)}")


def texts_of(record: dict[str, Any], data: DataConfig, where: str) -> Entry:
    _check_fields(record, data, where)
    return tuple(_text_of(record[field], f"{where}: field '{field}' ({key})") for key, field in _fields(data).items())


def _text_of(value: Any, where: str) -> str:
    """The text in a field; null counts as empty."""
    text = "" if value is None else value
    if not isinstance(text, str):
        raise UserError(f"{where} holds {type(text).__name__}, expected text")
    return text.encode(errors="replace").decode()  # JSON can spell half a surrogate pair, UTF-8 cannot


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
