# SPDX-License-Identifier: Apache-2.0
"""Decoding and resampling against analytic signals."""

import hashlib
import io
import os
import re
import socket
import threading

import av
import numpy as np
import pytest
import soundfile

from tests import sounds
from tf_audioset.data import (
  audio,
  audio_containers,
  audio_headers,
  audio_libraries,
)


def _sine(hz, seconds, rate_hz, amplitude=0.5):
  time = np.arange(round(seconds * rate_hz)) / rate_hz
  return amplitude * np.sin(2 * np.pi * hz * time)


def _read(path, **kwargs):
  """`read_audio`; and `read_blocks` gives the same, or refuses it, too."""

  def read_blocks():
    return [*audio.read_blocks(path, sample_rate_hz=16000, block_seconds=0.3)]

  try:
    waveform = audio.read_audio(path, sample_rate_hz=16000, **kwargs)
  except audio.AudioError:
    with pytest.raises(audio.AudioError):
      read_blocks()
    raise
  if not kwargs:
    blocks = read_blocks()
    assert all(map(len, blocks))
    np.testing.assert_allclose(np.concatenate(blocks), waveform, atol=1e-6)
  return waveform


def _write_with_av(path, waveform, rate_hz):
  container, codec = "ipod", "aac"
  if path.suffix == ".webm":
    container, codec = "webm", "libopus"
  channels = waveform[:, np.newaxis].astype(np.float32)
  path.write_bytes(sounds.encode(container, codec, channels, rate_hz))


@pytest.mark.parametrize(
  "suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".mp4", ".webm"]
)
@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 44100, 48000])
def test_every_format_and_rate_gives_the_same_sine(tmp_path, suffix, rate_hz):
  path = tmp_path / f"sine{suffix}"
  sine = _sine(1000, 1.0, rate_hz)
  if suffix == ".opus" or suffix == ".webm":
    if rate_hz not in (8000, 16000, 48000):
      return  # Opus has no other.
  if suffix == ".opus":
    soundfile.write(path, sine, rate_hz, "OPUS", format="OGG")
  elif suffix in (".m4a", ".mp4", ".webm"):
    _write_with_av(path, sine, rate_hz)
  else:
    soundfile.write(path, sine, rate_hz)
  actual = _read(path)
  lossy = suffix not in (".wav", ".flac")
  # mp3 is coded in frames, and padded to them.
  assert len(actual) == pytest.approx(16000, abs=2500 if lossy else 1)
  assert actual.dtype == np.float32
  expected = _sine(1000, 1.0, 16000)
  middle = slice(4000, 12000)
  if lossy:  # A coder may delay: the sine of any phase that fits best.
    angle = 2 * np.pi * 1000 / 16000 * np.arange(16000)[middle]
    phasor = 2 * np.mean(actual[middle] * np.exp(-1j * angle))
    assert abs(phasor) == pytest.approx(0.5, rel=0.03)
    expected[middle] = np.real(phasor * np.exp(1j * angle))
  error = np.abs(actual[middle] - expected[middle]).max()
  assert error < (0.1 if lossy else 1e-3)
  from_memory = audio.read_audio(
    f"nowhere{suffix}", sample_rate_hz=16000, content=path.read_bytes()
  )
  np.testing.assert_array_equal(from_memory, actual)


def test_what_16_khz_cannot_hold_is_removed_and_not_aliased(tmp_path):
  path = tmp_path / "high.wav"
  soundfile.write(path, _sine(11000, 1.0, 44100), 44100)
  middle = _read(path)[2000:-2000]  # The abrupt ends hold every frequency.
  assert np.sqrt(np.mean(middle**2)) < 1e-4 * 0.5


