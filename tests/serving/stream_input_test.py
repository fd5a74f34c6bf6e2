# SPDX-License-Identifier: Apache-2.0
"""PCM from pipes, against libsndfile's reading of the same samples."""

import io
import os
import threading
import time

import numpy as np
import pytest
import soundfile

from tf_audioset.data.audio_bytes import AudioError
from tf_audioset.serving import stream_input

_SUBTYPES = {
  "u8": "PCM_U8",
  "s16": "PCM_16",
  "s24": "PCM_24",
  "s32": "PCM_32",
  "f32": "FLOAT",
  "f64": "DOUBLE",
}


class _Pipe:
  """A pipe into which a thread writes pieces, or sleeps between them."""

  def __init__(self, *pieces, **kwargs):
    self.said = []
    ours, theirs = os.pipe()
    self._pieces, self._end = pieces, theirs
    threading.Thread(target=self._write, daemon=True).start()
    self.source = stream_input.Source(ours, self.said.append, **kwargs)

  def _write(self):
    for piece in self._pieces:
      if isinstance(piece, bytes):
        os.write(self._end, piece)
      else:
        time.sleep(piece)
    os.close(self._end)


def _heard(content, raw=None, **kwargs):
  """The frames of a stream, and what it says of them."""
  pieces = content if isinstance(content, tuple) else (content,)
  stream = stream_input.Stream(_Pipe(*pieces, **kwargs).source, raw)
  frames = np.concatenate(
    [np.zeros([0, stream.pcm.num_channels]), *stream.frames()]
  )
  stream.pass_over_rest()
  return frames, stream


def _sound(num_samples=5000, num_channels=2):
  shape = [num_samples, num_channels]
  return np.random.default_rng(0).uniform(-1, 1, shape)


def _file(samples, **kwargs):
  file = io.BytesIO()
  soundfile.write(file, samples, **{"samplerate": 22050, **kwargs})
  return file.getvalue()


def _wav(samples, subtype="PCM_16", **kwargs):
  return _file(samples, format="WAV", subtype=subtype, **kwargs)


def _with_size(content, size):
  place = content.index(b"data") + 4
  return content[:place] + size.to_bytes(4, "little") + content[place + 4 :]


@pytest.mark.parametrize("encoding", stream_input.ENCODINGS)
def test_raw_samples_are_those_that_libsndfile_reads(encoding):
  kind = {
    "format": "RAW",
    "subtype": _SUBTYPES[encoding[:3] if encoding != "u8" else "u8"],
    "endian": "BIG" if encoding.endswith("be") else "LITTLE",
  }
  content = _file(_sound(), **kind)
  expected, _ = soundfile.read(
    io.BytesIO(content), channels=2, samplerate=22050, **kind
  )
  raw = stream_input.Pcm(encoding, 22050, 2)
  got, stream = _heard(content, raw)
  np.testing.assert_allclose(got, expected, atol=1e-7)
  assert not stream.problems


@pytest.mark.parametrize("kind", _SUBTYPES)
@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64"])
def test_wav_headers_tell_how_samples_are_written(kind, form):
  content = _file(_sound(), format=form, subtype=_SUBTYPES[kind])
  expected, _ = soundfile.read(io.BytesIO(content))
  got, stream = _heard(content)
  np.testing.assert_allclose(got, expected, atol=1e-7)
  assert (stream.pcm.rate_hz, stream.pcm.num_channels) == (22050, 2)
  assert not stream.problems


def test_a_big_endian_header():
  content = _file(_sound(), format="WAV", subtype="PCM_16", endian="BIG")
  assert content[:4] == b"RIFX"
  expected, _ = soundfile.read(io.BytesIO(content))
  np.testing.assert_allclose(_heard(content)[0], expected)


@pytest.mark.parametrize(
  "size", [0, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFF000, 0x80000000]
)
def test_lengths_that_pipes_have_stand_for_all(size):
  content = _wav(_sound())
  expected, _ = soundfile.read(io.BytesIO(content))
  got, stream = _heard(_with_size(content, size))
  np.testing.assert_allclose(got, expected)
  assert not stream.problems


def test_chunks_around_the_samples_are_passed_over():
  content = _wav(_sound(4999, 1), "PCM_U8")
  expected, _ = soundfile.read(io.BytesIO(content))
  odd = b"bext" + (70001).to_bytes(4, "little") + bytes(70002)
  tags = b"LIST" + (4).to_bytes(4, "little") + b"INFO"
  place = content.index(b"fmt ")
  # libsndfile has written the byte that an odd length needs.
  content = content[:place] + odd + content[place:] + tags
  got, stream = _heard(content)
  np.testing.assert_allclose(got[:, 0], expected)
  assert not stream.problems


