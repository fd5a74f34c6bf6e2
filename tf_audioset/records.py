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
that any record can be read without those before it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_audioset import audio as audio_lib
from tf_audioset import flac
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
# Read at once from a file: most records fit (a FLAC clip of 10 s is 215 kB).
_READ_BYTES = 1 << 18


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


def parse_example(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
  """A serialized record, ours or audax's, to its parts.

  Args:
    serialized: string scalar.

  Returns:
    "id" (string scalar, empty in audax's records), "audio" (string scalar),
    "labels" (int64 [n]), "codec" (string scalar), "num_samples" (int64 scalar,
    -1 in audax's records).
  """
  parsed = tf.io.parse_single_example(
    serialized,
    {
      "id": tf.io.FixedLenFeature([], tf.string, ""),
      "audio": tf.io.FixedLenFeature([], tf.string),
      "labels": tf.io.VarLenFeature(tf.int64),
      "label": tf.io.VarLenFeature(tf.int64),
      "codec": tf.io.FixedLenFeature([], tf.string, "flac"),
      "num_samples": tf.io.FixedLenFeature([], tf.int64, -1),
    },
  )
  ours, audaxs = parsed.pop("labels").values, parsed.pop("label").values
  return dict(parsed, labels=tf.concat([ours, audaxs], 0))


def decode_waveform(
  record: dict[str, tf.Tensor],
  *,
  crop_samples: int | None,
  position: tf.Tensor | None,
  codec: str = "",
  decoder: str = DECODERS[0],
) -> tf.Tensor:
  """Decodes a crop of a clip, and no more of it than needed.

  Args:
    record: From `parse_example`.
    crop_samples: Length of the crop; a shorter clip, or None, gives the whole.
    position: float32 scalar in [0, 1), where the crop lies between the
      beginning and the end; None for the exact middle.
    codec: "flac" or "pcm16" if all records are known to have that, see
      `Split.codec`. With "pcm16" the graph has TensorFlow's own ops only.
    decoder: "miniaudio" or "soundfile", see `flac.read`, or "tfio"
      (tensorflow-io, in the graph, decodes the whole clip).

  Returns:
    int16 [min(num_samples, crop_samples)].

  Raises:
    ValueError: If the decoder or codec is unknown. When run, a broken clip or
      one of another codec raises `tf.errors.OpError` with its id and why.
  """
  if codec not in ("", *audio_lib.CODECS):
    raise ValueError(f"codec {codec!r}: allowed are {audio_lib.CODECS}.")
  if decoder not in DECODERS:
    raise ValueError(
      f"Pipeline.decoder is {decoder!r}; allowed are {DECODERS}."
    )
  crop = tf.constant(-1 if crop_samples is None else crop_samples, tf.int64)
  # -1 stands for the middle.
  place = tf.constant(-1.0) if position is None else position

  def from_pcm16():
    wanted = record["num_samples"]
    num_bytes = tf.strings.length(record["audio"], "BYTE")
    checked = _with_check(
      record,
      tf.cast(num_bytes, tf.int64) == 2 * wanted,
      [num_bytes, "bytes where", wanted, "samples belong"],
    )
    samples = tf.io.decode_raw(checked["audio"], tf.int16)
    return _slice(samples, crop, place)

  def from_flac():
    if decoder == "tfio":
      return _slice(_decode_flac_in_graph(record), crop, place)
    return tf.numpy_function(
      functools.partial(_decode_flac, decoder=decoder),
      [record["id"], record["audio"], record["num_samples"], crop, place],
      tf.int16,
      stateful=False,
    )

  if codec:
    record = _with_check(
      record,
      record["codec"] == codec,
      [f"where all were said to be {codec}, the codec is", record["codec"]],
    )
    waveform = from_pcm16() if codec == "pcm16" else from_flac()
  else:
    waveform = tf.cond(record["codec"] == "pcm16", from_pcm16, from_flac)
  return tf.ensure_shape(waveform, [None])


def _with_check(record, condition, reason):
  """The record, whose audio is there only if the condition holds."""
  check = tf.debugging.Assert(
    condition, ["clip", record["id"], "cannot be decoded:", *reason]
  )
  with tf.control_dependencies([check] if check is not None else []):
    return dict(record, audio=tf.identity(record["audio"]))


def _slice(samples, crop, place):
  """The graph's twin of the choice of the crop in `flac`."""
  num_samples = tf.size(samples, tf.int64)
  crop = tf.where(crop < 0, num_samples, tf.minimum(crop, num_samples))
  room = num_samples - crop
  # float64: the product must not round up to room + 1.
  start = tf.where(
    place < 0,
    room // 2,
    tf.cast(
      tf.cast(place, tf.float64) * tf.cast(room + 1, tf.float64), tf.int64
    ),
  )
  return samples[start : start + crop]


def _decode_flac(clip_id, audio, num_samples, crop, place, decoder):
  """Reads the crop of a FLAC file in memory; runs outside the graph."""
  if not isinstance(audio, bytes):  # Executed eagerly: arrays of no dimension.
    clip_id, audio = clip_id.item(), audio.item()
  try:
    return flac.read(
      audio,
      sample_rate_hz=SAMPLE_RATE_HZ,
      num_samples=None if num_samples < 0 else int(num_samples),
      max_samples=None if crop < 0 else int(crop),
      position=None if place < 0 else float(place),
      decoder=decoder,
    )
  except ValueError as e:
    name = clip_id.decode() or "(a record without an id)"
    raise ValueError(f"clip {name}: cannot be decoded: {e}") from None


def _decode_flac_in_graph(record):
  import tensorflow_io as tfio  # Slow to import, and needed only here.

  samples = tfio.audio.decode_flac(record["audio"], dtype=tf.int16)
  # It answers a broken file with an empty tensor and no error.
  check = tf.debugging.assert_positive(
    tf.size(samples), message="a clip cannot be decoded", summarize=0
  )
  with tf.control_dependencies([check] if check is not None else []):
    return tf.reshape(samples, [-1])


def labels_to_multi_hot(labels: tf.Tensor, num_classes: int) -> tf.Tensor:
  """int64 [n] to float32 [num_classes]; an index out of range is an error."""
  in_range = tf.reduce_all((labels >= 0) & (labels < num_classes))
  check = tf.debugging.Assert(
    in_range, [f"a label is not in 0 ... {num_classes - 1}:", labels]
  )
  with tf.control_dependencies([check] if check is not None else []):
    return tf.reduce_max(
      tf.concat(
        [tf.one_hot(labels, num_classes), tf.zeros([1, num_classes])], 0
      ),
      axis=0,
    )


@dataclasses.dataclass(frozen=True)
class Index:
  """Where the records of a split are, in the order of its shards."""

  shard: np.ndarray  # int32 [num_clips], index into the split's files.
  offset: np.ndarray  # int64 [num_clips], bytes before the record.
  bucket: np.ndarray | None  # uint8 [num_clips], see `bucket`; None: no ids.

  def __len__(self) -> int:
    return len(self.offset)

  def take(self, rows: np.ndarray) -> Index:
    """Some of the records."""
    bucket = None if self.bucket is None else self.bucket[rows]
    return Index(self.shard[rows], self.offset[rows], bucket)

  def write(self, path: str) -> None:
    """Writes SPLIT.index.npz at one stroke."""
    arrays = dataclasses.asdict(self)
    content = io.BytesIO()
    np.savez(content, **{k: v for k, v in arrays.items() if v is not None})
    write_file(path, content.getvalue())


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
class SplitInfo:
  """One split in dataset_info.json."""

  num_clips: int
  total_seconds: float
  shards: list[
    dict[str, int | str]
  ]  # {"file", "num_clips", "num_bytes"} of each.
  ids_sha256: str  # Of the sorted ids, joined by newlines.
  index: str  # File of the `Index`.


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
  codec: str = ""  # "flac" or "pcm16"; empty: each record says.

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
    index = self.index.take(
      np.flatnonzero((first <= buckets) & (buckets < end))
    )
    if not len(index):
      raise ValueError(
        f"no clip is in per cent {first} to {end} of the ids' hash: "
        f"{self.num_clips} clips are too few to be divided so."
      )
    return dataclasses.replace(self, num_clips=len(index), index=index)

  def reader(self):
    """A function from a record's number to the serialized record.

    Returns:
      int64 scalar tensor in 0 ... num_clips - 1 -> string scalar tensor. To be
      used inside a `Dataset.map`. When run, a broken record raises
      `tf.errors.DataLossError`.

    Raises:
      ValueError: If there is no index.
    """
    if self.index is None:
      raise ValueError(f"{self.files[0]}: compressed shards have no index.")
    files = tf.constant(self.files)
    shard, offset = map(tf.constant, (self.index.shard, self.index.offset))

    def read(number):
      # The op behind TFRecordDataset; only it can begin inside a file.
      here = tf.raw_ops.TFRecordDatasetV2(
        filenames=files[shard[number], tf.newaxis],
        compression_type="",
        buffer_size=_READ_BYTES,
        byte_offsets=offset[number, tf.newaxis],
      )
      return tf.raw_ops.DatasetToSingleElement(
        dataset=tf.raw_ops.TakeDataset(
          input_dataset=here,
          count=1,
          output_types=[tf.string],
          output_shapes=[[]],
        ),
        output_types=[tf.string],
        output_shapes=[[]],
      )[0]

    return read


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
  for file, shard in zip(files, shards):
    if not tf.io.gfile.exists(file):
      raise ValueError(
        f"{file}: this shard is listed in {INFO_FILE}, but missing."
      )
    num_bytes = tf.io.gfile.stat(file).length
    if num_bytes != shard["num_bytes"]:
      raise ValueError(
        f"{file}: {num_bytes} bytes, where {INFO_FILE} says "
        f"{shard['num_bytes']}: a broken copy, or of another preparation."
      )
  index = _read_index(os.path.join(data_dir, info.splits[split].index))
  if len(index) != info.splits[split].num_clips:
    raise ValueError(
      f"{data_dir}: {info.splits[split].index} has {len(index)} clips, where "
      f"{INFO_FILE} says {info.splits[split].num_clips}: of another "
      "preparation."
    )
  return Split(
    files,
    len(index),
    "",
    info.classes,
    index,
    info.splits[split].ids_sha256,
    info.codec,
  )


def _read_index(path: str) -> Index:
  try:
    with tf.io.gfile.GFile(path, "rb") as file:
      arrays = np.load(io.BytesIO(file.read()))
    return Index(arrays["shard"], arrays["offset"], arrays.get("bucket"))
  except (tf.errors.OpError, OSError, ValueError, KeyError, EOFError) as e:
    raise ValueError(
      f"{path}: the index of the records is missing or broken; prepare the "
      "data again with tools/make_tfrecords.py."
    ) from e


def _index_by_reading(files: Sequence[str]) -> Index:
  """The index of uncompressed shards that have none."""
  builder = IndexBuilder()
  for file in files:
    builder.next_shard()
    lengths = tf.data.TFRecordDataset(file).map(tf.strings.length)
    for length in lengths.as_numpy_iterator():
      builder.add(int(length))
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
  index = None if compression else _index_by_reading(files)
  if index is None:
    num_clips = sum(1 for _ in tf.data.TFRecordDataset(files, compression))
  else:
    num_clips = len(index)
  table = os.path.join(data_dir, "class_labels_indices.csv")
  classes = None
  if tf.io.gfile.exists(table):
    classes = labels_lib.ClassList.from_csv(table)
  return Split(files, num_clips, compression, classes, index, codec="flac")
