# SPDX-License-Identifier: Apache-2.0
"""The synthetic sounds against physics, and the folder against its form."""

import csv
import hashlib

import numpy as np
import pytest
import soundfile

from tests import reference
from tf_audioset.preparation import synthetic

_RATE_HZ = 16000
_SOUNDS = {name: sound for _, name, sound in synthetic.CLASSES}


def _make(name, seconds=4.0, seed=0):
  rng = np.random.default_rng(seed)
  return _SOUNDS[name](rng, round(seconds * _RATE_HZ), _RATE_HZ)


def _peaks_hz(sound, count):
  """Frequencies of the strongest local maxima of the spectrum."""
  spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
  hz = np.fft.rfftfreq(len(sound), 1 / _RATE_HZ)
  inner = spectrum[1:-1]
  maxima = 1 + np.flatnonzero((inner > spectrum[:-2]) & (inner > spectrum[2:]))
  strongest = maxima[np.argsort(spectrum[maxima])[-count:]]
  return sorted(hz[strongest])


def _on_off(sound):
  """Lengths in seconds of the stretches with and without sound."""
  block = _RATE_HZ // 100
  level = np.abs(sound[: len(sound) // block * block]).reshape(-1, block)
  on = level.max(axis=1) > 0.01 * np.abs(sound).max()
  edges = np.flatnonzero(np.diff(on.astype(int))) + 1
  lengths = np.diff(edges) / 100
  first_is_on = on[edges[0]]
  return lengths[0 if first_is_on else 1 :: 2], lengths[
    1 if first_is_on else 0 :: 2
  ]


def _slope_db_per_octave(sound, low_hz=100, high_hz=6400):
  power = np.abs(np.fft.rfft(sound)) ** 2
  hz = np.fft.rfftfreq(len(sound), 1 / _RATE_HZ)
  edges = low_hz * 2 ** np.arange(0, np.log2(high_hz / low_hz) + 0.5)
  density = [
    10 * np.log10(power[(hz >= a) & (hz < b)].mean())
    for a, b in zip(edges, edges[1:])
  ]
  return np.polyfit(np.arange(len(density)), density, 1)[0]


def test_tones_of_the_telephone():
  assert _peaks_hz(_make("Dial tone"), 2) == pytest.approx([350, 440], abs=1)
  assert _peaks_hz(_make("Busy signal"), 2) == pytest.approx([480, 620], abs=2)
  on, off = _on_off(_make("Busy signal", 8.0))
  assert on == pytest.approx(0.5, abs=0.03)
  assert off == pytest.approx(0.5, abs=0.03)


def test_dtmf_is_one_row_and_one_column_at_a_time():
  sound = _make("Telephone dialing, DTMF")
  on, off = _on_off(sound)
  assert on.min() > 0.04 and off.min() > 0.03
  start = np.flatnonzero(np.abs(sound) > 0)[0]
  digit = sound[start : start + round(on[0] * _RATE_HZ)]
  low, high = _peaks_hz(digit, 2)
  assert np.abs(np.array([697, 770, 852, 941]) - low).min() < 15
  assert np.abs(np.array([1209, 1336, 1477]) - high).min() < 15


def test_noises_have_their_slopes():
  assert _slope_db_per_octave(_make("White noise", 20)) == pytest.approx(
    0, abs=0.2
  )
  assert _slope_db_per_octave(_make("Pink noise", 20)) == pytest.approx(
    -3.01, abs=0.2
  )
  assert _slope_db_per_octave(_make("Rumble", 20), 200, 1600) < -18


def test_hum_is_harmonic_of_the_mains():
  for seed in range(4):
    sound = _make("Mains hum", 5, seed)
    peaks = np.array(_peaks_hz(sound, 4))
    assert any(
      np.abs(peaks / mains - np.rint(peaks / mains)).max() < 0.01
      for mains in (50, 60)
    )


def test_sine_is_one_line_and_square_has_odd_harmonics():
  spectrum = np.abs(np.fft.rfft(_make("Sine wave") * np.hanning(4 * _RATE_HZ)))
  strongest = spectrum.argmax()
  near = spectrum[strongest - 5 : strongest + 6]
  assert np.sum(near**2) > 0.999 * np.sum(spectrum**2)
  peaks = _peaks_hz(_make("Buzzer"), 40)
  first = peaks[0]
  third = min(peaks, key=lambda hz: abs(hz - 3 * first))
  assert 100 <= first <= 260
  assert third == pytest.approx(3 * first, rel=0.1)


def test_smoke_alarm_has_the_temporal_three_pattern():
  on, off = _on_off(_make("Smoke detector, smoke alarm", 12))
  assert on == pytest.approx(0.5, abs=0.03)
  assert set(np.round(off * 2) / 2) == {0.5, 1.5}


def test_chirp_sweeps_and_ticks_are_regular():
  sound = _make("Chirp tone")
  phase = np.unwrap(np.angle(_analytic(sound[800:4000])))
  hz = np.diff(phase) * _RATE_HZ / 2 / np.pi
  smooth = hz.reshape(-1)[: len(hz) // 200 * 200].reshape(-1, 200).mean(1)[1:-1]
  steps = np.diff(smooth)
  assert (steps > 0).all() or (steps < 0).all()
  onsets = np.flatnonzero(
    np.diff((np.abs(_make("Tick")) > 0.02).astype(int)) > 0
  )
  starts = onsets[np.diff(onsets, prepend=-_RATE_HZ) > 0.1 * _RATE_HZ]
  assert np.ptp(np.diff(starts)) <= 4


def _analytic(x):
  spectrum = np.fft.fft(x)
  spectrum[len(x) // 2 :] = 0
  return np.fft.ifft(2 * spectrum)


@pytest.mark.parametrize("name", _SOUNDS)
def test_every_sound_is_finite_audible_and_of_any_length(name):
  for seed in range(5):
    for rate_hz in (16000, 44100):
      rng = np.random.default_rng(seed)
      sound = _SOUNDS[name](rng, 2 * rate_hz + seed, rate_hz)
      assert sound.shape == (2 * rate_hz + seed,)
      assert np.isfinite(sound).all()
      assert np.abs(sound).max() > 1e-3


def test_names_and_mids_are_audiosets():
  with open(
    reference.golden("class_labels_indices.csv"), newline="", encoding="utf-8"
  ) as file:
    known = {row["mid"]: row["display_name"] for row in csv.DictReader(file)}
  assert len(synthetic.CLASSES) == 16
  for mid, name, _ in synthetic.CLASSES:
    assert known[mid] == name


def test_the_class_list_is_lines_of_audiosets(tmp_path):
  golden = reference.golden("class_labels_indices.csv").read_bytes()
  synthetic.synthesize(str(tmp_path), num_train=1, num_eval=1, seed=0)
  lines = (tmp_path / "class_labels_indices.csv").read_bytes().split(b"\n")
  known = golden.split(b"\n")
  assert lines[0] == known[0] and lines[-1] == b""
  without_index = {line.partition(b",")[2] for line in known}
  for i, line in enumerate(lines[1:-1]):
    index, _, rest = line.partition(b",")
    assert int(index) == i
    assert rest in without_index


def test_a_mixture_holds_its_class_and_stays_in_range():
  for first_class in range(16):
    rng = np.random.default_rng(first_class)
    waveform, rate_hz, chosen = synthetic.mixture(rng, first_class)
    assert first_class in chosen
    assert list(chosen) == sorted(set(chosen)) and 1 <= len(chosen) <= 3
    assert 3 <= len(waveform) / rate_hz <= 10
    # Heard, above the noise floor of -66 dB, and not clipped.
    assert 0.01 < np.abs(waveform).max() <= 1


def _hashes(folder):
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in folder.rglob("*")
    if path.is_file()
  }


def test_the_folder_is_complete_seeded_and_in_audiosets_form(tmp_path):
  def make(name, num_train, seed):
    synthetic.synthesize(
      str(tmp_path / name), num_train=num_train, num_eval=16, seed=seed
    )
    return _hashes(tmp_path / name)

  first, again = make("a", 20, 0), make("b", 20, 0)
  assert first == again
  assert make("a", 20, 0) == first  # Over itself.
  longer, other = make("c", 22, 0), make("d", 20, 1)
  wavs = {name for name in first if name.endswith(".wav")}
  assert {name: longer[name] for name in wavs} == {
    name: first[name] for name in wavs
  }
  assert not wavs & set(other)
  assert len(wavs) == 36

  counts = dict.fromkeys((mid for mid, _, _ in synthetic.CLASSES), 0)
  with open(tmp_path / "a" / "segments_eval.csv", newline="") as file:
    lines = file.readlines()
  assert [line[0] for line in lines[:4]].count("#") == 3
  for row in csv.reader(lines[3:], skipinitialspace=True):
    clip_id, start, end, mids = row
    assert len(clip_id) == 11
    info = soundfile.info(tmp_path / "a" / "audio" / f"Y{clip_id}.wav")
    assert float(start) == 0
    assert float(end) == pytest.approx(info.duration, abs=1e-3)
    assert 1 <= len(mids.split(",")) <= 3
    for mid in mids.split(","):
      counts[mid] += 1
  assert min(counts.values()) >= 1


def test_a_users_folder_is_left_alone(tmp_path):
  mine = tmp_path / "mine.wav"
  mine.write_bytes(b"music")
  with pytest.raises(ValueError, match="something that was not synthesised"):
    synthetic.synthesize(str(tmp_path), num_train=1, num_eval=1, seed=0)
  assert mine.read_bytes() == b"music"


def test_a_users_files_beside_an_earlier_synthesis_stay(tmp_path):
  def make():
    synthetic.synthesize(str(tmp_path), num_train=2, num_eval=1, seed=0)

  make()
  first = _hashes(tmp_path)
  mine = [tmp_path / "notes.csv", tmp_path / "audio" / "Ymysong.wav"]
  for path in mine:
    path.write_bytes(b"mine")
  make()
  assert [path.read_bytes() for path in mine] == [b"mine", b"mine"]
  for path in mine:
    path.unlink()
  assert _hashes(tmp_path) == first
  (tmp_path / "segments_train.csv").write_text("YTID, start, end, labels")
  with pytest.raises(ValueError, match="something that was not synthesised"):
    make()


def test_an_interrupted_synthesis_can_be_repeated(tmp_path, monkeypatch):
  def make(folder):
    synthetic.synthesize(str(folder), num_train=3, num_eval=1, seed=0)

  def interrupted(path, *args):
    path.write_bytes(b"half")
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(soundfile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
      make(tmp_path / "a")
  make(tmp_path / "a")
  make(tmp_path / "b")
  assert _hashes(tmp_path / "a") == _hashes(tmp_path / "b")
