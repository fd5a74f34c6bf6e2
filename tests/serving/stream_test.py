# SPDX-License-Identifier: Apache-2.0
"""Events of streams, against those of the same recordings as files."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile

from tests import command, toy
from tf_audioset.serving import (
  events,
  exported_tagger,
  prediction,
  stream,
)


@pytest.fixture(name="model", scope="module")
def _model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("stream") / "1"
  toy.export_tagger(folder)
  return folder


@pytest.fixture(name="tagger", scope="module")
def _tagger(model):
  return exported_tagger.ExportedTagger(str(model))


class _Loudness:
  """A tagger of one class, whose score is the mean of the samples."""

  sample_rate_hz = 16000

  def score(self, waveforms):
    return waveforms.mean(axis=1, keepdims=True), None


def _listener(tagger, threshold, window_seconds, hop_seconds, **kwargs):
  num_classes = 1 if isinstance(tagger, _Loudness) else len(toy.NAMES)
  return stream.Listener(
    tagger,
    events.Detector(np.full(num_classes, threshold)),
    window_seconds=window_seconds,
    hop_seconds=hop_seconds,
    **kwargs,
  )


@pytest.mark.parametrize("seed", range(30))
def test_windows_are_those_of_the_whole(seed):
  rng = np.random.default_rng(seed)
  window, hop = rng.integers(1, 20, 2)
  whole = rng.normal(size=rng.integers(1, 100)).astype(np.float32)
  windows = stream.Windows(window, hop)
  got = []
  for piece in np.split(whole, np.sort(rng.integers(0, len(whole), 5))):
    got += windows.add(piece)
  got += windows.finish()
  assert not windows.finish()
  last = max(len(whole) - window, 0)
  begins = [min(i * hop, last) for i in range(1 - (-last // hop))]
  assert [begin for begin, _ in got] == begins
  for begin, samples in got:
    np.testing.assert_array_equal(samples, whole[begin : begin + window])


def _recording(path, rate_hz):
  """Stereo noise of 13.3 s that comes and goes."""
  rng = np.random.default_rng(3)
  loud = np.repeat(rng.uniform(0, 1, 7) ** 6, round(1.9 * rate_hz))
  noise = rng.uniform(-1, 1, [len(loud), 2])
  soundfile.write(path, loud[:, np.newaxis] * noise, rate_hz)
  return str(path)


def _of_file(tagger, path, window_seconds, hop_seconds):
  """The events of a file, and a threshold that no score is near to."""
  parts = list(
    prediction.score_windows(
      tagger, path, window_seconds=window_seconds, hop_seconds=hop_seconds
    )
  )
  scores = np.concatenate([part.scores for part in parts])
  ordered = np.sort(scores[:, scores.std(axis=0).argmax()])
  widest = np.diff(ordered).argmax()
  threshold = round(float(ordered[widest : widest + 2].mean()), 6)
  detector = events.Detector(np.full(len(toy.NAMES), threshold))
  found = []
  for part in parts:
    found += detector.add(part.begin_seconds, part.end_seconds, part.scores)
  return sorted(found + detector.finish()), threshold


@pytest.mark.parametrize(
  ("rate_hz", "window_seconds", "hop_seconds"),
  [(16000, 1.0, 0.5), (44100, 1.0, 0.7), (8000, 0.6, 1.1)],
)
def test_events_are_those_of_the_file(
  tagger, tmp_path, rate_hz, window_seconds, hop_seconds
):
  path = _recording(tmp_path / "x.wav", rate_hz)
  expected, threshold = _of_file(tagger, path, window_seconds, hop_seconds)
  assert len(expected) > 1
  samples, _ = soundfile.read(path, dtype="float32")
  cuts = np.cumsum(np.random.default_rng(0).integers(1, 30000, 90))
  listener = _listener(tagger, threshold, window_seconds, hop_seconds)
  pieces = [x for x in np.split(samples, cuts) if len(x)]
  got = [*listener.hear(pieces, rate_hz), *listener.finish()]
  assert len(got) == len(set(got))
  for ours, theirs in zip(sorted(got), expected, strict=True):
    assert ours.index == theirs.index
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_an_event_is_told_as_soon_as_it_is_known_to_be_over():
  """Sound from 2 to 4 s, then silence."""
  given = []

  def seconds():
    for i in range(10):
      given.append(i + 1)
      yield np.full([16000, 1], float(2 <= i < 4), np.float32)

  listener = _listener(_Loudness(), 0.5, 1.0, 0.5)
  event = next(listener.hear(seconds(), 16000))
  # The windows at 1.5 and 3.5 s are half full, that at 5.0 s begins too late.
  assert event == (1.5, 4.5, 0, 1.0)
  assert given[-1] == 6


def test_samples_that_do_not_change_are_told_once():
  said = []
  listener = _listener(_Loudness(), 0.5, 1.0, 1.0, say=said.append)
  still = np.zeros([160000, 1], np.float32)
  sound = np.arange(16000, dtype=np.float32)[:, np.newaxis] / 16000
  # An hour, and not quite a minute.
  pieces = [sound, *[still] * 360, sound, *[still] * 5]
  got = [*listener.hear(pieces, 16000), *listener.finish()]
  assert said == [
    "the samples have not changed for 60 s: they are all 0",
    "the samples change again, after 1:00:00",
  ]
  assert len(got) == 0


def test_a_sound_of_an_hour_is_one_event():
  listener = _listener(_Loudness(), 0.5, 1.0, 0.5)
  pieces = [np.full([160000, 1], 0.75, np.float32)] * 360
  assert not list(listener.hear(pieces, 16000))
  assert list(listener.finish()) == [(0, 3600, 0, 0.75)]


def test_memory_does_not_grow_with_the_stream():
  listener = _listener(_Loudness(), 0.5, 1.0, 1.0)

  def hour():
    for i in range(3600):
      yield np.full([16000, 2], i % 7 / 7, np.float32)

  peaks = []
  tracemalloc.start()
  for _ in range(3):
    tracemalloc.reset_peak()
    assert sum(1 for _ in listener.hear(hour(), 16000)) > 500
    peaks.append(tracemalloc.get_traced_memory()[1])
  tracemalloc.stop()
  assert peaks[2] < 1.05 * peaks[0] < 3e6
  assert listener.audio_seconds == 3 * 3600


def _command(model, *arguments):
  return [
    sys.executable,
    str(command.ROOT / "tools" / "predict.py"),
    f"--saved_model={model}",
    "--stream",
    *arguments,
  ]


def test_what_is_piped_in_is_printed_as_the_file_has_it(
  model, tagger, tmp_path
):
  path = _recording(tmp_path / "x.wav", 44100)
  expected, threshold = _of_file(tagger, path, 1.0, 0.5)
  content = bytearray((tmp_path / "x.wav").read_bytes())
  for place in (4, content.index(b"data") + 4):  # As FFmpeg writes to pipes.
    content[place : place + 4] = b"\xff" * 4
  same = [f"--threshold={threshold}", "--window_seconds=1"]
  done = subprocess.run(
    _command(model, *same, "--json"),
    input=bytes(content) + b"\0",
    capture_output=True,
  )
  said = done.stderr.decode()
  assert done.returncode == 1, said
  assert "predict: error: the stream ends in the middle of a sample" in said
  assert "events are printed at most 1.5 s after their end" in said
  assert "0:00:13.3 of audio in" in said
  assert f"{len(expected)} events" in said
  got = [json.loads(line) for line in done.stdout.splitlines()]
  for line in got:
    assert line["offset"] <= line["told"]
    assert line["mid"] == line["label"] in toy.NAMES
  got = sorted((x["onset"], x["offset"], x["label"], x["score"]) for x in got)
  for ours, theirs in zip(got, expected, strict=True):
    np.testing.assert_allclose(ours[:2], theirs[:2], atol=1e-4)
    assert ours[2] == toy.NAMES[theirs.index]
    assert ours[3] == pytest.approx(theirs.score, abs=1e-4)


def test_ctrl_c_tells_what_was_heard_so_far(model):
  running = subprocess.Popen(
    _command(
      model,
      "--pcm=s16le",
      "--threshold=0",
      "--pcm_channels=2",
      "--hop_seconds=9",
    ),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  samples = np.random.default_rng(0).integers(-9999, 9999, 2 * 16000)
  running.stdin.write(samples.astype("<i2").tobytes())
  running.stdin.flush()
  while b"windows of" not in (line := running.stderr.readline()):
    assert line
  running.send_signal(signal.SIGINT)
  # The pipe is still open: it is not its end that ends the program.
  out, said = running.stdout.read(), running.stderr.read()
  assert running.wait(60) == 130
  assert b"Traceback" not in said and b"predict: interrupted" in said
  rows = list(csv.DictReader(io.StringIO(out.decode()), delimiter="\t"))
  assert {row["label"] for row in rows} == set(toy.NAMES)
  assert {(row["onset"], row["offset"]) for row in rows} == {
    ("0.000000", "1.000000")
  }


def test_compressed_audio_is_refused_before_the_model_is_loaded(tmp_path):
  soundfile.write(tmp_path / "x.flac", np.zeros(1600) + 0.1, 16000)
  with open(tmp_path / "x.flac", "rb") as stdin:
    done = subprocess.run(
      _command("none"), stdin=stdin, capture_output=True, text=True
    )
  assert done.returncode == 2 and not done.stdout
  (line,) = [x for x in done.stderr.splitlines() if x.startswith("predict")]
  assert "error: the stream is flac, not PCM" in line


def test_a_terminal_is_no_stream():
  ours, theirs = os.openpty()
  done = subprocess.run(
    _command("none"), stdin=theirs, capture_output=True, text=True
  )
  os.close(ours)
  os.close(theirs)
  assert done.returncode == 2
  assert "the standard input is a terminal" in done.stderr


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["x.wav"], "--stream reads the standard input, and 'x.wav' is given"),
    (["--timeline"], "--timeline is for files: not with --stream"),
    (["--events_dir=e"], "--events_dir is for files: not with --stream"),
    (["--pcm_rate_hz=8000"], "--pcm_rate_hz is given, which needs --pcm"),
    (["--pcm=mp3"], "<u8|s16le|"),
    (["--json", "--events=tsv"], "--events says how events are printed"),
    (["--pcm=u8", "--pcm_channels=0"], "has 0 channels; allowed are 1 to 64"),
  ],
)
def test_a_mistake_in_a_flag_is_one_line(arguments, message, tmp_path):
  tool, *rest = _command("none", *arguments)[1:]
  assert message in command.fail(tool, *rest, cwd=tmp_path)
