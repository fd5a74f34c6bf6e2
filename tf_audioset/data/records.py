# SPDX-License-Identifier: Apache-2.0
"""The `tf.Example` of a clip.

A record has the features

  id              bytes, the clip's name
  audio           bytes: a FLAC file, or little-endian int16 samples
  labels          int64 list, indices into the class list
  codec           bytes, "flac" or "pcm16"
  num_samples     int64
  sample_rate_hz  int64

Records made by audax (`audio` as FLAC, `label`, `duration`; no id; ZLIB) are
read as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_audioset.data import audio as audio_lib
from tf_audioset.data import flac
from tf_audioset.runtime import tf_internals

SAMPLE_RATE_HZ = 16000
DECODERS = (*flac.DECODERS, "tfio")  # Of FLAC; the first is the default.


def serialize_example(
  clip_id: str,
  samples: np.ndarray,
  labels: Sequence[int],
  codec: str = "flac",
) -> bytes:
  """Serializes a clip as `tf.Example`; samples are int16 [num_samples]."""
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
  """Serializes what `audio.encode` made, as `serialize_example` does."""

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
  """Parses serialized records, ours or audax's.

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
  """Parses one record, a string scalar, as `parse_examples` does a batch."""
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
  """Decodes one clip of `parse_example`, as `decode_waveforms` a batch.

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
  """Returns an assertion that all of `errors`, string [batch], are empty.

  Returns:
    For `tf.control_dependencies`. When run, the first that is not empty is the
    message of a `tf.errors.InvalidArgumentError`.
  """
  first = tf.argmax(tf.cast(errors != "", tf.int32))
  check = tf.debugging.Assert(tf.reduce_all(errors == ""), [errors[first]])
  return [] if check is None else [check]


def _crop(num_samples, positions, crop_samples):
  """Computes starts and lengths of crops, int64 [batch], as `flac` does."""
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


# Found in other processes too, as `data.service` needs.
_DECODE_FLAC = tf_internals.name_numpy_function(
  "tf_audioset.records._decode_flac", _decode_flac
)


def _aligned(shape):
  """Allocates int16 at an address of which TensorFlow makes no copy."""
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