def test_channels_are_averaged(tmp_path):
  path = tmp_path / "stereo.wav"
  left, right = _sine(440, 0.5, 16000), _sine(440, 0.5, 16000, amplitude=0.1)
  soundfile.write(path, np.stack([left, right], 1), 16000, "FLOAT")
  np.testing.assert_allclose(_read(path), (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_cutting_does_not_change_what_stays(tmp_path, rate_hz):
  path = tmp_path / "noise.wav"
  noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * rate_hz)
  soundfile.write(path, noise, rate_hz)
  cut = _read(path, max_seconds=1.5)
  assert len(cut) == 24000
  np.testing.assert_allclose(cut, _read(path)[:24000], atol=1e-4)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "no such file"),
    (b"", "it is empty"),
    (b"RIFF not a wav file at all", "it is text"),
    (b"RIFF\0\0\0\0WAVEfmt ", "no samples are behind its header"),
    (b"404 not found: clip.mp3\n", "it is text"),
    ("\ufeffLabel;Größe\n".encode(), "it is text"),
    (b"<!DOCTYPE html><title>404</title>", "it is an HTML page"),
    (b'{"error": "not found"}', "it is JSON"),
    (b"<?xml version='1.0'?><Error/>", "it is XML"),
    (b"PK\3\4" + bytes(60), "it is a zip archive"),
    (b"\x1f\x8b\x08" + bytes(60), "it is compressed by gzip"),
    (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(60), "it is a JPEG picture"),
    (b"\x89PNG\r\n\x1a\n" + bytes(60), "it is a PNG picture"),
    (b"MThd\0\0\0\6" + bytes(60), "it is MIDI, notes without sound"),
    (bytes(100_000), "it is zeros"),
    (np.random.default_rng(0).bytes(100_000), "of no known audio format"),
    (b"#EXTM3U\n/etc/passwd\n", "it is text"),
  ],
  ids=lambda value: value if isinstance(value, str) else "content",
)
def test_an_unreadable_file_is_named(tmp_path, content, message):
  path = tmp_path / "broken.wav"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(audio.AudioError, match=f"broken.wav.*{message}"):
    _read(path)


def test_no_samples_and_not_finite_samples_are_refused(tmp_path):
  path = tmp_path / "empty.wav"
  soundfile.write(path, np.zeros(0), 16000)
  with pytest.raises(audio.AudioError, match="holds no samples"):
    _read(path)
  soundfile.write(path, np.array([0.0, np.nan]), 16000, "FLOAT")
  with pytest.raises(audio.AudioError, match="not finite"):
    _read(path)


def test_floats_of_another_scale_are_refused(tmp_path):
  path = tmp_path / "loud.wav"
  sine = _sine(440, 1, 16000)
  soundfile.write(path, 3 * sine, 16000, "FLOAT")  # Peaks of 1.5 are clipped.
  assert _read(path).max() == 1
  # An encoder overshoots most with noise.
  noise = np.random.default_rng(0).normal(size=220500).clip(-1, 1)
  soundfile.write(tmp_path / "noise.mp3", noise, 44100)
  decoded, _ = soundfile.read(tmp_path / "noise.mp3")
  assert np.abs(decoded).max() > 2
  assert np.abs(_read(tmp_path / "noise.mp3")).max() == 1
  soundfile.write(path, 32768 * sine, 16000, "FLOAT")
  for read in (_read, lambda p: [*audio.read_blocks(p, sample_rate_hz=16000)]):
    with pytest.raises(audio.AudioError, match="reach 1.64e.04; full scale is"):
      read(path)


@pytest.mark.parametrize("suffix", [b".wav", b".flac"])
def test_a_name_that_is_not_utf_8_is_told(tmp_path, suffix):
  soundfile.write(tmp_path / f"a{suffix.decode()}", _sine(440, 1, 16000), 16000)
  path = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"\xe9" + suffix))
  os.rename(tmp_path / f"a{suffix.decode()}", path)
  for read in (_read, lambda p: [*audio.read_blocks(p, sample_rate_hz=16000)]):
    with pytest.raises(audio.AudioError, match="its name is not UTF-8"):
      read(path)


