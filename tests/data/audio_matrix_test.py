# SPDX-License-Identifier: Apache-2.0
"""Containers x codecs x damages, compared with what went into the encoder.

Where both can, the other library decodes the file as well.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import NamedTuple

import av
import numpy as np
import pytest
import soundfile
import soxr

from tests import sounds
from tf_audioset.data import audio

_RATE_HZ = 44100
_SECONDS = 1.2
# Encoders pad to whole frames and put a delay in front, not all of them tell.
_PADDING_SECONDS = 0.08


class _Kind(NamedTuple):
  make: Callable[[np.ndarray], bytes]
  rate_hz: int = _RATE_HZ
  num_channels: int = 2
  # The greatest error of a sample; None if it is a lossy codec.
  error: float | None = None
  # Whether a file that was cut off cannot be told from a shorter one.
  is_endless: bool = False
  # Whether it is read from the first frame that is found.
  has_frames: bool = False
  # Whether the index is at the end.
  is_indexed_at_end: bool = False
  # Whether libsndfile and FFmpeg both decode it, to the same samples.
  is_for_both: bool = False


def _sndfile(container, subtype, error=2e-4, **kwargs):
  rate_hz = 8000 if subtype.startswith(("GSM", "G72")) else _RATE_HZ
  num_channels = 1 if rate_hz == 8000 else 2
  return _Kind(
    lambda channels: sounds.write(container, subtype, channels, rate_hz),
    rate_hz,
    num_channels,
    error,
    **kwargs,
  )


def _ffmpeg(container, codec, *, options=None, to_pipe=False, **kwargs):
  rate_hz = kwargs.setdefault("rate_hz", _RATE_HZ)
  return _Kind(
    lambda channels: sounds.encode(
      container, codec, channels, rate_hz, options=options, to_pipe=to_pipe
    ),
    **kwargs,
  )


_NO_TAGS = {"write_xing": "0", "id3v2_version": "0"}
_FRAGMENTS = {
  "movflags": "frag_keyframe+empty_moov+default_base_moof",
  "frag_duration": "200000",
}
_KINDS = {
  "wav u8": _sndfile("WAV", "PCM_U8", 0.01, is_for_both=True),
  "wav s16": _sndfile("WAV", "PCM_16", is_for_both=True),
  "wav s24": _sndfile("WAV", "PCM_24", is_for_both=True),
  "wav s32": _sndfile("WAV", "PCM_32", is_for_both=True),
  "wav f32": _sndfile("WAV", "FLOAT", is_for_both=True),
  "wav f64": _sndfile("WAV", "DOUBLE", is_for_both=True),
  "wav alaw": _sndfile("WAV", "ALAW", 0.02, is_for_both=True),
  "wav ulaw": _sndfile("WAV", "ULAW", 0.02, is_for_both=True),
  "wav ima": _sndfile("WAV", "IMA_ADPCM", None),
  "wav ms": _sndfile("WAV", "MS_ADPCM", None),
  "wav gsm": _sndfile("WAV", "GSM610", None),
  "wav yamaha": _ffmpeg("wav", "adpcm_yamaha"),
  "wav mp3": _ffmpeg("wav", "libmp3lame"),
  "wav extensible": _sndfile("WAVEX", "PCM_24", is_for_both=True),
  "rf64": _sndfile("RF64", "PCM_16", is_for_both=True),
  "w64": _sndfile("W64", "PCM_16", is_for_both=True),
  "aiff": _sndfile("AIFF", "PCM_16", is_for_both=True),
  "aiff f32": _sndfile("AIFF", "FLOAT", is_for_both=True),
  "au": _sndfile("AU", "PCM_16", is_for_both=True),
  "caf": _sndfile("CAF", "PCM_24", is_for_both=True),
  "caf alac": _sndfile("CAF", "ALAC_16", is_indexed_at_end=True),
  "flac": _sndfile("FLAC", "PCM_16", is_for_both=True),
  "flac 24": _sndfile("FLAC", "PCM_24", is_for_both=True),
  "ogg vorbis": _sndfile("OGG", "VORBIS", None, is_for_both=True),
  "opus": _ffmpeg("opus", "libopus", rate_hz=48000, is_for_both=True),
  "mp3": _ffmpeg("mp3", "libmp3lame", has_frames=True, is_for_both=True),
  "mp3 from a pipe": _ffmpeg(
    "mp3",
    "libmp3lame",
    options=_NO_TAGS,
    to_pipe=True,
    is_endless=True,
    has_frames=True,
  ),
  "mp2": _ffmpeg("mp2", "mp2", is_endless=True, has_frames=True),
  "aac": _ffmpeg("adts", "aac", is_endless=True, has_frames=True),
  "m4a": _ffmpeg("ipod", "aac", is_indexed_at_end=True),
  "m4a to be streamed": _ffmpeg(
    "ipod", "aac", options={"movflags": "faststart"}
  ),
  "m4a in fragments": _ffmpeg("ipod", "aac", options=_FRAGMENTS),
  "m4a alac": _ffmpeg("ipod", "alac", error=2e-4, is_indexed_at_end=True),
  "mp4 opus": _ffmpeg("mp4", "libopus", rate_hz=48000, is_indexed_at_end=True),
  "mov pcm": _ffmpeg("mov", "pcm_s16le", error=2e-4, is_indexed_at_end=True),
  "webm": _ffmpeg("webm", "libopus", rate_hz=48000),
  "webm from a pipe": _ffmpeg(
    "webm", "libopus", rate_hz=48000, to_pipe=True, is_endless=True
  ),
  "mka aac": _ffmpeg("matroska", "aac"),
  "mka pcm": _ffmpeg("matroska", "pcm_s16le", error=2e-4),
  "wma": _ffmpeg("asf", "wmav2"),
  "avi pcm": _ffmpeg("avi", "pcm_s16le", error=2e-4),
  "avi mp3": _ffmpeg("avi", "libmp3lame"),
  "flv": _ffmpeg("flv", "libmp3lame", is_endless=True),
  "mpeg ts": _ffmpeg("mpegts", "aac", is_endless=True),
  "ac3": _ffmpeg("ac3", "ac3", is_endless=True),
  "tta": _ffmpeg("tta", "tta", error=2e-4),
}
_JUNK = np.random.default_rng(0).bytes(6000)


@functools.lru_cache(None)
def _sound(name) -> tuple[bytes, np.ndarray]:
  """The file, and what it holds: float32 [num_samples] at 16 kHz."""
  kind = _KINDS[name]
  channels = sounds.chirp(_SECONDS, kind.rate_hz, kind.num_channels)
  try:
    content = kind.make(channels)
  except (av.FFmpegError, ValueError) as e:
    pytest.skip(f"this FFmpeg has no such encoder: {e}")
  expected = soxr.resample(channels.mean(1), kind.rate_hz, 16000, quality="HQ")
  return content, expected


@functools.lru_cache(None)
def _whole(name) -> np.ndarray:
  return _read(_sound(name)[0]).waveform


def _read(content, **kwargs) -> audio.Decoded:
  return audio.read(
    "sound", sample_rate_hz=16000, content=bytes(content), **kwargs
  )


# By the first words of the kinds' names, where they are not the containers'.
_CONTAINERS = {
  "opus": "ogg",
  "mp2": "mp3",
  "aac": "adts",
  **dict.fromkeys(("m4a", "mp4", "mov"), "mp4"),
  **dict.fromkeys(("webm", "mka"), "matroska"),
  "wma": "asf",
  "mpeg": "mpegts",
}


@pytest.mark.parametrize("name", _KINDS)
def test_the_first_bytes_tell_the_container(name):
  content, _ = _sound(name)
  first = name.split()[0]
  container = _CONTAINERS.get(first, first)
  assert audio.container_of(content[:4096]) == container
  tag = b"ID3\4\0\0\0\0\1\0" + bytes(128)
  assert audio.container_of((tag + content)[:4096]) == container
  assert audio.container_of(content[:3]) in (container, None)


@pytest.mark.parametrize("name", _KINDS)
def test_a_whole_file_is_what_was_encoded(tmp_path, name):
  content, expected = _sound(name)
  path = tmp_path / "a file.txt"  # The name says nothing.
  path.write_bytes(content)
  decoded = audio.read(path, sample_rate_hz=16000)
  waveform = decoded.waveform
  error = _KINDS[name].error
  if error is None:
    assert 0 <= len(waveform) - len(expected) + 16000 * _PADDING_SECONDS
    assert len(waveform) - len(expected) <= 16000 * _PADDING_SECONDS
    assert sounds.likeness(waveform, expected) > 0.9
  else:
    assert len(waveform) == len(expected)
    np.testing.assert_allclose(waveform, expected, atol=error)
  assert decoded.seconds == pytest.approx(len(waveform) / 16000, abs=1e-4)
  assert decoded.remarks == ()
  # Where nothing is stated, FFmpeg's estimate; it has none of streams.
  if name != "webm from a pipe":
    length = audio.duration_seconds(path)
    assert length == pytest.approx(decoded.seconds, rel=0.2)
  remarks = []
  blocks = audio.read_blocks(
    path, sample_rate_hz=16000, block_seconds=0.3, remarks=remarks
  )
  np.testing.assert_allclose(np.concatenate([*blocks]), waveform, atol=1e-5)
  assert remarks == []
  np.testing.assert_array_equal(_read(content).waveform, waveform)


@pytest.mark.parametrize(
  "name", [name for name, kind in _KINDS.items() if kind.is_for_both]
)
def test_the_other_library_decodes_the_same(name):
  content, _ = _sound(name)
  if name in ("ogg vorbis", "opus", "mp3"):
    channels, rate_hz = soundfile.read(io.BytesIO(content), always_2d=True)
  else:
    with av.open(io.BytesIO(content)) as file:
      stream = file.streams.audio[0]
      converter = av.AudioResampler("fltp", "stereo", stream.rate)
      frames = [
        f for frame in file.decode(stream) for f in converter.resample(frame)
      ]
      channels = np.concatenate([f.to_ndarray() for f in frames], axis=1).T
      rate_hz = stream.rate
  expected = soxr.resample(channels.mean(1), rate_hz, 16000, quality="HQ")
  np.testing.assert_allclose(_whole(name), expected, atol=2e-4)


@pytest.mark.parametrize("name", _KINDS)
def test_of_a_file_that_was_cut_off_is_told(name):
  content, expected = _sound(name)
  kind = _KINDS[name]
  cut = content[: int(0.6 * len(content))]
  if kind.is_endless:
    decoded = _read(cut)
    assert decoded.seconds == pytest.approx(0.6 * _SECONDS, abs=0.25)
    num = len(decoded.waveform) - 1600
    error = np.abs(decoded.waveform[:num] - _whole(name)[:num]).max()
    assert error < 0.02
  else:
    message = (
      "is cut off|was it cut off|only [01].[0-9] of 1.[0-3] s|"
      "[56][0-9]% of its samples"
    )
    with pytest.raises(audio.AudioError, match=f"^sound: .*({message})"):
      _read(cut)
  # Pages of Ogg and frames of TTA are about as long as that.
  if kind.is_indexed_at_end or name in ("ogg vorbis", "opus", "tta"):
    return
  # What is kept is whole.
  begin = _read(cut, max_seconds=0.3).waveform
  assert len(begin) == 4800
  np.testing.assert_allclose(begin, _whole(name)[:4800], atol=1e-4)


@pytest.mark.parametrize("name", _KINDS)
def test_joined_files_are_read_to_the_end_of_the_last(name):
  content, expected = _sound(name)
  decoded = _read(content + content)
  waveform = decoded.waveform
  assert len(waveform) == pytest.approx(2 * len(_whole(name)), abs=900)
  half = len(waveform) // 2
  assert sounds.likeness(waveform[:half], expected) > 0.9
  assert sounds.likeness(waveform[half:], expected) > 0.9
  assert decoded.seconds == pytest.approx(len(waveform) / 16000, abs=1e-3)


@pytest.mark.parametrize("name", _KINDS)
@pytest.mark.parametrize("junk", ["noise", "zeros", "ID3v1", "APE"])
def test_what_is_behind_a_file_is_no_sound(name, junk):
  content, expected = _sound(name)
  behind = {
    "noise": _JUNK,
    "zeros": bytes(9000),
    "ID3v1": b"TAG" + bytes(125),
    "APE": b"APETAGEX" + bytes(24) + _JUNK,
  }[junk]
  waveform = _read(content + behind).waveform
  whole = _whole(name)
  assert len(waveform) == pytest.approx(len(whole), abs=900)
  num = min(len(whole), len(waveform)) - 600
  np.testing.assert_allclose(waveform[:num], whole[:num], atol=1e-4)


@pytest.mark.parametrize("name", _KINDS)
@pytest.mark.parametrize("junk", [_JUNK, bytes(9000)], ids=["noise", "zeros"])
def test_junk_before_is_passed_over_or_refused(name, junk):
  content, expected = _sound(name)
  if _KINDS[name].has_frames:
    waveform = _read(junk + content).waveform
    np.testing.assert_allclose(waveform, _whole(name), atol=1e-4)
  # Packets of one are found anywhere; in the other, a chain of mp3 frames is.
  elif name not in ("mpeg ts", "wav mp3"):
    with pytest.raises(audio.AudioError, match="^sound: cannot be read"):
      _read(junk + content)


@pytest.mark.parametrize(
  "name", [name for name, kind in _KINDS.items() if kind.has_frames]
)
def test_junk_in_the_middle_costs_a_few_frames(name):
  content, expected = _sound(name)
  half = len(content) // 2
  decoded = _read(content[:half] + _JUNK + content[half:])
  assert len(decoded.waveform) == pytest.approx(len(expected), abs=2500)
  num = len(expected) // 2 - 2000
  np.testing.assert_allclose(
    decoded.waveform[:num], _whole(name)[:num], atol=1e-4
  )
  assert sounds.likeness(decoded.waveform[-num:], expected[-num:]) > 0.9


def _with_count(content, mark, offset, num_bytes, order, count):
  """The file with another number `offset` bytes behind its mark."""
  content = bytearray(content)
  place = content.index(mark) + offset
  content[place : place + num_bytes] = count.to_bytes(num_bytes, order)
  return bytes(content)


# Where the bytes of samples are counted: mark, bytes behind its beginning,
# bytes of the number, their order.
_COUNTS = {
  "wav s16": (b"data", 4, 4, "little"),
  "wav f32": (b"data", 4, 4, "little"),
  "wav ima": (b"data", 4, 4, "little"),
  "wav extensible": (b"data", 4, 4, "little"),
  "rf64": (b"ds64", 16, 8, "little"),
  "w64": (b"data", 16, 8, "little"),
  "aiff": (b"SSND", 4, 4, "big"),
  "au": (b".snd", 8, 4, "big"),
  "caf": (b"data", 4, 8, "big"),
}


@pytest.mark.parametrize("name", _COUNTS)
@pytest.mark.parametrize("count", ["zero", "greatest", "half of the range"])
def test_samples_that_nobody_counted_are_read_to_the_end(name, count):
  _, _, num_bytes, _ = _COUNTS[name]
  greatest = (1 << 8 * num_bytes) - 1
  number = {"zero": 0, "greatest": greatest, "half of the range": greatest // 2}
  content = _with_count(_sound(name)[0], *_COUNTS[name], number[count])
  decoded = _read(content)
  whole = _whole(name)
  assert len(decoded.waveform) == pytest.approx(len(whole), abs=20)
  num = min(len(whole), len(decoded.waveform))
  np.testing.assert_array_equal(decoded.waveform[:num], whole[:num])
  assert _read(content, max_seconds=0.5).seconds == pytest.approx(
    decoded.seconds
  )
