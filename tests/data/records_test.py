# SPDX-License-Identifier: Apache-2.0
"""Records, ours and audax's, against soundfile and slices."""

import io
import re

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from tf_audioset.data import audio as audio_lib
from tf_audioset.data import prepared, records

_SAMPLES = np.random.default_rng(0).integers(-9000, 9000, 5000).astype(np.int16)


def _decode(codec, decoder, crop_samples=None, position=None):
  record = records.parse_example(
    records.serialize_example("clip", _SAMPLES, [2, 0], codec)
  )
  return records.decode_waveform(
    record, crop_samples=crop_samples, position=position, decoder=decoder
  ).numpy()


_PATHS = [
  ("flac", "miniaudio"),
  ("flac", "soundfile"),
  ("flac", "tfio"),
  ("pcm16", "miniaudio"),
]


@pytest.mark.parametrize(("codec", "decoder"), _PATHS)
def test_every_decoder_gives_the_exact_samples_and_crops(codec, decoder):
  np.testing.assert_array_equal(_decode(codec, decoder), _SAMPLES)
  # 4001 starts are possible: position * 4001, rounded down.
  for position, start in ((0.0, 0), (0.25, 1000), (0.99999994, 4000)):
    crop = _decode(codec, decoder, 1000, tf.constant(position))
    np.testing.assert_array_equal(crop, _SAMPLES[start : start + 1000])
  centre = _decode(codec, decoder, 1001)
  np.testing.assert_array_equal(centre, _SAMPLES[1999:3000])
  longer = _decode(codec, decoder, 6000, tf.constant(0.7))
  np.testing.assert_array_equal(longer, _SAMPLES)


def test_audio_that_ends_in_zero_bytes_keeps_them():
  # NumPy's bytes type drops them, and so breaks one FLAC file in 256.
  for first in range(20000):
    samples = np.arange(first, first + 50, dtype=np.int16)
    audio = _flac(samples)
    if audio.endswith(b"\0"):
      break
  record = records.parse_example(
    records.serialize_encoded("zero", audio, 50, [0], "flac")
  )

  @tf.function
  def decode():
    return records.decode_waveform(record, crop_samples=None, position=None)

  assert audio.endswith(b"\0")
  np.testing.assert_array_equal(decode(), samples)


def test_id_and_labels_are_read_back():
  record = records.parse_example(
    records.serialize_example("clip", _SAMPLES, [2, 0])
  )
  assert record["id"] == b"clip"
  np.testing.assert_array_equal(record["labels"], [2, 0])


def test_labels_become_multi_hot_vectors_and_strangers_are_told():
  labels = tf.ragged.constant([[], [2, 2], [1, 3], [0], [-1]], dtype=tf.int64)
  hot, errors = records.labels_to_multi_hot(labels, 4)
  np.testing.assert_array_equal(
    hot, [[0] * 4, [0, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0] * 4]
  )
  assert errors[:4].numpy().tolist() == [b""] * 4
  assert errors[4] == b"a label is not in 0 ... 3: -1"
  _, errors = records.labels_to_multi_hot(labels, 3)
  assert errors[2] == b"a label is not in 0 ... 2: 3"


def _flac(samples, rate_hz=16000):
  buffer = io.BytesIO()
  soundfile.write(buffer, samples, rate_hz, "PCM_16", format="FLAC")
  return buffer.getvalue()


@pytest.mark.parametrize(
  ("audio", "message"),
  [
    (b"", "cannot be decoded"),
    (_flac(_SAMPLES)[:3000], "cannot be decoded"),
    (_flac(_SAMPLES, 8000), "8000 Hz"),
    (_flac(np.stack([_SAMPLES, _SAMPLES], 1)), "2 channels"),
  ],
)
def test_a_broken_clip_is_named(audio, message):
  record = records.parse_example(
    records.serialize_encoded("bad7", audio, 5000, [0], "flac")
  )

  @tf.function
  def decode():
    return records.decode_waveform(record, crop_samples=None, position=None)

  with pytest.raises(tf.errors.OpError, match=f"clip bad7.*{message}"):
    decode()


@pytest.mark.parametrize(
  ("stored", "said", "message"),
  [
    ("flac", "pcm16", "said to be pcm16.*flac"),
    ("pcm16", "flac", "said to be flac.*pcm16"),
  ],
)
def test_a_record_of_another_codec_is_an_error(stored, said, message):
  record = records.parse_example(
    records.serialize_example("other9", _SAMPLES, [0], stored)
  )

  @tf.function
  def decode():
    return records.decode_waveform(
      record, crop_samples=None, position=None, codec=said
    )

  with pytest.raises(tf.errors.InvalidArgumentError, match="other9") as error:
    decode()
  assert re.search(message, str(error.value), re.DOTALL)


@pytest.mark.parametrize("codec", ["flac", "pcm16"])
def test_another_length_than_the_record_says_is_an_error(codec):
  audio = audio_lib.encode(_SAMPLES[:-1], 16000, codec)
  record = records.parse_example(
    records.serialize_encoded("short4", audio, 5000, [0], codec)
  )

  @tf.function
  def decode():
    return records.decode_waveform(record, crop_samples=99, position=None)

  with pytest.raises(tf.errors.InvalidArgumentError, match="short4"):
    decode()


def _write_audax(folder, compression):
  """As audax's script does, in its feature names."""
  for shard in range(2):
    path = folder / "train" / f"file_{shard:05}-00002_bytes_compressed.tfrec"
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
      feature = {
        "audio": tf.train.Feature(
          bytes_list=tf.train.BytesList(value=[_flac(_SAMPLES)])
        ),
        "label": tf.train.Feature(
          int64_list=tf.train.Int64List(value=[shard, 2])
        ),
        "duration": tf.train.Feature(int64_list=tf.train.Int64List(value=[0])),
      }
      features = tf.train.Features(feature=feature)
      writer.write(tf.train.Example(features=features).SerializeToString())


def test_an_unknown_decoder_is_refused():
  with pytest.raises(ValueError, match="'ffmpeg'.*'miniaudio'"):
    _decode("flac", "ffmpeg")


@pytest.mark.parametrize("compression", ["", "ZLIB"])
def test_audaxs_own_records_are_read(tmp_path, compression):
  _write_audax(tmp_path, compression)
  (tmp_path / "class_labels_indices.csv").write_text(
    "index,mid,display_name\n0,/m/a,A\n1,/m/b,B\n2,/m/c,C\n"
  )
  split = prepared.find_split(str(tmp_path), "train")
  assert (split.num_clips, split.compression) == (2, compression)
  assert split.classes.names == ("A", "B", "C")
  dataset = tf.data.TFRecordDataset(split.files, split.compression)
  for shard, serialized in enumerate(dataset):
    record = records.parse_example(serialized)
    assert record["labels"].numpy().tolist() == [shard, 2]
    assert record["id"] == b""
    waveform = records.decode_waveform(record, crop_samples=None, position=None)
    np.testing.assert_array_equal(waveform, _SAMPLES)
