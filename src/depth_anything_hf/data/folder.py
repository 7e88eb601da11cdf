"""Write and read folders of records: imagefolders, parquet, and photographs without labels.

`datasets` reads the first two without this module, but with traps that `load_folder` avoids: `datasets` takes split
names from file and folder names (one file called `test_1.png` hides `metadata.jsonl`, hence every label), and column
types from the first 10 MB of `metadata.jsonl` (an integer `depth_scale` there turns a later 0.5 into 0).
`pairs.py` reads pairs of files.
"""

from __future__ import annotations

import glob
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from depth_anything_hf.data.codes import depth_map_to_image, image_to_codes, open_image, sky_to_image
from depth_anything_hf.data.opening import own_file, reading
from depth_anything_hf.data.photographs import IMAGE_EXTENSIONS, METADATA, Photographs
from depth_anything_hf.data.records import check_one_split, decode_record, record_features

if TYPE_CHECKING:
    import datasets

SETTINGS = "settings.json"  # of a set of pseudo-labels
_PARTIAL, _FOLDERS = ".partial", ("images", "depth", "sky")
_REQUIRED = ("image", "depth_map", "depth_scale", "depth_offset", "space")
_IMAGE_COLUMNS = ("image", "depth_map", "sky_mask")
_SPLIT_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test"}
_SPLIT_WORDS |= dict.fromkeys(("val", "valid", "validation", "dev"), "validation")


def write_image_folder(
    records: Iterable[Mapping[str, Any]],
    out_dir: str | os.PathLike,
    overwrite: bool = False,
    jpeg_quality: int | None = None,
) -> Path:
    """Write records one by one as an imagefolder: `images/`, `depth/`, `sky/` and, last, `metadata.jsonl`.

    Images are checked and written as upright RGB; codes are kept bit for bit. Everything is staged in
    `out_dir/.partial`, so a folder with `metadata.jsonl` is complete, and records may be read lazily from the same
    folder that is overwritten.

    Args:
        records: Rows of the record schema; those without `depth_map` are photographs without label.
        out_dir: Folder to create.
        overwrite: Replace what an earlier call wrote there (never any other file).
        jpeg_quality: None writes lossless PNG images; 1..95 writes JPEG. Depth and sky are always PNG.

    Returns:
        The folder.

    Raises:
        FileExistsError: `out_dir` is not empty and `overwrite` is False, or it has files that this function did not write.
        ValueError: A record breaks a rule of the schema, or there is none.

    Example:
        >>> import tempfile
        >>> from depth_anything_hf.data.records import encode_record
        >>> record = encode_record(np.zeros((1, 2, 3), np.uint8), values=[[1.0, 2.0]])
        >>> folder = write_image_folder([record], tempfile.mkdtemp())
        >>> sorted(path.name for path in folder.iterdir())
        ['depth', 'images', 'metadata.jsonl']
    """
    check_one_split(records, "records")
    out = Path(out_dir).expanduser()
    _check_target(out, overwrite)
    staging = out / _PARTIAL
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        count = 0
        with open(staging / METADATA, "w", encoding="utf-8") as metadata:
            for count, record in enumerate(records, start=1):
                row = _write_record(record, staging, f"{count - 1:06d}", jpeg_quality)
                metadata.write(json.dumps(row, default=_plain, allow_nan=False) + "\n")
        if count == 0:
            raise ValueError(f"no records to write to {out}; a folder needs at least one: check the iterable.")
        (out / METADATA).unlink(missing_ok=True)
        for folder in _FOLDERS:
            shutil.rmtree(out / folder, ignore_errors=True)
            if (staging / folder).exists():
                os.replace(staging / folder, out / folder)
        os.replace(staging / METADATA, out / METADATA)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return out


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    present = {entry.name for entry in out.iterdir()} - {_PARTIAL}
    foreign = sorted(present - {METADATA, *_FOLDERS})
    if foreign:
        raise FileExistsError(f"{out} holds files of another origin, {foreign[:3]}: give a new or an empty folder.")
    if present and not overwrite:
        raise FileExistsError(f"{out} is not empty; pass overwrite=True to replace its records, or a new folder.")