def test_a_byte_at_a_time_is_the_same():
  content = _wav(_sound(300), "PCM_24")
  expected, _ = soundfile.read(io.BytesIO(content))
  pieces = tuple(content[i : i + 1] for i in range(len(content)))
  np.testing.assert_allclose(_heard(pieces)[0], expected, atol=1e-7)


def test_an_end_within_a_sample_is_told_and_the_rest_heard():
  content = _wav(_sound())
  expected, _ = soundfile.read(io.BytesIO(content))
  got, stream = _heard(_with_size(content, 0)[:-3])
  np.testing.assert_allclose(got, expected[:-1])
  assert stream.problems == [
    "ends in the middle of a sample: 1 of 4 bytes (s16le, 22050 Hz, 2 "
    "channel(s)), which were left out"
  ]


def test_an_end_before_that_of_the_header_is_told():
  got, stream = _heard(_wav(_sound())[:-4410])
  assert len(got) == 5000 - 1103
  assert stream.problems[-1] == (
    "ends 0.05 s before the end that its wav header tells"
  )


@pytest.mark.parametrize("more", [_wav(_sound()), b"\xff" * 99])
def test_what_follows_the_samples_is_told(more):
  got, stream = _heard(_wav(_sound()) + more)
  assert len(got) == 5000
  (problem,) = stream.problems
  assert f"goes on for {len(more):,} bytes behind the end" in problem


def test_a_stall_is_told_once_and_waited_for():
  content = _wav(_sound())
  pipe = _Pipe(content[:9000], 0.7, content[9000:], stall_seconds=0.2)
  stream = stream_input.Stream(pipe.source, None)
  assert sum(map(len, stream.frames())) == 5000
  told, ended = pipe.said
  assert told.startswith("nothing has arrived for 0 s; waiting")
  assert ended == "goes on after 1 s without anything"
  assert not stream.problems


def test_who_does_not_wait_gets_what_there_is():
  content = _with_size(_wav(_sound()), 0)
  got, stream = _heard(
    (content[:9000], 60), stall_seconds=0.1, give_up_seconds=0.3
  )
  assert len(got) == (9000 - content.index(b"data") - 8) // 4
  assert stream.problems == [
    "has sent nothing for --give_up_seconds: it is taken to have ended"
  ]


def test_who_stops_gets_what_there_is():
  pipe = _Pipe(_with_size(_wav(_sound()), 0), 60)
  stream = stream_input.Stream(pipe.source, None)
  threading.Timer(0.3, pipe.source.stop).start()
  assert sum(map(len, stream.frames())) == 5000
  assert not stream.problems


_RAW = stream_input.Pcm("s16le", 16000, 1)


@pytest.mark.parametrize(
  ("content", "raw", "message"),
  [
    (b"", _RAW, "the stream is empty"),
    (_file(_sound(), format="FLAC"), _RAW, "is flac, not PCM: decode it"),
    (_file(_sound(), format="OGG"), None, "is ogg, not PCM"),
    (_file(_sound(), format="MP3"), _RAW, "is mp3, not PCM"),
    (_file(_sound(), format="AIFF"), _RAW, "is aiff, not PCM"),
    (b"no such file\n" * 9, _RAW, "is text, not PCM"),
    (b"\x1f\x8b" + bytes(range(256)), None, "not PCM"),
    (bytes(999), None, "no wav header; .* --pcm=s16le --pcm_rate_hz=16000"),
    (_wav(_sound(), "ULAW"), None, "wav file of mu-law; wanted is PCM"),
    (_wav(_sound(), "IMA_ADPCM"), None, "wav file of ADPCM"),
    (_wav(_sound())[:30], None, "ends within its wav header"),
    (_wav(_sound()), _RAW, r"has a wav header \(s16le, 22050 Hz, 2"),
    (_wav(_sound(), samplerate=100), None, "has 100 Hz; allowed are 1000"),
    (
      b"RIFF\0\0\0\0WAVEdata\0\0\0\0" + bytes(9),
      None,
      "no fmt chunk before its data",
    ),
  ],
)
def test_what_is_no_pcm_is_refused_at_once(content, raw, message):
  with pytest.raises(AudioError, match=message):
    _heard(content, raw)


@pytest.mark.parametrize(
  ("value", "message"), [(np.nan, "not finite"), (20000.0, "reach 2e\\+04")]
)
def test_floats_of_another_scale_are_refused(value, message):
  samples = np.full(100, value, "<f4").tobytes()
  with pytest.raises(AudioError, match=message):
    _heard(samples, stream_input.Pcm("f32le", 16000, 1))


def test_a_pipe_that_cannot_be_read_is_told(tmp_path):
  descriptor = os.open(tmp_path / "x", os.O_WRONLY | os.O_CREAT)
  source = stream_input.Source(descriptor, print)
  with pytest.raises(AudioError, match=r"cannot be read \(Bad file desc"):
    stream_input.Stream(source, None)
