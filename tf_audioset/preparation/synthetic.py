# SPDX-License-Identifier: Apache-2.0
"""A small multi-label dataset of sounds that a formula can honestly make.

For trying the whole program without data: sixteen AudioSet classes, mixed and
overlapping, as wav files with segment lists in AudioSet's form.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable

import numpy as np
import scipy.signal
import soundfile

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

# (random generator, number of samples, rate in Hz) -> float64 [num_samples].
Sound = Callable[[np.random.Generator, int, int], np.ndarray]


def sine_wave(
  rng: np.random.Generator, num_samples: int, rate_hz: int
) -> np.ndarray:
  """Makes a steady pure tone, 300 to 3000 Hz."""
  return _tone(_log_uniform(rng, 300, 3000), num_samples, rate_hz)


def chirp_tone(
  rng: np.random.Generator, num_samples: int, rate_hz: int
) -> np.ndarray:
  """Sweeps over one to two octaves, again and again, always upwards or down."""
  length = round(rng.uniform(0.3, 0.8) * rate_hz)
  begin_hz = _log_uniform(rng, 300, 1500)
  end_hz = begin_hz * 2 ** rng.uniform(1, 2)
  if rng.uniform() < 0.5:
    begin_hz, end_hz = end_hz, begin_hz
  sweep = scipy.signal.chirp(
    np.arange(length) / rate_hz, begin_hz, length / rate_hz, end_hz, "log"
  )
  return np.resize(_fade(sweep, rate_hz), num_samples)


def white_noise(
  rng: np.random.Generator, num_samples: int, rate_hz: int
) -> np.ndarray:
  """Makes noise of the same power in every hertz."""
  del rate_hz
  return rng.normal(size=num_samples)


def pink_noise(
  rng: np.random.Generator, num_samples: int, rate_hz: int
) -> np.ndarray:
  """Makes noise of the same power in every octave: divided by sqrt(f)."""
  spectrum = np.fft.rfft(rng.normal(size=num_samples))
  hz = np.fft.rfftfreq(num_samples, 1 / rate_hz)
  spectrum[1:] /= np.sqrt(hz[1:])
  spectrum[hz < 20] = 0
  return np.fft.irfft(spectrum, num_samples)


def buzzer(
  rng: np.random.Generator, num_samples: int, rate_hz: int
) -> np.ndarray:
  """Makes a square wave of 100 to 250 Hz, on and off in long pushes."""
  time = np.arange(num_samples) / rate_hz
  wave = scipy.signal.square(2 * np.pi * rng.uniform(100, 250) * time)
  return wave * _cadence(
    rng, num_samples, rate_hz, on=rng.uniform(0.5, 1), off=rng.uniform(0.2, 0.6)
  )


def dtmf_dialling(
  rng: np.random.Generator, num_samples: int, rate_hz: int
) -> np.ndarray:
  """Dials random digits of the twelve-key pad.

  Reference: ITU-T Q.23 (frequencies), Q.24 (at least 40 ms on, 40 ms off).
  """
  pairs = [(r, c) for r in (697, 770, 852, 941) for c in (1209, 1336, 1477)]
  on, off = (round(rng.uniform(0.06, 0.15) * rate_hz) for _ in range(2))
  out = np.zeros(num_samples)
  for begin in range(0, num_samples - on, on + off):
    digit = _tones(pairs[rng.integers(len(pairs))], on, rate_hz)
    out[begin : begin + on] = _fade(digit, rate_hz)
  return out


def dial_tone(
  rng: np.random.Generator, num_samples: int, rate_hz: int
) -> np.ndarray:
  """Makes 350 and 440 Hz without a break: the North American tone plan."""
  del rng
  return _tones((350, 440), num_samples, rate_hz)


def busy_signal(
  rng: np.random.Generator, num_samples: int, rate_hz: int
) -> np.ndarray:
  """Makes 480 and 620 Hz, 0.5 s on, 0.5 s off: the same plan."""
  tones = _tones((480, 620), num_samples, rate_hz)
  return tones * _cadence(rng, num_samples, rate_hz, on=0.5, off=0.5)


def siren(
  rng: np.random.Generator, num_samples: int, rate_hz: int
) -> np.ndarray:
  """Makes a wail: from 550-700 Hz to 1200-1600 Hz and back in 1.5 to 4 s."""
  time = np.arange(num_samples) / rate_hz
  cycle = np.sin(2 * np.pi * (time / rng.uniform(1.5, 4) + rng.uniform()))
  low_hz, high_hz = rng.uniform(550, 700), rng.uniform(1200, 1600)
  hz = low_hz + (high_hz - low_hz) * (1 + cycle) / 2
  phase = 2 * np.pi * np.cumsum(hz) / rate_hz
  return sum(np.sin(k * phase) / k for k in (1, 2, 3))


def smoke_alarm(
  rng: np.random.Generator, num_samples: int, rate_hz: int
) -> np.ndarray:
  """Makes three beeps of 0.5 s at about 3.1 kHz, then a pause of 1.5 s.

  Reference: the temporal-three pattern of ISO 8201.
  """
  tone = _tone(rng.uniform(2900, 3300), num_samples, rate_hz)
  step = (np.arange(num_samples) / rate_hz + rng.uniform(0, 4)) % 4.0
  return tone * np.where(step < 2.5, _gate(step % 1.0, 0.5), 0.0)


def tick(
  rng: np.random.Generator, num_samples: int, rate_hz: int
) -> np.ndarray:
  """Makes a clock's short ringing ticks, two to five a second, regularly."""
  length = round(0.03 * rate_hz)
  time = np.arange(length) / rate_hz
  one = np.sin(2 * np.pi * rng.uniform(2000, 4500) * time) * np.exp(
    -time / 4e-3
  )
  out = np.zeros(num_samples)
  period = round(rate_hz / rng.uniform(2, 5))
  for begin in range(rng.integers(period), num_samples - length, period):
    out[begin : begin + length] += one
  return out


