# SPDX-License-Identifier: Apache-2.0
"""Decoding and resampling against analytic signals."""

import io

import numpy as np
import pytest
import soundfile

from tf_audioset import audio


def _sine(hz, seconds, rate_hz, amplitude=0.5):
  time = np.arange(round(seconds * rate_hz)) / rate_hz
  return amplitude * np.sin(2 * np.pi * hz * time)


def _read(path, **kwargs):
  return audio.read_audio(path, sample_rate_hz=16000, **kwargs)


@pytest.mark.parametrize("suffix", audio.EXTENSIONS)
@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 44100, 48000])
def test_every_format_and_rate_gives_the_same_sine(tmp_path, suffix, rate_hz):
  path = tmp_path / f"sine{suffix}"
  soundfile.write(path, _sine(1000, 1.0, rate_hz), rate_hz)
  actual = _read(path)
  lossy = suffix in (".mp3", ".ogg")
  # mp3 is coded in frames, and padded to them.
  assert len(actual) == pytest.approx(16000, abs=2500 if lossy else 1)
  assert actual.dtype == np.float32
  expected = _sine(1000, 1.0, 16000)
  middle = slice(4000, 12000)
  error = np.abs(actual[middle] - expected[middle]).max()
  assert error < (0.05 if lossy else 1e-3)


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


@pytest.mark.parametrize("suffix", audio.EXTENSIONS)
@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
def test_blocks_are_the_file_in_parts(tmp_path, suffix, rate_hz):
  path = tmp_path / f"noise{suffix}"
  noise = np.random.default_rng(0).uniform(-0.9, 0.9, [3 * rate_hz + 17, 2])
  soundfile.write(path, noise, rate_hz)
  blocks = list(
    audio.read_blocks(path, sample_rate_hz=16000, block_seconds=0.3)
  )
  assert len(blocks) > 5 and all(len(block) for block in blocks)
  np.testing.assert_allclose(np.concatenate(blocks), _read(path), atol=1e-6)


def test_blocks_are_refused_as_files_are(tmp_path):
  path = tmp_path / "x.wav"

  def read():
    return list(audio.read_blocks(path, sample_rate_hz=16000))

  with pytest.raises(audio.AudioError, match="no such file"):
    read()
  path.write_bytes(b"?")
  with pytest.raises(audio.AudioError, match="cannot be read as audio"):
    read()
  soundfile.write(path, [], 16000)
  with pytest.raises(audio.AudioError, match="holds no samples"):
    read()
  soundfile.write(path, [0.5], 192000)
  with pytest.raises(audio.AudioError, match="shorter than one sample"):
    read()
  soundfile.write(path, [0.5, np.nan], 16000, "FLOAT")
  with pytest.raises(audio.AudioError, match="not finite"):
    read()


def test_a_file_that_breaks_off_is_told_where(tmp_path):
  path = tmp_path / "x.flac"
  noise = np.random.default_rng(0).uniform(-0.9, 0.9, 16000 * 30)
  soundfile.write(path, noise, 16000)
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2] + bytes(10000))
  blocks = audio.read_blocks(path, sample_rate_hz=16000)
  with pytest.raises(audio.AudioError, match="beyond 10.0 s"):
    list(blocks)


def test_files_folders_and_patterns_are_found(tmp_path):
  names = ("b.wav", "a.MP3", "deep/er/c.flac", "notes.txt", "z/d.ogg")
  for name in names:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  here = str(tmp_path)

  def found(*arguments):
    paths = audio.find_files([f"{here}/{x}" for x in arguments])
    return [path[len(here) + 1 :] for path in paths]

  assert found("") == ["a.MP3", "b.wav", "deep/er/c.flac", "z/d.ogg"]
  assert found("z", "b.wav", "none.wav") == ["z/d.ogg", "b.wav", "none.wav"]
  assert found("*.wav", "**/c.*") == ["b.wav", "deep/er/c.flac"]
  assert found("d*") == ["deep/er/c.flac"]
  assert audio.find_files(["-"]) == ["-"]
  (tmp_path / "[1].wav").touch()
  assert found("[1].wav") == ["[1].wav"]
  (tmp_path / "empty").mkdir()
  for nothing in ("empty", "*.aiff"):
    with pytest.raises(ValueError, match="no audio file there"):
      found(nothing)