def _write_record(record: Mapping[str, Any], root: Path, stem: str, jpeg_quality: int | None) -> dict[str, Any]:
    sample = decode_record(record)
    row: dict[str, Any] = {
        "file_name": f"images/{stem}.{'png' if jpeg_quality is None else 'jpg'}",
        "depth_map_file_name": None,
        "sky_mask_file_name": None,
    }
    options = {} if jpeg_quality is None else {"quality": jpeg_quality}
    _save(sample.image, root / row["file_name"], **options)
    if sample.values is not None:
        row["depth_map_file_name"] = f"depth/{stem}.png"
        codes = image_to_codes(open_image(record["depth_map"], "depth_map"))
        _save(depth_map_to_image(codes), root / row["depth_map_file_name"])
    if sample.sky is not None:
        row["sky_mask_file_name"] = f"sky/{stem}.png"
        _save(sky_to_image(sample.sky), root / row["sky_mask_file_name"])
    for key in ("depth_scale", "depth_offset"):  # with a decimal point: no reader takes the column for integers
        row[key] = None if record.get(key) is None else float(record[key])
    row["space"] = record.get("space")
    row["intrinsics"] = None if sample.intrinsics is None else list(sample.intrinsics)
    row["source"] = sample.source
    return row | {key: value for key, value in record.items() if key not in row and key not in _IMAGE_COLUMNS}


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    image.save(path, **options)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"a column holds {type(value).__name__}; metadata.jsonl holds numbers, text and lists: drop it.")


def load_folder(path: str | os.PathLike, allow_outside: bool = False) -> datasets.Dataset:
    """Read a folder of records: an imagefolder (`metadata.jsonl`) or parquet files, there or in `data/`.

    All files become one split, whatever their names; columns of the schema get the types of `record_features`. A shard that
    a `manifest.json` lists is compared with its checksum when it is first read.

    Args:
        path: The folder.
        allow_outside: Let records name files outside of the folder, and URLs, which are fetched. Only for sets that you
            trust. Pseudo-labels with `keep_image="reference"` name files of this machine in any case.

    Returns:
        The dataset; images are decoded when a row is read, `depth_map` as 16-bit PIL images.

    Raises:
        FileNotFoundError: There is no such folder, or neither form in it.
        ValueError: A column of the schema is missing, parquet files of several splits lie together, a shard is damaged, or
            a record names a file outside of the folder.

    Example:
        >>> import tempfile
        >>> from depth_anything_hf.data.records import encode_record
        >>> record = encode_record(np.zeros((1, 2, 3), np.uint8), values=[[1.0, 2.0]])
        >>> load_folder(write_image_folder([record], tempfile.mkdtemp()))[0]["depth_map"].mode
        'I;16'
    """
    root = Path(path).expanduser()
    if (root / METADATA).is_file():
        features = _checked(root, _metadata_features(root / METADATA))
        return _open([root / METADATA], "imagefolder", features, [root], allow_outside)
    files = _parquet_files(root)
    return _open(files, "parquet", _parquet_features(root, files), [root], allow_outside)


def _open(
    files: Sequence[Path], kind: str, features: Any, roots: Sequence[Path], outside: bool, streaming: bool = False
):
    """Open a data set whose images are opened by this library's rule."""
    import datasets
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    from depth_anything_hf.data.record_images import CheckedParquet, RecordImage

    data_files = {"train": [glob.escape(str(file.absolute())) for file in files]}
    builder = {"imagefolder": ImageFolder, "parquet": CheckedParquet}[kind](data_files=data_files, features=features)
    if streaming:
        data = builder.as_streaming_dataset(split="train")
    else:
        try:
            builder.download_and_prepare()
        except datasets.exceptions.DatasetGenerationError as error:  # its cause has the reason
            where = ", ".join(map(str, roots))
            raise ValueError(f"{where} cannot be read: {error.__cause__ or error}") from error
        data = builder.as_dataset(split="train")
    settings = list(map(_settings, roots))
    folders = None if outside else [root.absolute() for root in roots]
    if folders and any(
        one.get("keep_image") == "reference" for one in settings
    ):  # labels of photographs on this machine
        folders.append(Path(folders[0].anchor))
    # A teacher that squeezes photographs: the shape of its labels is not theirs.
    squeezed = any((one.get("preparation") or {}).get("aspect") is not None for one in settings)
    for name, feature in features.items():
        if isinstance(feature, datasets.Image):
            data = data.cast_column(name, RecordImage(folders, squeezed and name == "depth_map"))
    return data