@pytest.mark.parametrize(
  ("suffix", "kept", "seconds"),
  [
    (".wav", 0.5, "2.5"),
    (".wav", 0.97, "4.85"),
    (".flac", 0.5, "2.5"),
    (".mp3", 0.5, "2.5"),
    (".webm", 0.5, "2.5"),
  ],
)
def test_a_file_that_was_cut_off_is_refused(tmp_path, suffix, kept, seconds):
  path = tmp_path / f"cut{suffix}"
  noise = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * 48000)
  if suffix == ".webm":
    _write_with_av(path, noise, 48000)
  else:
    soundfile.write(path, noise, 48000)
  content = path.read_bytes()
  path.write_bytes(content[: int(kept * len(content))])
  with pytest.raises(
    audio.AudioError, match=f"cut{suffix}: only .* of 5.0 s"
  ) as e:
    _read(path)
  found = re.search("only (.*) of", str(e.value))[1]
  assert float(found) == pytest.approx(float(seconds), abs=0.3)
  # What is kept is whole.
  assert len(_read(path, max_seconds=2)) == 32000


def test_an_m4a_without_its_end_is_refused(tmp_path):
  path = tmp_path / "cut.m4a"
  _write_with_av(path, _sine(440, 5, 48000), 48000)
  path.write_bytes(path.read_bytes()[:9999])
  with pytest.raises(audio.AudioError, match="cut.m4a: cannot be read"):
    _read(path)


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFF024])
@pytest.mark.parametrize("riff_length", [0, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_has_no_length(tmp_path, length, riff_length):
  path = tmp_path / "pipe.wav"
  soundfile.write(path, _sine(440, 1, 16000), 16000)
  expected = _read(path)
  content = bytearray(path.read_bytes())
  place = content.index(b"data") + 4
  content[place : place + 4] = length.to_bytes(4, "little")
  content[4:8] = riff_length.to_bytes(4, "little")
  path.write_bytes(content)
  np.testing.assert_array_equal(_read(path), expected)


@pytest.mark.parametrize("max_seconds", [None, 2.0, 0.5])
def test_flac_from_a_pipe_has_no_length(tmp_path, max_seconds):
  path = tmp_path / "pipe.flac"
  stereo = np.stack([_sine(440, 1, 44100), _sine(770, 1, 44100)], axis=1)
  soundfile.write(path, stereo, 44100)
  expected = _read(path, max_seconds=max_seconds)
  content = bytearray(path.read_bytes())
  content[21] &= 0xF0
  content[22:26] = bytes(4)
  path.write_bytes(content)
  actual = _read(path, max_seconds=max_seconds)
  np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_damaged_flac_is_refused(tmp_path):
  path = tmp_path / "damaged.flac"
  soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 50000), 16000)
  content = bytearray(path.read_bytes())
  content[40000] ^= 0x10
  path.write_bytes(content)
  with pytest.raises(audio.AudioError, match="damaged.flac"):
    _read(path)


def test_equal_audio_has_an_equal_hash():
  samples = np.arange(-5, 5, dtype=np.int16)
  digest = hashlib.sha256(
    b"".join(int(i).to_bytes(2, "little", signed=True) for i in samples)
  )
  assert audio.samples_hash(samples) == int(digest.hexdigest()[:16], 16)


def test_int16_rounds_and_saturates():
  waveform = np.array([-1.0, -0.5, 0.0, 1e-5, 0.5, 1.0])
  expected = [-32768, -16384, 0, 0, 16384, 32767]
  assert audio.to_int16(waveform).tolist() == expected


def test_encodings_are_lossless():
  samples = np.random.default_rng(0).integers(-32768, 32768, 5000)
  samples = samples.astype(np.int16)
  flac, rate_hz = soundfile.read(
    io.BytesIO(audio.encode(samples, 16000, "flac")), dtype="int16"
  )
  assert rate_hz == 16000
  np.testing.assert_array_equal(flac, samples)
  pcm = np.frombuffer(audio.encode(samples, 16000, "pcm16"), "<i2")
  np.testing.assert_array_equal(pcm, samples)


def test_encode_refuses_what_it_cannot_hold():
  with pytest.raises(ValueError, match="float64"):
    audio.encode(np.zeros(3), 16000, "flac")
  with pytest.raises(ValueError, match="'mp3'.*flac"):
    audio.encode(np.zeros(3, np.int16), 16000, "mp3")


