# SPDX-License-Identifier: Apache-2.0
"""The two readers of wav files, the graph's and the host's, on the same files.

The files are made of chunks here, as recorders, editors and pipes leave them.
"""

import struct

import numpy as np
import pytest
import tensorflow as tf

from tf_audioset.data import audio
from tf_audioset.serving import wav

_RATE_HZ = 16000
_SAMPLES = np.random.default_rng(0).integers(-9000, 9000, [8000, 2], np.int16)
_PCM = _SAMPLES.astype("<i2").tobytes()
_PCM_SUBFORMAT = bytes.fromhex("0100000000001000800000aa00389b71")


def _chunk(name, content=b"", size=None):
  size = len(content) if size is None else size
  return name + struct.pack("<I", size) + content + b"\0" * (len(content) % 2)


def _riff(*chunks, size=None):
  body = b"WAVE" + b"".join(chunks)
  return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def _format(*, channels=2, bits=16, tag=1, rate_hz=_RATE_HZ, more=b""):
  block = channels * bits // 8
  fields = (tag, channels, rate_hz, rate_hz * block, block, bits)
  return _chunk(b"fmt ", struct.pack("<HHIIHH", *fields) + more)


_FORMAT = _format()
_DATA = _chunk(b"data", _PCM)
# 17 bytes, and one that makes their number even.
_ODD = _chunk(b"LIST", b"INFOISFT" + struct.pack("<I", 5) + b"abcde")
_EXTENDED = struct.pack("<HHI", 22, 16, 3) + _PCM_SUBFORMAT


def _unknown(size, riff_size):
  return _riff(_FORMAT, _chunk(b"data", _PCM, size), size=riff_size)


_READ = {
  "plain": _riff(_FORMAT, _DATA),
  "odd chunk before": _riff(_FORMAT, _ODD, _DATA),
  "odd chunk first": _riff(_ODD, _FORMAT, _DATA),
  "odd chunk behind": _riff(_FORMAT, _DATA, _ODD),
  "odd chunk behind, not padded": _riff(_FORMAT, _DATA, _ODD[:-1]),
  "odd chunk before, not padded": _riff(_FORMAT, _ODD[:-1], _DATA),
  "data within another chunk": _riff(_FORMAT, _chunk(b"JUNK", _DATA), _DATA),
  "from a pipe, sox": _unknown(0x7FFFF000, 0x7FFFF024),
  "from a pipe, ffmpeg": _unknown(0xFFFFFFFF, 0xFFFFFFFF),
  "from a pipe, arecord": _unknown(0x80000000, 0x80000024),
  "from a pipe, zeros": _unknown(0, 0),
  "of a recorder that was killed": _riff(
    _chunk(b"JUNK", bytes(28)),
    _FORMAT,
    _chunk(b"FLLR", bytes(4008)),
    _chunk(b"data", _PCM, 0),
    size=4088,
  ),
  "of another length than its file": _riff(_FORMAT, _DATA, size=100),
  "data longer than its file": _unknown(99_999, 36 + len(_PCM)),
  "data shorter than its file": _unknown(4000, 36 + len(_PCM)),
  "format of 18 bytes": _riff(
    _format(more=bytes(2)), _chunk(b"fact", struct.pack("<I", 8000)), _DATA
  ),
  "extensible format": _riff(_format(tag=0xFFFE, more=_EXTENDED), _DATA),
  "part of a frame behind": _riff(_FORMAT, _chunk(b"data", _PCM + b"123")),
  "bytes behind the file": _riff(_FORMAT, _DATA) + b"?" * 101,
  "many bytes behind the file": _riff(_FORMAT, _DATA) + b"?" * 9999,
  "a tag behind the file": _riff(_FORMAT, _DATA) + b"ID3" + bytes(9999),
}
_REFUSED = {
  "no samples": (_riff(_FORMAT, _chunk(b"data")), "holds no samples"),
  "no samples, from a pipe": (
    _riff(_FORMAT, _chunk(b"data"), size=0),
    "holds no samples",
  ),
  "no samples, a chunk behind": (
    _riff(_FORMAT, _chunk(b"data"), _ODD),
    "holds no samples",
  ),
  "less than a frame": (_riff(_FORMAT, _chunk(b"data", b"123")), "no samples"),
  "no data": (_riff(_FORMAT, _ODD), "no fmt chunk before a data chunk"),
  "no format": (_riff(_DATA), "no fmt chunk before a data chunk"),
  "no channels": (_riff(_format(channels=0), _DATA), r"channels.*\[1 0 16\]"),
  "cut off": (
    _riff(_FORMAT, _DATA)[:-8000],
    r"cut off: .*\[24000 32000\]",
  ),
  "cut off in its format": (_riff(_FORMAT)[:24], "no fmt chunk before a data"),
  "cut off in its head": (_riff(_FORMAT)[:14], "no fmt chunk before a data"),
  "zeros": (_riff(bytes(10_000)), "no fmt chunk before a data chunk"),
}