def _settings(root: Path) -> dict[str, Any]:
    """Return how the pseudo-labels of a set were made; nothing for other sets."""
    if not (root / SETTINGS).is_file():
        return {}
    with reading(root / SETTINGS):
        return json.loads((root / SETTINGS).read_text(encoding="utf-8"))


def stream_folder(
    path: str | os.PathLike, *more: str | os.PathLike, seed: int = 0, allow_outside: bool = False
) -> datasets.IterableDataset:
    """Open folders of parquet shards, there or in `data/`, as one stream of records.

    Opening reads only the footers of the shards. Columns of the schema get the types of `record_features`. Only the
    order of the shards is random; `training.batches.BatchReader` shuffles the records themselves.

    Args:
        path: Folder, as `depth-anything-hf pseudo-label` writes it.
        more: Further folders.
        seed: Seed of the order in which the shards of all folders are read.
        allow_outside: As in `load_folder`.

    Returns:
        The stream; images are decoded when a record is read, `depth_map` as 16-bit PIL images.

    Raises:
        FileNotFoundError: No such folder, or no parquet in it.
        ValueError: A column of the schema is missing, or files of several splits lie together.

    Example:
        >>> import tempfile
        >>> from datasets import Dataset
        >>> from depth_anything_hf.data.records import encode_record, record_features
        >>> record, folder = encode_record(np.zeros((1, 2, 3), np.uint8), values=[[1.0, 2.0]]), tempfile.mkdtemp()
        >>> _ = Dataset.from_list([record], features=record_features()).to_parquet(f"{folder}/part-0.parquet")
        >>> next(iter(stream_folder(folder)))["depth_map"].mode
        'I;16'
    """
    roots = [Path(folder).expanduser() for folder in (path, *more)]
    files = [file for root in roots for file in _shards(root)]
    features = _parquet_features(", ".join(map(str, roots)), files)
    order = np.random.default_rng(seed).permutation(len(files))
    return _open([files[i] for i in order], "parquet", features, roots, allow_outside, streaming=True)


def _shards(root: Path) -> list[Path]:
    try:
        return _parquet_files(root)
    except FileNotFoundError as error:
        state = "no such folder" if not root.exists() else "no *.parquet in it or in its data/"
        other = "read it with load_folder" if (root / METADATA).is_file() else "check the path"
        raise FileNotFoundError(
            f"{root}: {state}; a stream needs parquet shards: write them with `depth-anything-hf pseudo-label` or "
            f"datasets.Dataset.to_parquet, or {other}."
        ) from error


def _parquet_files(root: Path) -> list[Path]:
    """List the parquet shards in a folder or in its `data/`; raise an error if there are none, or several splits."""
    files = sorted(root.glob("*.parquet")) or sorted(root.glob("data/*.parquet"))
    if not files:
        nested = sorted(str(file.parent) for file in root.glob(f"*/{METADATA}"))
        hint = f"load one of {nested[:3]}" if nested else "check the path; photographs alone are no records"
        state = "no such folder" if not root.exists() else f"neither {METADATA} nor *.parquet in it"
        raise FileNotFoundError(f"{root}: {state}; {hint}.")
    starts = {re.split(r"[-_.]", file.name.lower())[0] for file in files}
    words = {_SPLIT_WORDS[word] for word in starts & _SPLIT_WORDS.keys()}
    if len(words) > 1:
        raise ValueError(
            f"{root} holds the splits {sorted(words)}; one set is read: give each split its own folder, or "
            "use datasets.load_dataset(folder, split=...)."
        )
    return files


def _parquet_features(where: str | Path, files: Sequence[Path]) -> datasets.Features:
    """Read the column types of shards from their footers; columns of the schema get the types of `record_features`."""
    import pyarrow.parquet as pq
    from datasets import Features, Image
    from datasets.features.features import require_decoding

    schemas: dict[Any, None] = {}
    for file in files:
        with reading(file):
            schemas[pq.read_schema(file)] = None  # turning each into features takes longer than reading it

    def features_of(schema) -> Features:
        stored = Features.from_arrow_schema(schema.remove_metadata())
        # Whatever else is decoded, such as audio, may be a file anywhere: it stays as it is stored.
        known = Features.from_arrow_schema(schema).items()
        return Features({k: v if isinstance(v, Image) or not require_decoding(v) else stored[k] for k, v in known})

    return _checked(where, map(features_of, schemas))