def test_blocks_are_parts_and_end_where_the_file_is_broken(tmp_path):
  path = tmp_path / "x.flac"
  noise = np.random.default_rng(0).uniform(-0.9, 0.9, [16000 * 30, 2])
  soundfile.write(path, noise, 16000)
  blocks = [*audio.read_blocks(path, sample_rate_hz=16000, block_seconds=2.0)]
  assert [len(block) for block in blocks] == [32000] * 15
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2] + bytes(10000))
  blocks = audio.read_blocks(path, sample_rate_hz=16000)
  with pytest.raises(audio.AudioError, match="x.flac: .* 1.\\.. "):
    list(blocks)


def test_lengths_are_read_from_heads(tmp_path):
  for suffix in (".mp3", ".flac", ".webm", ".m4a"):
    path = tmp_path / f"x{suffix}"
    if suffix in (".webm", ".m4a"):
      _write_with_av(path, _sine(440, 2, 48000), 48000)
    else:
      soundfile.write(path, _sine(440, 2, 48000), 48000)
    assert audio.duration_seconds(path) == pytest.approx(2, abs=0.1)
  path.write_bytes(b"?")
  assert audio.duration_seconds(path) == 0
  assert audio.duration_seconds(tmp_path / "none.wav") == 0


def _mp3(channels, rate_hz, **codec_options) -> bytes:
  """A stream of mp3: no frame in front tells how many there are."""
  return sounds.encode(
    "mp3",
    "libmp3lame",
    channels,
    rate_hz,
    options={"write_xing": "0", "id3v2_version": "0"},
    codec_options=codec_options,
  )


def _decode(content, **kwargs) -> audio.Decoded:
  return audio.read("x", sample_rate_hz=16000, content=bytes(content), **kwargs)


_ZIPPED = b"APIC\0\0\x75\x30\0\0" + np.random.default_rng(1).bytes(29990)
_ID3 = b"ID3\4\0\0" + bytes((0, 1, 0x6A, 0x30)) + _ZIPPED


