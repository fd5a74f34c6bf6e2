# SPDX-License-Identifier: Apache-2.0
"""The `tf.Example` of a clip, and what describes a folder of them.

A record has the features

  id              bytes, the clip's name
  audio           bytes: a FLAC file, or little-endian int16 samples
  labels          int64 list, indices into the class list
  codec           bytes, "flac" or "pcm16"
  num_samples     int64
  sample_rate_hz  int64

Records made by audax (`audio` as FLAC, `label`, `duration`; no id; ZLIB) are
read as well.

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
import re
import zipfile
from collections.abc import Sequence
from concurrent import futures

import numpy as np
import tensorflow as tf
from tensorflow.python.ops import script_ops

from tf_audioset import audio as audio_lib
from tf_audioset import flac, messages
from tf_audioset import labels as labels_lib

SAMPLE_RATE_HZ = 16000
INFO_FILE = "dataset_info.json"
DECODERS = (*flac.DECODERS, "tfio")  # Of FLAC; the first is the default.
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


def serialize_example(
  clip_id: str,
  samples: np.ndarray,
  labels: Sequence[int],
  codec: str = "flac",
) -> bytes:
  """A clip to a serialized `tf.Example`; samples are int16 [num_samples]."""
  return serialize_encoded(
    clip_id,
    audio_lib.encode(samples, SAMPLE_RATE_HZ, codec),
    len(samples),
    labels,
    codec,
  )


def serialize_encoded(
  clip_id: str,
  audio: bytes,
  num_samples: int,
  labels: Sequence[int],
  codec: str,
) -> bytes:
  """`serialize_example` of what `audio.encode` made."""

  def of_bytes(value):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

  def of_ints(values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

  feature = {
    "id": of_bytes(clip_id.encode()),
    "audio": of_bytes(audio),
    "labels": of_ints(labels),
    "codec": of_bytes(codec.encode()),
    "num_samples": of_ints([num_samples]),
    "sample_rate_hz": of_ints([SAMPLE_RATE_HZ]),
  }
  example = tf.train.Example(features=tf.train.Features(feature=feature))
  return example.SerializeToString(deterministic=True)


def parse_examples(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
  """Serialized records, ours or audax's, to their parts.

  Args:
    serialized: string [batch].

  Returns:
    "id" (string [batch], empty in audax's records), "audio" (string [batch]),
    "labels" (int64 [batch, ragged]), "codec" (string [batch]), "num_samples"
    (int64 [batch], -1 in audax's records).
  """
  parsed = tf.io.parse_example(
    serialized,
    {
      "id": tf.io.FixedLenFeature([], tf.string, ""),
      "audio": tf.io.FixedLenFeature([], tf.string, ""),
      "labels": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
      "label": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
      "codec": tf.io.FixedLenFeature([], tf.string, "flac"),
      "num_samples": tf.io.FixedLenFeature([], tf.int64, -1),
    },
  )
  ours, audaxs = parsed.pop("labels"), parsed.pop("label")
  return dict(parsed, labels=tf.concat([ours, audaxs], 1))


def parse_example(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
  """`parse_examples` of one record, a string scalar, without the batch."""
  batch = parse_examples(tf.expand_dims(serialized, 0))
  return {name: part[0] for name, part in batch.items()}


def decode_waveforms(
  batch: dict[str, tf.Tensor],
  *,
  crop_samples: int | None,
  positions: tf.Tensor | None,
  codec: str,
  decoder: str = DECODERS[0],
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Decodes a crop of each clip, and no more of it than needed.

  Args:
    batch: From `parse_examples`.
    crop_samples: Length of the crops; a shorter clip, or None, gives the whole.
    positions: float32 [batch] in [0, 1), where each crop lies between the
      beginning and the end of its clip; None for the exact middle.
    codec: "flac" or "pcm16", of all clips. With "pcm16" the graph has
      TensorFlow's own ops only.
    decoder: Of FLAC: "miniaudio" or "soundfile", see `flac.read`, or "tfio"
      (tensorflow-io, in the graph, decodes whole clips).

  Returns:
    int16 [batch, crop_samples], or as long as the longest clip, with zeros
    behind the shorter; int64 [batch], the lengths without those; string
    [batch], why a clip cannot be decoded (its length is then 0), else empty.

  Raises:
    ValueError: If the decoder or codec is unknown.
  """
  if codec not in audio_lib.CODECS:
    raise ValueError(f"codec {codec!r}: allowed are {audio_lib.CODECS}.")
  if decoder not in DECODERS:
    raise ValueError(
      f"Pipeline.decoder is {decoder!r}; allowed are {DECODERS}."
    )
  if positions is None:
    positions = tf.fill(tf.shape(batch["id"]), -1.0)
  if codec == "pcm16":
    decoded = _decode_pcm16(batch, positions, crop_samples)
  elif decoder == "tfio":
    decoded = _decode_flac_in_graph(batch, positions, crop_samples)
  else:
    decoded = tf.raw_ops.PyFuncStateless(
      token=_DECODE_FLAC,
      input=[
        batch["audio"],
        batch["num_samples"],
        positions,
        tf.constant(-1 if crop_samples is None else crop_samples),
        tf.constant(decoder),
      ],
      Tout=[tf.int16, tf.int64, tf.string],
    )
  waveforms, lengths, reasons = decoded
  reasons = tf.ensure_shape(reasons, [None])
  other_codec = tf.strings.join(
    [f"the data was said to be {codec}, its codec is ", batch["codec"]]
  )
  reasons = tf.where(batch["codec"] == codec, reasons, other_codec)
  return (
    tf.ensure_shape(waveforms, [None, crop_samples]),
    tf.ensure_shape(lengths, [None]),
    tf.where(
      reasons == "", "", tf.strings.join(["cannot be decoded: ", reasons])
    ),
  )


def decode_waveform(
  record: dict[str, tf.Tensor],
  *,
  crop_samples: int | None,
  position: tf.Tensor | None,
  codec: str = "",
  decoder: str = DECODERS[0],
) -> tf.Tensor:
  """`decode_waveforms` of one clip, from `parse_example`.

  Args:
    record: From `parse_example`.
    crop_samples: As there.
    position: float32 scalar, or None.
    codec: If empty, the record says.
    decoder: As there.

  Returns:
    int16 [min(num_samples, crop_samples)].

  Raises:
    ValueError: As there. When run, a clip that cannot be decoded raises
      `tf.errors.InvalidArgumentError` with its id and why.
  """
  batch = {
    name: record[name][tf.newaxis]
    for name in ("id", "audio", "codec", "num_samples")
  }

  def decode(codec):
    waveforms, lengths, errors = decode_waveforms(
      batch,
      crop_samples=crop_samples,
      positions=None if position is None else position[tf.newaxis],
      codec=codec,
      decoder=decoder,
    )
    named = tf.strings.join(["clip ", batch["id"], ": ", errors])
    with tf.control_dependencies(refuse(tf.where(errors == "", "", named))):
      return waveforms[0, : lengths[0]]

  if codec:
    return decode(codec)
  return tf.cond(
    record["codec"] == "pcm16", lambda: decode("pcm16"), lambda: decode("flac")
  )


def refuse(errors: tf.Tensor) -> list[tf.Operation]:
  """An assertion that all of `errors`, string [batch], are empty.

  Returns:
    For `tf.control_dependencies`. When run, the first that is not empty is the
    message of a `tf.errors.InvalidArgumentError`.
  """
  first = tf.argmax(tf.cast(errors != "", tf.int32))
  check = tf.debugging.Assert(tf.reduce_all(errors == ""), [errors[first]])
  return [] if check is None else [check]


def _crop(num_samples, positions, crop_samples):
  """int64 [batch], the starts and lengths of crops; as `flac` does."""
  if crop_samples is None:
    return tf.zeros_like(num_samples), num_samples
  lengths = tf.minimum(num_samples, crop_samples)
  room = num_samples - lengths
  # float64: the product must not round up to room + 1.
  product = tf.cast(positions, tf.float64) * tf.cast(room + 1, tf.float64)
  starts = tf.where(positions < 0, room // 2, tf.cast(product, tf.int64))
  return starts, lengths


def _decode_pcm16(batch, positions, crop_samples):
  expected = batch["num_samples"]
  num_bytes = tf.cast(tf.strings.length(batch["audio"], "BYTE"), tf.int64)
  is_fine = (num_bytes == 2 * expected) & (expected > 0)
  reasons = tf.strings.join(
    [
      tf.strings.as_string(num_bytes),
      " bytes where ",
      tf.strings.as_string(expected),
      " samples belong",
    ]
  )
  usable = tf.where(is_fine, expected, 0)
  starts, lengths = _crop(usable, positions, crop_samples)
  longest = crop_samples or tf.maximum(tf.reduce_max(lengths), 1)
  crops = tf.strings.substr(batch["audio"], 2 * starts, 2 * lengths)
  waveforms = tf.io.decode_raw(
    crops, tf.int16, fixed_length=tf.cast(2 * longest, tf.int32)
  )
  return waveforms, lengths, tf.where(is_fine, "", reasons)


def _decode_flac(audio, num_samples, positions, crop_samples, decoder):
  """Reads the crops of FLAC files in memory; runs outside the graph."""
  max_samples = None if crop_samples < 0 else int(crop_samples)
  if max_samples is not None:
    waveforms = _aligned([len(audio), max_samples])
  crops, reasons = [], []
  for i, file in enumerate(audio):
    try:
      crop = flac.read(
        file,
        sample_rate_hz=SAMPLE_RATE_HZ,
        num_samples=None if num_samples[i] < 0 else int(num_samples[i]),
        max_samples=max_samples,
        position=None if positions[i] < 0 else float(positions[i]),
        decoder=decoder.decode(),
        out=None if max_samples is None else waveforms[i],
      )
      reason = b""
    except ValueError as e:
      crop, reason = np.zeros(0, np.int16), str(e).encode()
    crops.append(crop)
    reasons.append(reason)
  lengths = np.array([len(crop) for crop in crops], np.int64)
  if max_samples is None:
    waveforms = _aligned([len(crops), lengths.max()])
    for row, crop in zip(waveforms, crops):
      row[: len(crop)] = crop
  for row, length in zip(waveforms, lengths):
    row[length:] = 0
  return waveforms, lengths, np.array(reasons, object)


# tf.numpy_function numbers its functions as they come. Under a name of its own
# a graph's function is found in another process too, as `data_service` needs.
_DECODE_FLAC = "tf_audioset.records._decode_flac"
script_ops._py_funcs._funcs[_DECODE_FLAC] = _decode_flac


def _aligned(shape):
  """Uninitialised int16, at an address of which TensorFlow makes no copy."""
  size = int(np.prod(shape))
  memory = np.empty(size + 32, np.int16)
  skipped = -memory.ctypes.data % 64 // 2
  return memory[skipped : skipped + size].reshape(shape)


def _decode_flac_in_graph(batch, positions, crop_samples):
  import tensorflow_io as tfio  # Slow to import, and needed only here.

  def decode(clip):
    audio, expected, position = clip
    samples = tf.reshape(tfio.audio.decode_flac(audio, dtype=tf.int16), [-1])
    found = tf.size(samples, tf.int64)
    # It answers a broken file with an empty tensor and no error.
    is_fine = (found > 0) & ((found == expected) | (expected < 0))
    reason = tf.where(is_fine, "", "the length is not the record's")
    start, length = _crop(tf.where(is_fine, found, 0), position, crop_samples)
    crop = samples[start : start + length]
    if crop_samples is None:
      return crop, length, reason  # Of a batch of one: they cannot be stacked.
    return tf.pad(crop, [[0, crop_samples - length]]), length, reason

  return tf.map_fn(
    decode,
    (batch["audio"], batch["num_samples"], positions),
    fn_output_signature=(
      tf.TensorSpec([crop_samples], tf.int16),
      tf.TensorSpec([], tf.int64),
      tf.TensorSpec([], tf.string),
    ),
  )


def labels_to_multi_hot(
  labels: tf.RaggedTensor, num_classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
  """Indices to vectors.

  Args:
    labels: int64 [batch, ragged].
    num_classes: Width of the vectors.

  Returns:
    float32 [batch, num_classes], 1 where there is a label; string [batch], what
    is wrong with a clip's labels, else empty.
  """
  num_clips, rows = labels.nrows(), labels.value_rowids()
  least = tf.math.unsorted_segment_min(labels.values, rows, num_clips)
  most = tf.math.unsorted_segment_max(labels.values, rows, num_clips)
  # Where there is no label these are the ends of int64, in the wrong order.
  is_fine = (least > most) | ((least >= 0) & (most < num_classes))
  wrong = tf.strings.as_string(tf.where(least < 0, least, most))
  errors = tf.strings.join(
    [f"a label is not in 0 ... {num_classes - 1}: ", wrong]
  )
  is_known = (labels.values >= 0) & (labels.values < num_classes)
  places = tf.stack([rows, labels.values], axis=1)[is_known]
  # A label that is there twice would be 2.
  counts = tf.scatter_nd(
    places, tf.ones_like(places[:, 0], tf.float32), [num_clips, num_classes]
  )
  return tf.minimum(counts, 1.0), tf.where(is_fine, "", errors)


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
    """Some of the records."""
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
    """The records that follow are in the next file."""
    self._shard += 1
    self._offset = 0

  def add(self, num_bytes: int, clip_id: str | bytes = "") -> None:
    """Adds a record of `num_bytes`, the serialized example."""
    self._rows.append((self._shard, self._offset))
    self._ids.append(clip_id)
    self._offset += num_bytes + _RECORD_OVERHEAD_BYTES

  def build(self) -> Index:
    """The index of all that was added."""
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
    """int32 [n], the labels of one clip."""
    begin = self.label_ends[row - 1] if row else 0
    return self.labels[begin : self.label_ends[row]]

  def count_positives(self, num_classes: int) -> np.ndarray:
    """int64 [num_classes], the clips of each class."""
    return np.bincount(self.labels, minlength=num_classes)

  def take(self, rows: np.ndarray) -> ClipTable:
    """Some of the clips."""
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
      ValueError: If it is missing or broken.
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
    """The table of all that was added, at least one clip."""
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


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """What dataset_info.json says of a folder of records."""

  sample_rate_hz: int
  clip_seconds: float
  codec: str
  classes: labels_lib.ClassList
  splits: dict[str, SplitInfo]


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

  @property
  def needs_python(self) -> bool:
    """Whether reading the clips calls Python, or ops that are not TensorFlow's.

    A host in another machine, as a TPU node or pod has, can do neither.
    """
    return self.codec != "pcm16"

  def digest(self) -> str:
    """SHA-256, hexadecimal, of what the clips are and where they are stored."""
    digest = hashlib.sha256(f"{self.num_clips} {self.ids_sha256}".encode())
    if self.index is not None:
      digest.update(self.index.shard.tobytes() + self.index.offset.tobytes())
    return digest.hexdigest()

  def part(self, first: int, end: int) -> Split:
    """The clips whose `bucket` is at least `first` and below `end`.

    A clip's bucket depends on its id alone: it stays in its part when other
    clips are added.

    Raises:
      ValueError: If the clips have no ids, or none is in the part.
    """
    if self.index is None or self.index.bucket is None:
      raise ValueError(
        "this data cannot be divided by ids, which it does not have: prepare "
        "it again with tools/make_tfrecords.py."
      )
    buckets = self.index.bucket
    rows = np.flatnonzero((first <= buckets) & (buckets < end))
    index = self.index.take(rows)
    if not len(index):
      raise ValueError(
        f"no clip is in per cent {first} to {end} of the ids' hash: "
        f"{self.num_clips} clips are too few to be divided so."
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
      ValueError: If the table is missing, broken or not of these records.
    """
    if not self.clips_file:
      return None
    table = ClipTable.read(self.clips_file)
    if self.rows is not None and self.rows.max() < len(table):
      table = table.take(self.rows)
    if len(table) != self.num_clips or np.any(
      bucket(tf.constant(table.id)) != self.index.bucket
    ):
      raise ValueError(
        f"{self.clips_file}: of other clips than the records: of another "
        "preparation."
      )
    return table

  def locator(self):
    """A function from records' numbers to where they are stored.

    Returns:
      int64 [n] tensor, of 0 ... num_clips - 1 -> {"file": string [n], "offset":
      int64 [n], "id": string [n], empty if not known}, of which the first two
      are for `read_record`.

    Raises:
      ValueError: If there is no index.
    """
    if self.index is None:
      raise ValueError(f"{self.files[0]}: compressed shards have no index.")
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
  """All records of shards, from the beginning; as `TFRecordDataset`."""
  return untuned(
    tf.data.TFRecordDataset(
      files, compression, _PIECE_BYTES, num_parallel_reads
    )
  )


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """The dataset without TensorFlow's tuning while it runs.

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
  """String [...] to int64 [...], a hash in 0 ... 99 that never changes."""
  return tf.strings.to_hash_bucket_fast(ids, NUM_BUCKETS)


def write_dataset_info(data_dir: str, info: DatasetInfo) -> None:
  """Writes dataset_info.json at one stroke."""
  content = {
    "format_version": _FORMAT_VERSION,
    **dataclasses.asdict(info),
    "classes": info.classes.to_json(),
  }
  text = json.dumps(content, indent=1) + "\n"
  write_file(os.path.join(data_dir, INFO_FILE), text.encode())


def write_file(path: str, content: bytes) -> None:
  """Writes a file that is never seen half written."""
  temporary = f"{path}.tmp-{os.getpid()}"
  with tf.io.gfile.GFile(temporary, "wb") as file:
    file.write(content)
  tf.io.gfile.rename(temporary, path, overwrite=True)


def check_bucket(path: str) -> None:
  """Refuses a path in a bucket that is not there, which is to be written to.

  TensorFlow would try for ever to make a folder in it.

  Raises:
    ValueError: If the bucket is missing or does not answer.
  """
  bucket = re.match(r"\w+://[^/]+", path)
  if not bucket:
    return
  try:
    is_there = tf.io.gfile.exists(bucket[0])
  except tf.errors.PermissionDeniedError:
    return  # Who may not ask about the bucket may still write to it.
  except tf.errors.OpError as e:
    raise ValueError(f"{bucket[0]}: {messages.first_line(str(e))}") from e
  if not is_there:
    raise ValueError(f"{path}: there is no bucket {bucket[0]}: make it first.")


def read_dataset_info(data_dir: str) -> DatasetInfo | None:
  """Reads dataset_info.json; None where there is none.

  Raises:
    ValueError: If it is not of this format.
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
    return DatasetInfo(**content)
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise ValueError(
      f"{path}: not a description that this version can read ({e!r}); prepare "
      "the data again with tools/make_tfrecords.py."
    ) from e


def find_split(data_dir: str, split: str) -> Split:
  """Finds the shards of a split, ours or audax's.

  Args:
    data_dir: A folder with dataset_info.json; or one of audax's, with shards
      `<split>/*.tfrec*` and, for training, class_labels_indices.csv.
    split: Such as "train".

  Returns:
    The split.

  Raises:
    ValueError: If the folder, the split or a shard is not there.
  """
  info = read_dataset_info(data_dir)
  if info is None:
    return _find_audax_split(data_dir, split)
  if split not in info.splits:
    raise ValueError(
      f"{data_dir}: there is no split {split!r}; there are "
      f"{sorted(info.splits)}."
    )
  if info.codec not in audio_lib.CODECS:
    raise ValueError(
      f"{data_dir}: codec {info.codec!r}; readable are {audio_lib.CODECS}."
    )
  if info.sample_rate_hz != SAMPLE_RATE_HZ:
    raise ValueError(
      f"{data_dir}: records at {info.sample_rate_hz} Hz; {SAMPLE_RATE_HZ} Hz "
      "are needed."
    )
  shards = info.splits[split].shards
  files = [os.path.join(data_dir, shard["file"]) for shard in shards]
  with futures.ThreadPoolExecutor(_PARALLEL_LOOKS) as pool:
    sizes = list(pool.map(_num_bytes, files))
  for file, shard, num_bytes in zip(files, shards, sizes):
    if num_bytes is None:
      raise ValueError(
        f"{file}: this shard is listed in {INFO_FILE}, but missing."
      )
    if num_bytes != shard["num_bytes"]:
      raise ValueError(
        f"{file}: {num_bytes} bytes, where {INFO_FILE} says "
        f"{shard['num_bytes']}: a broken copy, or of another preparation."
      )
  index = _read_arrays(os.path.join(data_dir, info.splits[split].index), Index)
  if len(index) != info.splits[split].num_clips:
    raise ValueError(
      f"{data_dir}: {info.splits[split].index} has {len(index)} clips, where "
      f"{INFO_FILE} says {info.splits[split].num_clips}: of another "
      "preparation."
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
  )


def _write_arrays(path: str, arrays: Index | ClipTable) -> None:
  content = io.BytesIO()
  np.savez(
    content,
    **{k: v for k, v in vars(arrays).items() if v is not None},
  )
  write_file(path, content.getvalue())


def _read_arrays(path: str, kind: type[Index | ClipTable]):
  """The inverse of `_write_arrays`."""
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
    raise ValueError(
      f"{path}: which belongs to the records, is missing or broken; prepare "
      "the data again with tools/make_tfrecords.py."
    ) from e


def _num_bytes(path: str) -> int | None:
  try:
    return tf.io.gfile.stat(path).length
  except tf.errors.NotFoundError:
    return None


def _index_by_reading(files: Sequence[str], compression: str) -> Index:
  """The index of shards that have none; what it says is not compressed."""
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
      raise ValueError(
        f"{file}: broken, {number} records can be read: "
        f"{messages.first_line(e.message)}"
      ) from e
  return builder.build()


def _find_audax_split(data_dir, split):
  files = sorted(tf.io.gfile.glob(os.path.join(data_dir, split, "*.tfrec*")))
  if not files:
    raise ValueError(
      f"{data_dir}: no prepared data: neither {INFO_FILE}, which "
      f"tools/make_tfrecords.py writes, nor audax's {split}/*.tfrec."
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
