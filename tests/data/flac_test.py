# SPDX-License-Identifier: Apache-2.0
"""Crops of FLAC files, against the samples that were written."""

import io

import numpy as np
import pytest
import soundfile

from tf_audioset.data import flac

_BLOCK = 4096  # libFLAC's, up to 48 kHz.
_SAMPLES = (
  np.random.default_rng(0).normal(0, 900, 10 * _BLOCK + 77).astype(np.int16)
)


def _encode(samples, rate_hz=16000, subtype="PCM_16", **options):
  buffer = io.BytesIO()
  soundfile.write(buffer, samples, rate_hz, subtype, format="FLAC", **options)
  return buffer.getvalue()


def _read(audio, **kwargs):
  return flac.read(audio, sample_rate_hz=16000, **kwargs)


def _position(start, max_samples, num_samples=10 * _BLOCK + 77):
  return (start + 0.5) / (num_samples - max_samples + 1)


def _no_soundfile(monkeypatch):
  def refuse(_):
    raise AssertionError("libsndfile was asked")

  monkeypatch.setattr(flac.soundfile, "SoundFile", refuse)


@pytest.mark.parametrize(
  ("start", "length"),
  [
    (0, 1),
    (0, _BLOCK),
    (_BLOCK - 1, 2),
    (_BLOCK, _BLOCK),
    (5 * _BLOCK + 3, 3 * _BLOCK),
    (9 * _BLOCK, _BLOCK),  # The last whole frame.
    (9 * _BLOCK + 1, _BLOCK),
    (10 * _BLOCK + 76, 1),
    (0, len(_SAMPLES)),
  ],
)
def test_crops_that_begin_and_end_at_and_within_frames(
  monkeypatch, start, length
):
  audio = _encode(_SAMPLES)
  _no_soundfile(monkeypatch)
  position = _position(start, length)
  samples = _read(audio, max_samples=length, position=position)
  assert samples.dtype == np.int16
  np.testing.assert_array_equal(samples, _SAMPLES[start : start + length])
  row = np.full(length + 2, 7, np.int16)
  part = _read(audio, max_samples=length, position=position, out=row)
  np.testing.assert_array_equal(row[:length], samples)
  assert (row[length:] == 7).all() and part.base is row


@pytest.mark.parametrize(
  "num_samples", [1, 15, 77, 4095, 4096, 4097, 8192, 12345, 160000]
)
@pytest.mark.parametrize("kind", ["noise", "silence", "loud", "tone"])
def test_files_of_any_length_and_kind(monkeypatch, num_samples, kind):
  rng = np.random.default_rng(num_samples)
  samples = {
    "noise": rng.normal(0, 300, num_samples),
    "silence": np.zeros(num_samples),
    "loud": rng.integers(-32768, 32768, num_samples),
    "tone": 9000 * np.sin(np.arange(num_samples) / 7),
  }[kind].astype(np.int16)
  audio = _encode(samples)
  _no_soundfile(monkeypatch)
  np.testing.assert_array_equal(_read(audio), samples)
  length = (num_samples + 1) // 2
  for start in rng.integers(0, num_samples - length + 1, 5):
    crop = _read(
      audio,
      max_samples=length,
      position=_position(start, length, num_samples),
    )
    np.testing.assert_array_equal(crop, samples[start : start + length])
  room = num_samples - length
  middle = _read(audio, max_samples=length)
  np.testing.assert_array_equal(middle, samples[room // 2 :][:length])


@pytest.mark.parametrize("decoder", flac.DECODERS)
def test_what_dr_flac_is_not_given_is_read_all_the_same(decoder):
  wide = (_SAMPLES.astype(np.int32)) << 16
  audio = _encode(wide, subtype="PCM_24")
  samples = _read(audio, max_samples=5000, position=0.5, decoder=decoder)
  start = int(0.5 * (len(_SAMPLES) - 5000 + 1))
  np.testing.assert_array_equal(samples, _SAMPLES[start : start + 5000])


def _damaged(audio, rng):
  """A few flipped bits in a row, or a piece cut out, added or moved."""
  audio = bytearray(audio)
  # A quarter of the damage is in what stands before the first frame.
  place = int(rng.integers(len(audio) if rng.uniform() < 0.75 else 60))
  kind = rng.integers(8)
  if kind == 0:
    del audio[place : place + int(rng.integers(1, 6000))]
  elif kind == 1:
    audio[place:place] = rng.bytes(int(rng.integers(1, 100)))
  elif kind == 2:
    audio[place:place] = audio[place : place + 3000]
  elif kind == 3:
    audio = audio[:place]
  else:
    for bit in range(int(rng.integers(1, 9))):
      if place + bit // 8 < len(audio):
        audio[place + bit // 8] ^= int(rng.integers(1, 256))
  return bytes(audio)


@pytest.mark.parametrize("kind", ["noise", "periodic", "silence"])
@pytest.mark.parametrize("decoder", flac.DECODERS)
def test_damage_is_an_error_or_outside_the_crop(decoder, kind):
  # A period of one block, and silence, hide a frame that is left out.
  original = {
    "noise": _SAMPLES,
    "periodic": np.resize(_SAMPLES[:_BLOCK], len(_SAMPLES)),
    "silence": np.zeros_like(_SAMPLES),
  }[kind]
  audio = _encode(original)
  rng = np.random.default_rng(1)
  num_errors = 0
  for _ in range(500):
    length = int(rng.integers(1, 5 * _BLOCK))
    start = int(rng.integers(len(original) - length + 1))
    position = _position(start, length)
    try:
      samples = _read(
        _damaged(audio, rng),
        num_samples=len(original),
        max_samples=length,
        position=position,
        decoder=decoder,
      )
    except ValueError as e:
      assert str(e)
      num_errors += 1
    else:
      np.testing.assert_array_equal(samples, original[start : start + length])
  assert num_errors > 50


def test_a_frame_that_dr_flac_would_pass_over_is_an_error():
  audio = bytearray(_encode(_SAMPLES))
  audio[len(audio) // 2] ^= 1
  with pytest.raises(ValueError):
    _read(bytes(audio), max_samples=8 * _BLOCK)
  # Outside the crop it does not matter.
  start = 8 * _BLOCK
  samples = _read(
    bytes(audio), max_samples=1000, position=_position(start, 1000)
  )
  np.testing.assert_array_equal(samples, _SAMPLES[start : start + 1000])