def _metadata_features(path: Path) -> Iterator[datasets.Features]:
    import pyarrow as pa
    import pyarrow.json as pj
    from datasets import Features, Value
    from datasets import Image as ImageFeature

    with open(path, "rb") as file:
        while batch := file.read(10 << 20):
            batch += file.readline()
            try:
                table = pj.read_json(io.BytesIO(batch), read_options=pj.ReadOptions(block_size=len(batch) + 1))
            except pa.ArrowInvalid as error:
                raise ValueError(f"{path}: {error}; each line must be one JSON object with the same keys.") from error
            features = Features()
            for name in (name for name in table.column_names if name.endswith("file_name")):
                for named in filter(None, table[name].unique().to_pylist()):
                    _check_name(named, path)
            for field in table.schema:
                name = re.sub("_file_name$", "", "image_file_name" if field.name == "file_name" else field.name)
                if name != field.name:
                    features[name] = ImageFeature()
                elif pa.types.is_timestamp(field.type):  # text such as "2024-01-31", which nobody called a time
                    features[name] = Value("string")
                else:
                    features[name] = Features.from_arrow_schema(pa.schema([field]))[name]
            yield features


def _check_name(named: Any, metadata: Path) -> None:
    """Refuse a name that leads out of the folder by itself; links are looked up when the file is read."""
    try:
        own_file(str(named), [metadata.parent], follow_links=True)
    except ValueError as error:
        raise ValueError(f"{metadata}: {error}") from error


def _checked(where: str | Path, parts: Iterable[datasets.Features]) -> datasets.Features:
    features = _merge(parts)
    missing = [column for column in _REQUIRED if column not in features]
    if missing:
        raise ValueError(
            f"{where}: columns {missing} are missing, found {sorted(features)}; a folder of records needs {_REQUIRED} "
            "(docs/data_format.md): add them; `data.pairs.load_pairs` reads pairs of image and depth files."
        )
    return features


def _merge(parts: Iterable[datasets.Features]) -> datasets.Features:
    from datasets import Features, List, Value

    merged = Features()
    for features in parts:
        for name, feature in features.items():
            known = merged.get(name, Value("null"))
            if known == Value("null") or (known == Value("int64") and feature == Value("float64")):
                merged[name] = feature
    schema = record_features(with_sky=True, with_group=True)
    if isinstance(getattr(merged.get("intrinsics"), "feature", None), List):  # matrices
        schema["intrinsics"] = List(List(Value("float64")))
    return Features({name: schema.get(name, feature) for name, feature in merged.items()})


def load_images(path_or_glob: str | os.PathLike, extensions: Sequence[str] = IMAGE_EXTENSIONS) -> datasets.Dataset:
    """Read photographs without labels: a file, a folder with all its subfolders, or a glob pattern.

    `data.photographs.Photographs` describes which files are photographs; the others are counted in one line of the log.

    Args:
        path_or_glob: "photos", "photos/a.jpg" or "photos/**/*.png".
        extensions: Endings to take, in lower or upper case.

    Returns:
        A dataset in the order of the names with the columns `image` (decoded when a row is read) and `source` (the path
        below the folder, or below the part of the pattern before the first wildcard).

    Raises:
        FileNotFoundError: There is no photograph.
        ValueError: A line of the `metadata.jsonl` of an imagefolder names no file.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> Image.new("RGB", (4, 3)).save(folder + "/a.png")
        >>> load_images(folder)["source"][0]
        'a.png'
    """
    from datasets import Dataset, Features, Value

    from depth_anything_hf.data.record_images import RecordImage

    photographs = Photographs(path_or_glob, extensions)
    files = list(photographs)
    if not files:
        raise FileNotFoundError(
            f"no photograph at {photographs.given}; looked for files ending in {', '.join(extensions)}"
            f"{f' ({photographs.describe_skipped()})' if photographs.skipped else ''}: "
            "check the path, quote a glob pattern in the shell, or pass other extensions."
        )
    photographs.log_skipped()
    sources = [photographs.name(file) for file in files]
    columns = {"image": [str(file.absolute()) for file in files], "source": sources}
    return Dataset.from_dict(columns, features=Features({"image": RecordImage(), "source": Value("string")}))