def mains_hum(
  rng: np.random.Generator, num_samples: int, rate_hz: int
) -> np.ndarray:
  """Makes 50 or 60 Hz and harmonics, strongest at twice the mains."""
  mains_hz = rng.choice([50, 60])
  strength = (0.5, 1, 0.3, 0.5, 0.1, 0.2, 0.05, 0.1)
  return sum(
    a * rng.uniform(0.5, 1) * _tone(k * mains_hz, num_samples, rate_hz)
    for k, a in enumerate(strength, start=1)
  )


def clicking(
  rng: np.random.Generator, num_samples: int, rate_hz: int
) -> np.ndarray:
  """Makes single clicks of a millisecond of noise at random moments."""
  length = round(1e-3 * rate_hz)
  out = np.zeros(num_samples)
  count = rng.poisson(rng.uniform(6, 15) * num_samples / rate_hz) + 2
  for begin in rng.integers(num_samples - length, size=count):
    out[begin : begin + length] += rng.normal(size=length)
  return out


def static(
  rng: np.random.Generator, num_samples: int, rate_hz: int
) -> np.ndarray:
  """Makes radio static: hiss that comes and goes, with dense crackle on it."""
  knots = rng.uniform(0, 1, size=2 + 12 * num_samples // rate_hz) ** 3
  level = np.interp(
    np.linspace(0, len(knots) - 1, num_samples), np.arange(len(knots)), knots
  )
  crackle = (rng.uniform(size=num_samples) < 2e-3) * rng.normal(
    size=num_samples
  )
  return level * rng.normal(size=num_samples) + 6 * crackle


def reversing_beeps(
  rng: np.random.Generator, num_samples: int, rate_hz: int
) -> np.ndarray:
  """Makes 1.0 to 1.4 kHz beeps, half a second on and half off.

  Reference: SAE J994, the back-up alarm.
  """
  hz = rng.uniform(1000, 1400)
  tone = sum(_tone(k * hz, num_samples, rate_hz) / k for k in (1, 3, 5))
  return tone * _cadence(rng, num_samples, rate_hz, on=0.5, off=0.5)


def rumble(
  rng: np.random.Generator, num_samples: int, rate_hz: int
) -> np.ndarray:
  """Makes noise below 150 Hz, as of something heavy and far away."""
  low_pass = scipy.signal.butter(
    4, rng.uniform(80, 150), fs=rate_hz, output="sos"
  )
  return scipy.signal.sosfilt(low_pass, rng.normal(size=num_samples))


# mid, AudioSet's display name, sound; in AudioSet's order.
CLASSES: tuple[tuple[str, str, Sound], ...] = (
  ("/m/02rhddq", "Reversing beeps", reversing_beeps),
  ("/m/02c8p", "Telephone dialing, DTMF", dtmf_dialling),
  ("/m/015jpf", "Dial tone", dial_tone),
  ("/m/01z47d", "Busy signal", busy_signal),
  ("/m/03kmc9", "Siren", siren),
  ("/m/030rvx", "Buzzer", buzzer),
  ("/m/01y3hg", "Smoke detector, smoke alarm", smoke_alarm),
  ("/m/07qjznt", "Tick", tick),
  ("/m/07qc9xj", "Clicking", clicking),
  ("/m/07phhsh", "Rumble", rumble),
  ("/m/01v_m0", "Sine wave", sine_wave),
  ("/m/0hdsk", "Chirp tone", chirp_tone),
  ("/m/07rgkc5", "Static", static),
  ("/m/06xkwv", "Mains hum", mains_hum),
  ("/m/0chx_", "White noise", white_noise),
  ("/m/0cj0r", "Pink noise", pink_noise),
)

# Files differ in rate and channels, so that preparation has something to do.
_RATES_HZ = (16000, 22050, 44100)
_RATE_SHARES = (0.7, 0.2, 0.1)
_NOISE_FLOOR_DB = -66
_HEADER = "# Synthetic segments of tf_audioset, split {}, seed {}"
_LABELS_FILE = "class_labels_indices.csv"
_LABELS_CSV = "index,mid,display_name\n" + "".join(
  f'{i},{mid},"{name}"\n' for i, (mid, name, _) in enumerate(CLASSES)
)


def mixture(
  rng: np.random.Generator, first_class: int
) -> tuple[np.ndarray, int, tuple[int, ...]]:
  """Mixes one clip: one to three overlapping sounds of different classes.

  Args:
    rng: All that is random about it.
    first_class: Index of a class that is in it for certain.

  Returns:
    float64 [num_samples, num_channels] in [-1, 1], its rate in Hz, the indices
    of its classes in ascending order.
  """
  rate_hz = int(rng.choice(_RATES_HZ, p=_RATE_SHARES))
  seconds = 5.0 if rng.uniform() < 0.8 else rng.uniform(3, 10)
  num_samples = round(seconds * rate_hz)
  others = [i for i in range(len(CLASSES)) if i != first_class]
  count = rng.choice(3, p=(0.4, 0.4, 0.2))
  chosen = [first_class, *rng.choice(others, size=count, replace=False)]
  out = 10 ** (_NOISE_FLOOR_DB / 20) * rng.normal(size=num_samples)
  for i in chosen:
    # A sound lasts at least two seconds and most of the clip on average.
    length = round(rng.uniform(2 / seconds, 1.0) * num_samples)
    begin = rng.integers(num_samples - length + 1)
    sound = _fade(CLASSES[i][2](rng, length, rate_hz), rate_hz)
    loudness = 10 ** (rng.uniform(-30, -14) / 20)
    out[begin : begin + length] += loudness * sound / _loud_rms(sound, rate_hz)
  channels = out[:, np.newaxis]
  if rng.uniform() < 0.1:
    channels = channels * rng.uniform(0.5, 1.0, size=2)
  return (
    channels / max(1.0, np.abs(channels).max()),
    rate_hz,
    tuple(sorted(int(i) for i in chosen)),
  )


def synthesize(
  output_dir: str, *, num_train: int, num_eval: int, seed: int
) -> dict[str, float]:
  """Writes audio/Y<id>.wav, segments_<split>.csv, class_labels_indices.csv.

  A clip depends on the seed, its split and its number alone, so more clips
  leave the first ones as they were. An earlier synthesis in the folder, also
  one that was interrupted, is replaced; files of other names stay.

  Args:
    output_dir: A new or empty folder, or one that this function has written.
    num_train: Clips in the split "train".
    num_eval: Clips in the split "eval".
    seed: Of everything.

  Returns:
    Minutes of audio by split.

  Raises:
    UserError: If the folder holds something else.
  """
  folder = pathlib.Path(output_dir)
  _clear(folder)
  folder.mkdir(parents=True, exist_ok=True)
  # First: it is what tells an interrupted synthesis from a user's folder.
  (folder / _LABELS_FILE).write_bytes(_LABELS_CSV.encode())
  (folder / "audio").mkdir(exist_ok=True)
  minutes = {}
  with cli.progress_bar(num_train + num_eval, "synthesize", " clips") as bar:
    for split, num_clips in (("train", num_train), ("eval", num_eval)):
      rows = []
      for number in range(num_clips):
        rows.append(_write_clip(folder, split, number, seed))
        bar.update()
      _write_segments(folder, split, seed, rows)
      minutes[split] = sum(seconds for _, seconds, _ in rows) / 60
  return minutes


def _write_clip(folder, split, number, seed):
  """Returns (id, seconds, mids)."""
  digest = hashlib.sha256(f"{seed}/{split}/{number}".encode())
  clip_id = digest.hexdigest()[:11]
  rng = np.random.default_rng(list(digest.digest()))
  # In turn, so that a small split has enough of every class.
  waveform, rate_hz, chosen = mixture(rng, number % len(CLASSES))
  path = folder / "audio" / f"Y{clip_id}.wav"
  soundfile.write(path, waveform, rate_hz, "PCM_16")
  mids = [CLASSES[i][0] for i in chosen]
  return clip_id, len(waveform) / rate_hz, mids


def _write_segments(folder, split, seed, rows):
  labels = [mid for _, _, mids in rows for mid in mids]
  lines = [
    _HEADER.format(split, seed),
    f"# num_ytids={len(rows)}, num_segs={len(rows)}, "
    f"num_unique_labels={len(set(labels))}, num_positive_labels={len(labels)}",
    "# YTID, start_seconds, end_seconds, positive_labels",
  ]
  lines += [
    f'{clip_id}, 0.000, {seconds:.3f}, "{",".join(mids)}"'
    for clip_id, seconds, mids in rows
  ]
  (folder / f"segments_{split}.csv").write_text("\n".join(lines) + "\n")


def _clear(folder):
  """Removes an earlier synthesis, whole or cut short, and nothing else."""
  if not folder.exists() or not any(folder.iterdir()):
    return
  segments = [folder / f"segments_{split}.csv" for split in ("train", "eval")]
  segments = [path for path in segments if path.exists()]
  header = _HEADER.split("{}")[0]
  if not _begins_with(folder / _LABELS_FILE, _LABELS_CSV) or not all(
    _begins_with(path, header) for path in segments
  ):
    raise UserError(
      f"{folder} holds something that was not synthesised here; choose another "
      "--output_dir."
    )
  ids = "[0-9a-f]" * 11
  for path in [*(folder / "audio").glob(f"Y{ids}.wav"), *segments]:
    path.unlink()


def _begins_with(path, text):
  return path.is_file() and path.read_bytes().startswith(text.encode())


def _tone(hz, num_samples, rate_hz):
  return np.sin(2 * np.pi * hz * np.arange(num_samples) / rate_hz)


def _tones(frequencies_hz, num_samples, rate_hz):
  return sum(_tone(hz, num_samples, rate_hz) for hz in frequencies_hz)


def _cadence(rng, num_samples, rate_hz, *, on, off):
  """Returns 1 for `on` seconds, 0 for `off` seconds, from a random moment."""
  time = np.arange(num_samples) / rate_hz + rng.uniform(0, on + off)
  return _gate(time % (on + off), on)


def _gate(time, on):
  """Returns 1 from 0 to `on` seconds and 0 elsewhere; ramps as in `_fade`."""
  return np.clip(np.minimum(time, on - time) / 0.005, 0.0, 1.0)


def _fade(sound, rate_hz):
  """Ramps of 5 ms at both ends, against clicks that are none of the labels."""
  ramp = np.minimum(1.0, np.arange(len(sound)) / (0.005 * rate_hz))
  return sound * ramp * ramp[::-1]


def _loud_rms(sound, rate_hz):
  """Computes the RMS of the loudest fifth of a second."""
  size = min(len(sound), rate_hz // 5)
  blocks = sound[: len(sound) // size * size].reshape(-1, size)
  return max(1e-9, np.sqrt(np.mean(blocks**2, axis=1)).max())


def _log_uniform(rng, low, high):
  return np.exp(rng.uniform(np.log(low), np.log(high)))
