# SPDX-License-Identifier: Apache-2.0
"""What describes a folder of records: its splits, their shards and clips.

An index beside the shards, SPLIT.index.npz, says where each record begins, so
that any record can be read without those before it. A table, SPLIT.clips.npz,
says what can be known of the clips without reading audio.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from concurrent import futures

import numpy as np
import tensorflow as tf

from tf_audioset.data import audio as audio_lib
from tf_audioset.data import labels as labels_lib
from tf_audioset.data import records
from tf_audioset.runtime import messages, storage
from tf_audioset.runtime.errors import UserError

INFO_FILE = "dataset_info.json"
# Parts of a split are chosen by per cent of the ids' hash.
NUM_BUCKETS = 100
_FORMAT_VERSION = 2

# A TFRecord is its length (8 bytes), a checksum of that (4), the record, and a
# checksum of it (4).
_RECORD_OVERHEAD_BYTES = 16
# Of shards that are read from their beginning: a bucket takes its time for each
# request.
_PIECE_BYTES = 1 << 22
# Shards that are looked for at the same time.
_PARALLEL_LOOKS = 32


@dataclasses.dataclass(frozen=True)
class Index:
  """Where the records of a split are, in the order of its shards."""

  shard: np.ndarray  # int32 [num_clips], index into the split's files.
  offset: np.ndarray  # int64 [num_clips], bytes before the record.
  # uint8 [num_clips], see `bucket`; None: no ids.
  bucket: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.offset)

  def take(self, rows: np.ndarray) -> Index:
    """Selects some of the records."""
    bucket = None if self.bucket is None else self.bucket[rows]
    return Index(self.shard[rows], self.offset[rows], bucket)

  def write(self, path: str) -> None:
    """Writes SPLIT.index.npz at one stroke."""
    _write_arrays(path, self)


class IndexBuilder:
  """Makes an `Index` while records are written or read one after another."""

  def __init__(self):
    self._rows = []
    self._ids = []
    self._shard = -1
    self._offset = 0

  def next_shard(self) -> None:
    """Begins the next file: the records that follow are in it."""
    self._shard += 1
    self._offset = 0

  def add(self, num_bytes: int, clip_id: str | bytes = "") -> None:
    """Adds a record of `num_bytes`, the serialized example."""
    self._rows.append((self._shard, self._offset))
    self._ids.append(clip_id)
    self._offset += num_bytes + _RECORD_OVERHEAD_BYTES

  def build(self) -> Index:
    """Returns the index of all that was added."""
    rows = np.array(self._rows, np.int64).reshape([-1, 2])
    buckets = None
    if self._ids and all(self._ids):
      buckets = bucket(tf.constant(self._ids)).numpy().astype(np.uint8)
    return Index(rows[:, 0].astype(np.int32), rows[:, 1], buckets)


@dataclasses.dataclass(frozen=True)
class ClipTable:
  """What each record of a split holds, in the order of its index."""

  id: np.ndarray  # bytes (S) [num_clips], UTF-8.
  num_samples: np.ndarray  # int32 [num_clips]
  labels: np.ndarray  # int32 [num_labels], clip by clip; a clip's are distinct.
  label_ends: np.ndarray  # int64 [num_clips], where a clip's labels end.
  audio_hash: np.ndarray  # uint64 [num_clips], see `audio.samples_hash`.

  def __len__(self) -> int:
    return len(self.id)

  def labels_of(self, row: int) -> np.ndarray:
    """Returns the labels of one clip, int32 [n]."""
    begin = self.label_ends[row - 1] if row else 0
    return self.labels[begin : self.label_ends[row]]

  def count_positives(self, num_classes: int) -> np.ndarray:
    """Counts the clips of each class, int64 [num_classes]."""
    return np.bincount(self.labels, minlength=num_classes)

  def take(self, rows: np.ndarray) -> ClipTable:
    """Selects some of the clips."""
    counts = np.diff(self.label_ends, prepend=0)[rows]
    ends = np.cumsum(counts)
    # A label's place is its clip's beginning and its number there.
    begins = self.label_ends[rows] - counts
    places = np.arange(counts.sum()) + np.repeat(begins - ends + counts, counts)
    return ClipTable(
      self.id[rows],
      self.num_samples[rows],
      self.labels[places],
      ends,
      self.audio_hash[rows],
    )

  def write(self, path: str) -> None:
    """Writes SPLIT.clips.npz at one stroke."""
    _write_arrays(path, self)

  @classmethod
  def read(cls, path: str) -> ClipTable:
    """Reads SPLIT.clips.npz.

    Raises:
      UserError: If it is missing or broken.
    """
    return _read_arrays(path, cls)


class ClipTableBuilder:
  """Makes a `ClipTable` while clips are written one after another."""

  def __init__(self):
    self._rows = []
    self._labels = []
    self._label_ends = []

  def add(
    self, clip_id: str, num_samples: int, labels: Sequence[int], audio_hash: int
  ) -> None:
    """Adds a clip."""
    self._rows.append((clip_id.encode(), num_samples, audio_hash))
    self._labels += labels
    self._label_ends.append(len(self._labels))

  def build(self) -> ClipTable:
    """Returns the table of all that was added, at least one clip."""
    ids, num_samples, hashes = zip(*self._rows)
    return ClipTable(
      np.array(ids),
      np.array(num_samples, np.int32),
      np.array(self._labels, np.int32),
      np.array(self._label_ends, np.int64),
      np.array(hashes, np.uint64),
    )


@dataclasses.dataclass(frozen=True)
class SplitInfo:
  """One split in dataset_info.json."""

  num_clips: int
  total_seconds: float
  shards: list[
    dict[str, int | str]
  ]  # {"file", "num_clips", "num_bytes"} of each.
  ids_sha256: str  # Of the sorted ids, joined by newlines.
  index: str  # File of the `Index`.
  clips: str = ""  # File of the `ClipTable`; older preparations have none.
  # Of the log-mel, see `preparation.levels`; older preparations have none.
  log_mel_mean: float | None = None
  log_mel_sd: float | None = None


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """What dataset_info.json says of a folder of records."""

  sample_rate_hz: int
  clip_seconds: float
  codec: str
  classes: labels_lib.ClassList
  splits: dict[str, SplitInfo]
  sha256: str = ""  # See `digest`; empty: written by an older version.

  def digest(self) -> str:
    """Returns the SHA-256 of all that decides what the records mean."""
    content = dataclasses.asdict(self)
    # A program that rewrites the file may write 10.0 as 10.
    del content["clip_seconds"], content["sha256"]
    for split in content["splits"].values():
      # Nor do these decide it, and older versions did not know them.
      for name in ("total_seconds", "log_mel_mean", "log_mel_sd"):
        del split[name]
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Split:
  """What is needed to read one split."""

  files: list[str]
  num_clips: int
  compression: str  # "" or "ZLIB"
  classes: labels_lib.ClassList | None  # None: not told by the folder.
  index: Index | None  # None: compressed, readable from the beginning only.
  ids_sha256: str = ""  # Of the sorted ids of all clips; empty: not known.
  codec: str = "flac"  # Or "pcm16".
  clips_file: str = ""  # Of the `ClipTable`; empty: there is none.
  rows: np.ndarray | None = None  # The table's rows of a `part`.
  # Mean and standard deviation of the log-mel; None: not measured.
  log_mel: tuple[float, float] | None = None
  max_seconds: float | None = None  # Preparation has cut longer clips to this.

  @property
  def needs_python(self) -> bool:
    """Returns whether reading calls Python, or ops that are not TensorFlow's.

    A host in another machine, as a TPU node or pod has, can do neither.
    """
    return self.codec != "pcm16"

  def digest(self) -> str:
    """Returns the SHA-256 of what the clips are and where they are stored."""
    digest = hashlib.sha256(f"{self.num_clips} {self.ids_sha256}".encode())
    if self.index is not None:
      digest.update(self.index.shard.tobytes() + self.index.offset.tobytes())
    return digest.hexdigest()

  def part(self, first: int, end: int) -> Split:
    """Selects the clips whose `bucket` is at least `first` and below `end`.

    A clip's bucket depends on its id alone: it stays in its part when other
    clips are added.

    Raises:
      UserError: If the clips have no ids, or none is in the part.
    """
    if self.index is None or self.index.bucket is None:
      raise UserError(
        "this data cannot be divided by ids, which it does not have: prepare "
        "it again with tools/make_tfrecords.py."
      )
    buckets = self.index.bucket
    rows = np.flatnonzero((first <= buckets) & (buckets < end))
    index = self.index.take(rows)
    if not len(index):
      raise UserError(
        f"none of the {self.num_clips} clips is in the part from {first} to "
        f"{end} %: a clip's place follows from a hash of its id, and these are "
        f"at {buckets.min()} to {buckets.max()} %. Choose another percentage."
      )
    return dataclasses.replace(
      self,
      num_clips=len(index),
      index=index,
      rows=rows if self.rows is None else self.rows[rows],
    )

  def clips(self) -> ClipTable | None:
    """Reads what is known of the clips, in their order; None if nothing is.

    Raises:
      UserError: If the table is missing, broken or not of these records.
    """
    if not self.clips_file:
      return None
    table = ClipTable.read(self.clips_file)
    if self.rows is not None and self.rows.max() < len(table):
      table = table.take(self.rows)
    if len(table) != self.num_clips or np.any(
      bucket(tf.constant(table.id)) != self.index.bucket
    ):
      raise UserError(
        f"{self.clips_file}: of other clips than the records: copy both from "
        "the same folder, or prepare the data again."
      )
    return table

  def locator(self) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Returns a function from records' numbers to where they are stored.

    Returns:
      int64 [n] tensor, of 0 ... num_clips - 1 -> {"file": string [n], "offset":
      int64 [n], "id": string [n], empty if not known}, of which the first two
      are for `read_record`.

    Raises:
      UserError: If there is no index.
    """
    if self.index is None:
      raise UserError(f"{self.files[0]}: compressed shards have no index.")
    table = self.clips()
    ids = tf.fill([self.num_clips], "") if table is None else table.id
    # Outside of the function, which else would hold a copy of them.
    files, ids = tf.constant(self.files), tf.constant(ids)
    shard, offset = map(tf.constant, (self.index.shard, self.index.offset))
    return lambda numbers: {
      "file": tf.gather(files, tf.gather(shard, numbers)),
      "offset": tf.gather(offset, numbers),
      "id": tf.gather(ids, numbers),
    }