@pytest.fixture(name="decode", scope="module")
def _decode():
  return tf.function(
    lambda content: wav.decode(content, _RATE_HZ),
    autograph=False,
    input_signature=[tf.TensorSpec([], tf.string)],
  )


@pytest.mark.parametrize("name", _READ)
def test_both_read_the_same_samples(decode, name, tmp_path):
  path = tmp_path / "a.wav"
  path.write_bytes(_READ[name])
  expected = (_SAMPLES / 32768).mean(axis=1)
  np.testing.assert_allclose(decode(_READ[name]), expected, atol=1e-7)
  on_host = audio.read_audio(path, sample_rate_hz=_RATE_HZ)
  np.testing.assert_allclose(on_host, expected, atol=1e-7)


@pytest.mark.parametrize("name", _REFUSED)
def test_both_refuse_the_same_files(decode, name, tmp_path):
  content, message = _REFUSED[name]
  path = tmp_path / "a.wav"
  path.write_bytes(content)
  with pytest.raises(tf.errors.InvalidArgumentError, match=message):
    decode(content)
  with pytest.raises(audio.AudioError):
    audio.read_audio(path, sample_rate_hz=_RATE_HZ)


_HALVES = [_chunk(b"data", _PCM[:12000]), _chunk(b"data", _PCM[12000:])]
_SEVERAL_CHUNKS = {
  "adjacent": _riff(_FORMAT, *_HALVES),
  "others between and behind": _riff(
    _FORMAT, _HALVES[0], _ODD, _chunk(b"JUNK", bytes(5000)), _HALVES[1], _ODD
  ),
  "bytes behind the file": _riff(_FORMAT, *_HALVES) + b"?" * 101,
}


@pytest.mark.parametrize("name", _SEVERAL_CHUNKS)
def test_several_data_chunks_are_read_whole_or_refused(decode, name):
  content = _SEVERAL_CHUNKS[name]
  with pytest.raises(
    tf.errors.InvalidArgumentError, match="or has several data chunks"
  ):
    decode(content)
  expected = (_SAMPLES / 32768).mean(axis=1)
  decoded = audio.read("x", sample_rate_hz=_RATE_HZ, content=content)
  np.testing.assert_allclose(decoded.waveform, expected, atol=1e-7)
  assert (decoded.seconds, decoded.remarks) == (0.5, ())
  twice = audio.read_audio("x", sample_rate_hz=_RATE_HZ, content=2 * content)
  assert len(twice) == 16000
  cut = content[: content.rindex(_PCM[12000:13000]) + 4000]
  with pytest.raises(audio.AudioError, match="only 0.2 of 0.5 s"):
    audio.read("x", sample_rate_hz=_RATE_HZ, content=cut)


@pytest.mark.parametrize(
  "content",
  [
    _READ["plain"] * 2,
    _READ["odd chunk behind"] + _READ["plain"],
    _READ["odd chunk behind"] + b"?" * 101 + _READ["plain"],
    _READ["many bytes behind the file"] * 2,
    _READ["from a pipe, ffmpeg"] * 2,
    _riff(_FORMAT, _DATA, _DATA),
  ],
)
def test_the_graph_reads_no_first_part_alone(decode, content):
  """The host reads joined files whole."""
  with pytest.raises(tf.errors.InvalidArgumentError, match="several, joined"):
    decode(content)
  whole = audio.read_audio("x", sample_rate_hz=_RATE_HZ, content=content)
  assert len(whole) == pytest.approx(16000, abs=20)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (_riff(_format(rate_hz=44100), _DATA), r"given, in Hz:\] \[44100\]"),
    (_riff(_format(bits=24), _DATA), r"tag, channels and bits:\] \[1 2 24\]"),
    (_riff(_format(bits=8), _DATA), r"\[1 2 8\]"),
    (_riff(_format(tag=3, bits=32), _DATA), r"\[3 2 32\]"),
    (_riff(_format(tag=0x11, bits=4), _DATA), r"\[17 2 4\]"),
    (b"", "not a wav file"),
    (b"RIFX" + _riff(_FORMAT, _DATA)[4:], "not a wav file"),
    (b"RF64" + _riff(_FORMAT, _DATA)[4:], "not a wav file"),
  ],
)
def test_what_the_graph_does_not_read_is_told(decode, content, message):
  with pytest.raises(tf.errors.InvalidArgumentError, match=message) as e:
    decode(content)
  assert "wanted is a 16-bit PCM wav file at 16000 Hz" in str(e.value)
