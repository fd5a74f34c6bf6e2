# SPDX-License-Identifier: Apache-2.0
"""Decoding and resampling against analytic signals."""

import hashlib
import io
import os
import re
import sys

import numpy as np
import pytest
import soundfile

from tf_audioset.data import audio


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
  av = pytest.importorskip("av", reason="needs PyAV, the extra [av]")
  with av.open(str(path), "w") as file:
    codec = "libopus" if path.suffix == ".webm" else "aac"
    stream = file.add_stream(codec, rate=rate_hz, layout="mono")
    frame = av.AudioFrame.from_ndarray(
      waveform[np.newaxis].astype(np.float32), "fltp", "mono"
    )
    frame.sample_rate = rate_hz
    converter = av.AudioResampler(
      stream.codec_context.format,
      "mono",
      rate_hz,
      stream.codec_context.frame_size or 1024,
    )
    for part in [*converter.resample(frame), *converter.resample(None)]:
      file.mux(stream.encode(part))
    file.mux(stream.encode(None))


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
    (b"", "cannot be read as audio"),
    (b"RIFF not a wav file at all", "cannot be read as audio"),
  ],
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
    (".wav", 0.9999, "5.0"),
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


def test_without_pyav_it_says_what_to_install(tmp_path, monkeypatch):
  (tmp_path / "clip.m4a").touch()
  monkeypatch.setitem(sys.modules, "av", None)
  with pytest.raises(audio.AudioError, match="clip.m4a.*pip install av"):
    _read(tmp_path / "clip.m4a")


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