@pytest.mark.parametrize("place", ["before", "in the middle", "behind"])
def test_pictures_in_tags_are_no_sound(place):
  channels = sounds.chirp(2, 44100)
  content = _mp3(channels, 44100)
  middle = {"before": 0, "in the middle": len(content) // 2}
  middle = middle.get(place, len(content))
  decoded = _decode(content[:middle] + _ID3 + content[middle:])
  plain = _decode(content)
  assert len(decoded.waveform) == pytest.approx(len(plain.waveform), abs=2500)
  assert plain.seconds == pytest.approx(2, abs=0.06)
  num = 14000 if place == "in the middle" else len(plain.waveform) - 900
  np.testing.assert_allclose(
    decoded.waveform[:num], plain.waveform[:num], atol=1e-4
  )
  end = decoded.waveform[-12000:], plain.waveform[-12000:]
  assert sounds.likeness(*end) > 0.9


def test_an_estimate_of_mp3_is_not_believed():
  # The first frames are silent, so that the bit rate is thought to be low.
  loud = 0.5 * np.random.default_rng(0).normal(size=[44100, 2])
  channels = np.concatenate([np.zeros([88200, 2]), loud]).astype(np.float32)
  content = _mp3(channels, 44100, abr="1")
  first_bytes = audio_containers.mp3_frame_bytes(content)
  assert len(content) / first_bytes * 1152 / 44100 > 3.5
  decoded = _decode(content)
  assert decoded.seconds == pytest.approx(3, abs=0.06)
  assert decoded.remarks == ()
  beginning = _decode(content, max_seconds=1)
  assert len(beginning.waveform) == 16000
  assert beginning.seconds == pytest.approx(decoded.seconds, abs=0.03)


@pytest.mark.parametrize(("factor", "is_read"), [(0.5, True), (2, False)])
def test_a_count_of_mp3_frames_is_compared_with_them(factor, is_read):
  content = bytearray(
    sounds.encode("mp3", "libmp3lame", sounds.chirp(2, 44100), 44100)
  )
  place = max(content.find(b"Xing"), content.find(b"Info")) + 8
  count = int.from_bytes(content[place : place + 4], "big")
  content[place : place + 4] = int(count * factor).to_bytes(4, "big")
  if not is_read:
    with pytest.raises(audio.AudioError, match="only 2.0 of 4.0 s"):
      _decode(content)
    return
  decoded = _decode(content)
  assert decoded.seconds == pytest.approx(2, abs=0.08)
  (remark,) = decoded.remarks
  assert re.fullmatch(
    "is [12].[0-9] s long; its header says (1.0|0.9) s", remark
  )


@pytest.mark.parametrize("kind", ["mp3", "ogg", "wav", "flac", "aac"])
def test_rate_and_channels_may_change_in_the_middle(tmp_path, kind):
  parts = []
  for rate_hz, num_channels in ((44100, 2), (22050, 1)):
    channels = sounds.chirp(2, rate_hz)[:, :num_channels]
    if kind == "mp3":
      parts.append(_mp3(channels, rate_hz))
    elif kind == "aac":
      parts.append(sounds.encode("adts", "aac", channels, rate_hz))
    else:
      subtype = "VORBIS" if kind == "ogg" else "PCM_16"
      parts.append(sounds.write(kind, subtype, channels, rate_hz))
  path = tmp_path / "two"
  path.write_bytes(b"".join(parts))
  waveform = audio.read_audio(path, sample_rate_hz=16000)
  assert len(waveform) == pytest.approx(64000, abs=2500)
  half = len(waveform) // 2
  for num_channels, part in ((2, waveform[:half]), (1, waveform[half:])):
    expected = sounds.chirp(2, 16000)[:, :num_channels].mean(1)
    assert sounds.likeness(part, expected) > 0.9
  blocks = audio.read_blocks(path, sample_rate_hz=16000, block_seconds=0.3)
  np.testing.assert_allclose(np.concatenate([*blocks]), waveform, atol=1e-5)


def _ogg_pages(content: bytes) -> list[bytes]:
  places = [match.start() for match in re.finditer(b"OggS", content)]
  return [content[i:j] for i, j in zip(places, [*places[1:], len(content)])]


def test_an_ogg_whose_end_is_missing_is_refused():
  pages = _ogg_pages(
    sounds.write("OGG", "VORBIS", sounds.chirp(9, 44100), 44100)
  )
  cut = b"".join(pages[:-1])
  message = (
    "^x: is cut off \\(no page of it is marked as the last\\); [5-8].[0-9] s"
  )
  with pytest.raises(audio.AudioError, match=message):
    _decode(cut)
  whole = _decode(b"".join(pages))
  beginning = _decode(cut, max_seconds=3)
  np.testing.assert_allclose(
    beginning.waveform, whole.waveform[:48000], atol=1e-4
  )
  # A page that is lost is missing, too.
  with pytest.raises(audio.AudioError, match="only [5-8].[0-9] of 9.0 s"):
    _decode(b"".join(pages[:3] + pages[4:]))


def test_the_rip_of_a_stream_begins_anywhere():
  pages = _ogg_pages(
    sounds.write("OGG", "VORBIS", sounds.chirp(20, 44100), 44100)
  )
  decoded = _decode(b"".join(pages[:2] + pages[-3:]))
  assert 1 < decoded.seconds < 15
  assert decoded.remarks == ()
  expected = sounds.chirp(20, 16000).mean(1)[-len(decoded.waveform) :]
  assert sounds.likeness(decoded.waveform, expected) > 0.9


def test_flac_that_its_header_does_not_count_is_read():
  content = bytearray(
    sounds.write("FLAC", "PCM_16", sounds.chirp(3, 44100), 44100)
  )
  expected = _decode(content).waveform
  total = int.from_bytes(content[18:26], "big")
  content[18:26] = (total - 60000).to_bytes(8, "big")
  decoded = _decode(content)
  np.testing.assert_array_equal(decoded.waveform, expected)
  assert decoded.remarks == ("holds more samples than its header counts",)
  assert decoded.seconds == pytest.approx(3)
  content[18:26] = (total + 132).to_bytes(8, "big")
  with pytest.raises(audio.AudioError, match="only 3.000 of 3.003 s can"):
    _decode(content)


def _riff(*chunks, size=None) -> bytes:
  content = b"WAVE" + b"".join(chunks)
  size = len(content) if size is None else size
  return b"RIFF" + size.to_bytes(4, "little") + content


def _chunk(name, content, size=None, padding=True) -> bytes:
  size = len(content) if size is None else size
  odd = b"\0" * (len(content) % 2) if padding else b""
  return name + size.to_bytes(4, "little") + content + odd


def _wav_cases():
  samples = (sounds.chirp(1, 16000, 1) * 32767).astype("<i2").tobytes()
  form = _chunk(b"fmt ", bytes.fromhex("01000100803e0000007d000002001000"))
  odd = b"INFOISFT" + b"\5\0\0\0abcde"
  data = _chunk(b"data", samples)
  num = len(samples)
  yield "plain", _riff(form, data)
  yield "odd chunk before", _riff(form, _chunk(b"LIST", odd), data)
  yield (
    "odd chunk before, not padded",
    _riff(form, _chunk(b"LIST", odd, padding=False), data),
  )
  yield "odd chunk behind", _riff(form, data, _chunk(b"LIST", odd))
  yield (
    "odd chunk behind, not padded",
    _riff(form, data, _chunk(b"LIST", odd, padding=False)),
  )
  yield "broadcast", _riff(_chunk(b"bext", bytes(602)), form, data)
  yield (
    "a count with its header",
    _riff(form, _chunk(b"data", samples, num + 44)),
  )
  yield (
    "a count of 3 kB too many",
    _riff(form, _chunk(b"data", samples, num + 3000)),
  )
  yield (
    "a count too great for the file",
    _riff(form, _chunk(b"data", samples, 10 * num)),
  )
  yield "half a count", _riff(form, _chunk(b"data", samples, num // 2))
  yield (
    "part of a sample",
    _riff(form, _chunk(b"data", samples + b"\1", num + 1)),
  )
  recorder = (_chunk(b"JUNK", bytes(28)), form, _chunk(b"FLLR", bytes(4008)))
  yield (
    "a recorder was killed",
    _riff(*recorder, _chunk(b"data", samples, 0), size=4088),
  )
  yield "nobody counted", _riff(form, _chunk(b"data", samples, 0), size=0)
  for count in (0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF):
    yield f"{count:x}", _riff(form, _chunk(b"data", samples, count), size=count)
  yield "behind a tag", b"ID3\3\0\0\0\0\0\x40" + bytes(64) + _riff(form, data)


@pytest.mark.parametrize("case", dict(_wav_cases()))
def test_wav_headers_that_are_a_little_off(tmp_path, case):
  content = dict(_wav_cases())[case]
  path = tmp_path / "x.wav"
  path.write_bytes(content)
  expected = sounds.chirp(1, 16000, 1)[:, 0]
  np.testing.assert_allclose(_read(path), expected, atol=1e-4)
  assert _decode(content).seconds == 1
  assert _decode(content).remarks == ()
  assert audio.duration_seconds(path) == pytest.approx(1)


def test_bytes_behind_the_end_that_a_wav_states_are_told():
  samples = bytes(32000)
  form = _chunk(b"fmt ", bytes.fromhex("01000100803e0000007d000002001000"))
  behind = np.random.default_rng(0).bytes(16000)
  content = _riff(form, _chunk(b"data", samples)) + behind
  decoded = _decode(content)
  assert decoded.seconds == 1
  assert decoded.remarks == (
    "has 16000 bytes behind the samples that its header counts, which are not "
    "read",
  )
  for empty in (
    _chunk(b"data", b""),
    _chunk(b"data", b"") + _chunk(b"id3 ", b"a"),
  ):
    with pytest.raises(audio.AudioError, match="^x: holds no samples"):
      _decode(_riff(form, empty))
  with pytest.raises(audio.AudioError, match="^x: its rate is 16 Hz"):
    slow = form.replace(b"\x80\x3e", b"\x10\0")
    _decode(_riff(slow, _chunk(b"data", samples)))


def test_a_codec_without_a_decoder_is_named(tmp_path):
  content = sounds.encode("ipod", "alac", sounds.chirp(1, 44100), 44100)
  place = content.index(b"alac", content.index(b"stsd"))
  for codec in (b"apac", b"ac-4", b"xyz1"):
    path = tmp_path / "spatial.m4a"
    path.write_bytes(content[:place] + codec + content[place + 4 :])
    message = f"spatial.m4a: its codec \\({codec.decode()}\\) cannot be decoded"
    with pytest.raises(audio.AudioError, match=message):
      _read(path)
    assert audio.duration_seconds(path) == 0


@pytest.mark.parametrize(
  "error",
  [AttributeError("layout"), KeyError("x"), RuntimeError("a"), MemoryError()],
  ids=repr,
)
@pytest.mark.parametrize("library", ["libsndfile", "FFmpeg"])
def test_whatever_a_library_raises_costs_one_file(monkeypatch, error, library):
  def fail(*_, **__):
    raise error

  if library == "FFmpeg":
    content = _mp3(sounds.chirp(1, 44100), 44100)
    monkeypatch.setattr(av, "open", fail)
  else:
    content = sounds.write("WAV", "PCM_16", sounds.chirp(1, 44100), 44100)
    monkeypatch.setattr(soundfile.SoundFile, "read", fail)
  with pytest.raises(audio.AudioError, match="^x: cannot be "):
    _decode(content)


def test_faults_of_our_own_are_no_faults_of_a_file(monkeypatch):
  content = sounds.write("WAV", "PCM_16", sounds.chirp(1, 44100), 44100)

  def fail(*_, **__):
    raise TypeError("a bug")

  monkeypatch.setattr(audio_headers, "_span", fail)
  with pytest.raises(TypeError, match="a bug"):
    _decode(content)


def test_opposite_channels_are_told(tmp_path):
  left = sounds.chirp(1, 16000, 1)[:, 0]
  noise = np.random.default_rng(0).normal(size=16000) * 0.1
  quiet = np.zeros(16000)
  for name, channels, is_told in (
    ("opposite", [left, -left], True),
    ("nearly", [left, -0.95 * left], True),
    ("beside a constant", [left + 0.2, 0.2 - left], True),
    ("equal", [left, left], False),
    ("left only", [left, quiet], False),
    ("left and a constant", [left, quiet + 0.3], False),
    ("unlike", [left, noise], False),
    ("in one of eight", [left, *[quiet] * 7], False),
    ("silence", [quiet, quiet], False),
    ("mono", [left], False),
  ):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.stack(channels, 1), 16000, "FLOAT")
    expected = (audio.CANCELLED,) if is_told else ()
    assert audio.read(path, sample_rate_hz=16000).remarks == expected, name
    remarks = []
    [*audio.read_blocks(path, sample_rate_hz=16000, remarks=remarks)]
    assert tuple(remarks) == expected, name


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_pipe_is_read_once(tmp_path, kind):
  subtype = {"OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}.get(kind, "PCM_16")
  content = sounds.write(kind, subtype, sounds.chirp(1, 16000), 16000)
  expected = _decode(content).waveform
  path = tmp_path / "pipe"
  os.mkfifo(path)
  assert audio.duration_seconds(path) == 0  # And it does not wait.
  for read in (
    lambda: audio.read_audio(path, sample_rate_hz=16000),
    lambda: np.concatenate([*audio.read_blocks(path, sample_rate_hz=16000)]),
  ):
    writer = threading.Thread(target=path.write_bytes, args=(content,))
    writer.start()
    np.testing.assert_array_equal(read(), expected)
    writer.join()


def test_what_is_no_file_is_named(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # A socket's path must be short.
  with socket.socket(socket.AF_UNIX) as server:
    server.bind("socket")
    for path, kind in (
      (str(tmp_path), "a folder"),
      ("socket", "a socket"),
      ("/dev/zero", "a device"),
    ):
      for read in (audio.read, lambda p, **kw: [*audio.read_blocks(p, **kw)]):
        with pytest.raises(audio.AudioError, match=f"{path}: .*it is {kind}"):
          read(path, sample_rate_hz=16000)
      assert audio.duration_seconds(path) == 0
  with pytest.raises(audio.AudioError, match="File name too long"):
    audio.read("x" * 300, sample_rate_hz=16000)


def test_of_several_streams_one_is_read():
  channels = sounds.chirp(1, 48000, 1)
  target = io.BytesIO()
  frame = av.AudioFrame.from_ndarray(
    np.ascontiguousarray(channels.T), "fltp", "mono"
  )
  frame.sample_rate = 48000
  with av.open(target, "w", format="matroska") as file:
    streams = [
      file.add_stream("pcm_f32le", rate=48000, layout="mono") for _ in range(2)
    ]
    for stream in streams:
      converter = av.AudioResampler("flt", "mono", 48000)
      for part in converter.resample(frame):
        file.mux(stream.encode(part))
      file.mux(stream.encode(None))
  decoded = _decode(target.getvalue())
  assert decoded.seconds == pytest.approx(1, abs=0.01)
  assert decoded.remarks == ("holds 2 streams of sound; only number 1 is read",)


@pytest.mark.parametrize("suffix", [".mp3", ".m4a", ".flac", ".wav"])
def test_what_is_not_wanted_is_not_decoded(tmp_path, monkeypatch, suffix):
  channels = sounds.chirp(20, 44100, 1)
  path = tmp_path / f"long{suffix}"
  if suffix == ".m4a":
    _write_with_av(path, channels[:, 0], 44100)
  else:
    soundfile.write(path, channels, 44100)
  seconds = []
  for decoder in (audio_libraries.AvDecoder, audio_libraries.SndfileDecoder):

    def counted(self, *args, blocks=decoder.blocks):
      for block in blocks(self, *args):
        seconds.append(len(block.channels) / block.rate_hz)
        yield block

    monkeypatch.setattr(decoder, "blocks", counted)
  decoded = audio.read(path, sample_rate_hz=16000, max_seconds=1)
  assert len(decoded.waveform) == 16000
  assert decoded.seconds == pytest.approx(20, abs=0.1)
  assert 1 < sum(seconds) < 3


def test_the_wanted_beginning_decides_whether_a_file_is_cut():
  content = sounds.encode("webm", "libopus", sounds.chirp(3, 48000), 48000)
  cut = content[: int(0.6 * len(content))]
  with pytest.raises(audio.AudioError, match="only (1.[0-9]) of 3.0 s") as e:
    _decode(cut)
  left = float(re.search("only (.*) of", str(e.value))[1])
  assert len(_decode(cut, max_seconds=left - 0.2).waveform) > 16000
  with pytest.raises(audio.AudioError, match="only 1.[0-9] of 3.0 s"):
    _decode(cut, max_seconds=left + 0.2)
  whole = _decode(content, max_seconds=3)
  assert whole.seconds == pytest.approx(3, abs=0.05)


def test_the_libraries_write_nothing(capfd):
  content = bytearray(_mp3(sounds.chirp(2, 44100), 44100))
  rng = np.random.default_rng(0)
  for _ in range(20):
    content[rng.integers(len(content))] = rng.integers(256)
  for damaged in (content, content[:-100] + bytes(5000), b"\0" * 99 + content):
    _decode(damaged)
  assert capfd.readouterr() == ("", "")


def test_opus_keeps_its_loudness():
  # FFmpeg's own decoder has 0.15 of 0.5 where the encoder changes its mode.
  time = np.arange(16000) / 16000
  sine = 0.5 * np.sin(2 * np.pi * 1000 * time)
  content = sounds.write("OGG", "OPUS", sine[:, np.newaxis], 16000)
  waveform = _decode(content).waveform
  peaks = np.abs(waveform[: len(waveform) // 320 * 320].reshape(-1, 320)).max(1)
  assert peaks[5:-5].min() > 0.45