def read_shards(
  files: Sequence[str] | tf.Tensor,
  compression: str,
  num_parallel_reads: int | None = None,
) -> tf.data.Dataset:
  """Reads all records of shards from the beginning, as `TFRecordDataset`."""
  return untuned(
    tf.data.TFRecordDataset(
      files, compression, _PIECE_BYTES, num_parallel_reads
    )
  )


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Returns the dataset without TensorFlow's tuning while it runs.

  AUTOTUNE is one call a core then, at most 16. The thread that would tune
  sleeps longer and longer, up to a minute, and is not always woken when an
  iterator ends, which waits for it: seconds at the end of each evaluation.
  """
  options = tf.data.Options()
  options.autotune.enabled = False
  return dataset.with_options(options)


def read_record(file: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
  """Reads one record of an uncompressed shard; to be used in `Dataset.map`.

  Args:
    file: string scalar.
    offset: int64 scalar, bytes before the record.

  Returns:
    The serialized record, string scalar; empty if it cannot be read, which
    TensorFlow then logs the reason of.
  """
  types = {"output_types": [tf.int64, tf.string], "output_shapes": [[], []]}
  zero = tf.constant(0, tf.int64)
  # The op behind TFRecordDataset; only it can begin inside a file. Without a
  # buffer: from a disk it would be a copy, a bucket's client has its own.
  here = tf.raw_ops.TFRecordDatasetV2(
    filenames=file[tf.newaxis],
    compression_type="",
    buffer_size=0,
    byte_offsets=offset[tf.newaxis],
  )
  # A shard that is gone is an error again and again, which would be ignored for
  # ever, but for this range that has ended.
  one = tf.raw_ops.RangeDataset(
    start=zero,
    stop=zero + 1,
    step=zero + 1,
    output_types=[tf.int64],
    output_shapes=[[]],
  )
  record = tf.raw_ops.IgnoreErrorsDataset(
    input_dataset=tf.raw_ops.ZipDataset(input_datasets=[one, here], **types),
    log_warning=True,
    **types,
  )
  nothing = tf.raw_ops.TensorDataset(
    components=[zero, ""], output_shapes=[[], []]
  )
  record = tf.raw_ops.ConcatenateDataset(
    input_dataset=record, another_dataset=nothing, **types
  )
  record = tf.raw_ops.TakeDataset(input_dataset=record, count=1, **types)
  return tf.raw_ops.DatasetToSingleElement(dataset=record, **types)[1]


def bucket(ids: tf.Tensor) -> tf.Tensor:
  """Hashes strings to 0 ... 99, int64 [...], the same for ever."""
  return tf.strings.to_hash_bucket_fast(ids, NUM_BUCKETS)


def write_dataset_info(data_dir: str, info: DatasetInfo) -> None:
  """Writes dataset_info.json at one stroke, with its digest."""
  content = dataclasses.asdict(info)
  content.update(sha256=info.digest(), classes=info.classes.to_json())
  # The digest in front: its line can be deleted.
  first = {"format_version": _FORMAT_VERSION, "sha256": content.pop("sha256")}
  content = {**first, **content}
  storage.write_json(os.path.join(data_dir, INFO_FILE), content)


def read_dataset_info(data_dir: str) -> DatasetInfo | None:
  """Reads dataset_info.json; None where there is none.

  Raises:
    UserError: If it is not of this format, or not as it was written.
  """
  path = os.path.join(data_dir, INFO_FILE)
  if not tf.io.gfile.exists(path):
    return None
  try:
    with tf.io.gfile.GFile(path) as file:
      content = json.load(file)
    if content.pop("format_version") != _FORMAT_VERSION:
      raise ValueError("another format version")
    content["classes"] = labels_lib.ClassList.from_json(content["classes"])
    content["splits"] = {
      name: SplitInfo(**split) for name, split in content["splits"].items()
    }
    info = DatasetInfo(**content)
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise UserError(
      f"{path}: not a description that this version can read ({e!r}); prepare "
      "the data again with tools/make_tfrecords.py."
    ) from e
  if info.sha256 and info.sha256 != info.digest():
    raise UserError(
      f"{path}: changed since it was written: its classes, splits, codec or "
      "sample rate do not fit its sha256. Take the file from a copy or prepare "
      "the data again; if the change is meant, delete the line of the sha256."
    )
  return info


def split_names(data_dir: str) -> list[str]:
  """Returns a folder's splits, ours or audax's, in the order of their names."""
  info = read_dataset_info(data_dir)
  if info is not None:
    return sorted(info.splits)
  files = tf.io.gfile.glob(os.path.join(data_dir, "*", "*.tfrec*"))
  names = {os.path.basename(os.path.dirname(file)) for file in files}
  # Without the parts of a split whose preparation was stopped.
  return sorted(name for name in names if not name.startswith("."))


def find_split(data_dir: str, split: str) -> Split:
  """Finds the shards of a split, ours or audax's.

  Args:
    data_dir: A folder with dataset_info.json; or one of audax's, with shards
      `<split>/*.tfrec*` and, for training, class_labels_indices.csv.
    split: Such as "train".

  Returns:
    The split.

  Raises:
    UserError: If the folder, the split or a shard is not there.
  """
  info = read_dataset_info(data_dir)
  if info is None:
    return _find_audax_split(data_dir, split)
  if split not in info.splits:
    raise UserError(
      f"{data_dir}: there is no split {split!r}; there are "
      f"{sorted(info.splits)}. Prepare it with tools/make_tfrecords.py "
      f"--split={split}, or name another."
    )
  if info.codec not in audio_lib.CODECS:
    raise UserError(
      f"{data_dir}: codec {info.codec!r}; readable are {audio_lib.CODECS}: "
      "prepare the data again."
    )
  if info.sample_rate_hz != records.SAMPLE_RATE_HZ:
    raise UserError(
      f"{data_dir}: records at {info.sample_rate_hz} Hz; "
      f"{records.SAMPLE_RATE_HZ} Hz are needed: prepare the data again."
    )
  shards = info.splits[split].shards
  files = [os.path.join(data_dir, shard["file"]) for shard in shards]
  with futures.ThreadPoolExecutor(_PARALLEL_LOOKS) as pool:
    sizes = list(pool.map(_num_bytes, files))
  for file, shard, num_bytes in zip(files, shards, sizes):
    if num_bytes is None:
      raise UserError(
        f"{file}: this shard is listed in {INFO_FILE}, but missing: copy the "
        "whole folder, or prepare the data again."
      )
    if num_bytes != shard["num_bytes"]:
      raise UserError(
        f"{file}: {num_bytes} bytes, where {INFO_FILE} says "
        f"{shard['num_bytes']}: a broken copy, or of another preparation: copy "
        "the whole folder, or prepare the data again."
      )
  index = _read_arrays(os.path.join(data_dir, info.splits[split].index), Index)
  if len(index) != info.splits[split].num_clips:
    raise UserError(
      f"{data_dir}: {info.splits[split].index} has {len(index)} clips, where "
      f"{INFO_FILE} says {info.splits[split].num_clips}: of another "
      "preparation: copy the whole folder, or prepare the data again."
    )
  clips = info.splits[split].clips
  return Split(
    files,
    len(index),
    "",
    info.classes,
    index,
    info.splits[split].ids_sha256,
    info.codec,
    clips_file=clips and os.path.join(data_dir, clips),
    log_mel=_log_mel(info.splits[split]),
    max_seconds=info.clip_seconds,
  )


def _log_mel(info: SplitInfo) -> tuple[float, float] | None:
  if info.log_mel_mean is None or not info.log_mel_sd:
    return None
  return info.log_mel_mean, info.log_mel_sd


def _write_arrays(path: str, arrays: Index | ClipTable) -> None:
  content = io.BytesIO()
  np.savez(
    content,
    **{k: v for k, v in vars(arrays).items() if v is not None},
  )
  storage.write_file(path, content.getvalue())


def _read_arrays(path: str, kind: type[Index | ClipTable]):
  """Inverts `_write_arrays`."""
  try:
    with tf.io.gfile.GFile(path, "rb") as file:
      arrays = dict(np.load(io.BytesIO(file.read())))
    return kind(**arrays)
  except (
    tf.errors.OpError,
    OSError,
    ValueError,
    TypeError,
    EOFError,
    zipfile.BadZipFile,
  ) as e:
    raise UserError(
      f"{path}: which belongs to the records, is missing or broken; prepare "
      "the data again with tools/make_tfrecords.py."
    ) from e


def _num_bytes(path: str) -> int | None:
  try:
    return tf.io.gfile.stat(path).length
  except tf.errors.NotFoundError:
    return None


def _index_by_reading(files: Sequence[str], compression: str) -> Index:
  """Makes the index of uncompressed shards that have none."""
  builder = IndexBuilder()
  for file in files:
    builder.next_shard()
    number = 0
    lengths = read_shards(file, compression).map(tf.strings.length)
    try:
      for length in lengths.as_numpy_iterator():
        builder.add(int(length))
        number += 1
    except tf.errors.DataLossError as e:
      raise UserError(
        f"{file}: broken, {number} records can be read: "
        f"{messages.first_line(e.message)}. Copy the file again."
      ) from e
  return builder.build()


def _find_audax_split(data_dir, split):
  files = sorted(tf.io.gfile.glob(os.path.join(data_dir, split, "*.tfrec*")))
  if not files and (names := split_names(data_dir)):
    raise UserError(
      f"{data_dir}: there is no split {split!r}; there are {names}: name one."
    )
  if not files:
    raise UserError(
      f"{data_dir}: no prepared data: neither {INFO_FILE}, which "
      f"tools/make_tfrecords.py writes, nor audax's {split}/*.tfrec. Give the "
      "folder that --output_dir was."
    )
  with tf.io.gfile.GFile(files[0], "rb") as file:
    # A plain TFRecord begins with a length, 8 bytes little endian; zlib's
    # first byte is 0x78, and its second makes the pair a multiple of 31.
    head = file.read(8)
  is_zlib = head[:1] == b"\x78" and int.from_bytes(head[:2], "big") % 31 == 0
  compression = "ZLIB" if is_zlib and any(head[4:]) else ""
  index = _index_by_reading(files, compression)
  table = os.path.join(data_dir, "class_labels_indices.csv")
  classes = None
  if tf.io.gfile.exists(table):
    classes = labels_lib.ClassList.from_csv(table)
  return Split(
    files, len(index), compression, classes, None if compression else index
  )
