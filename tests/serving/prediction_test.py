# SPDX-License-Identifier: Apache-2.0
"""tools/predict.py, and what it is made of, against the model alone."""

import csv
import io
import json
import os
import pathlib
import subprocess
import sys
import threading
import warnings

import av
import fontTools.fontBuilder
import fontTools.pens.ttGlyphPen
import numpy as np
import pytest
import soundfile
import tensorflow as tf
from matplotlib import font_manager, pyplot

from tests import command, toy
from tf_audioset.data import audio
from tf_audioset.serving import (
  exported_tagger,
  picture,
  prediction,
  signatures,
)


@pytest.fixture(name="model", scope="module")
def _model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("prediction") / "1"
  toy.export_tagger(folder)
  return folder


@pytest.fixture(name="tagger", scope="module")
def _tagger(model):
  return exported_tagger.ExportedTagger(str(model))


def _write(path, seconds, rate_hz=16000, seed=0):
  """Noise that grows louder, so that windows differ."""
  rng = np.random.default_rng(seed)
  noise = rng.uniform(-1, 1, round(seconds * rate_hz))
  soundfile.write(path, noise * np.linspace(1e-3, 0.9, len(noise)), rate_hz)
  return str(path)


def _alone(tagger, path):
  waveform = audio.read_audio(path, sample_rate_hz=16000)
  scores, embedding = tagger.score(waveform[np.newaxis])
  return scores[0], embedding[0]


@pytest.mark.parametrize("group_clips", [1, 3, 32])
def test_scores_are_those_of_each_clip_alone(tagger, tmp_path, group_clips):
  files = [
    _write(tmp_path / f"{i}.wav", seconds, rate_hz, seed=i)
    for i, (seconds, rate_hz) in enumerate(
      [(1, 16000), (2, 16000), (1, 44100), (0.1, 8000), (1, 16000), (2, 8000)]
    )
  ]
  files.insert(2, str(tmp_path / "none.wav"))
  got = list(prediction.score_files(tagger, files, group_clips=group_clips))
  assert "none.wav: cannot be read as audio" in str(got.pop(2))
  del files[2]
  assert [clip.file for clip in got] == files
  for clip in got:
    scores, embedding = _alone(tagger, clip.file)
    np.testing.assert_allclose(clip.scores, scores, atol=1e-6)
    np.testing.assert_allclose(clip.embedding, embedding, atol=1e-5)
  assert [clip.seconds for clip in got] == [1, 2, 1, 0.1, 1, 2]


def test_clips_of_one_length_or_shorter_than_a_crop_are_one_batch(
  tagger, tmp_path, monkeypatch
):
  files = [
    _write(tmp_path / f"{i}.wav", seconds, seed=i)
    for i, seconds in enumerate([0.1, 0.7, 0.5, 0.7, 0.33, 1])
  ]
  alone = [_alone(tagger, file) for file in files]
  shapes = []
  score = tagger.score

  def counted(waveform):
    shapes.append(waveform.shape)
    return score(waveform)

  monkeypatch.setattr(tagger, "score", counted)
  got = list(prediction.score_files(tagger, files))
  assert sorted(shapes) == [(1, 16000), (2, 11200), (3, 8000)]
  for clip, (scores, embedding) in zip(got, alone):
    np.testing.assert_allclose(clip.scores, scores, atol=1e-6)
    np.testing.assert_allclose(clip.embedding, embedding, atol=1e-5)


def test_a_file_that_is_too_long_is_refused_without_reading_it(
  tagger, tmp_path, monkeypatch
):
  monkeypatch.setattr(signatures, "MAX_CLIP_SECONDS", 3)
  files = [_write(tmp_path / f"{s}.wav", s) for s in (3, 3.5)]
  short, long = prediction.score_files(tagger, files)
  assert short.seconds == 3
  assert "3.5.wav: is longer than 3 s" in str(long)
  assert "--timeline" in str(long)


@pytest.mark.parametrize(
  ("seconds", "rate_hz", "window_seconds", "hop_seconds"),
  [
    (25, 16000, 1.0, 0.5),
    (25.01, 16000, 1.0, 0.5),
    (24.99, 44100, 0.9, 0.35),
    (23, 16000, 1.0, 1.7),
    (25, 16000, 7.0, 3.0),
    (2, 16000, 5.0, 2.5),
    (2, 16000, 2.0, 2.0),
    (7, 16000, 1.0, 1 / 3),
  ],
)
def test_windows_are_those_of_the_signature_on_the_whole(
  tagger, tmp_path, monkeypatch, seconds, rate_hz, window_seconds, hop_seconds
):
  monkeypatch.setattr(prediction, "_PART_SECONDS", 4.0)
  file = _write(tmp_path / "long.wav", seconds, rate_hz)
  parts = list(
    prediction.score_windows(
      tagger, file, window_seconds=window_seconds, hop_seconds=hop_seconds
    )
  )
  assert len(parts) >= seconds / 4 - 3
  whole = audio.read_audio(file, sample_rate_hz=16000)
  np.testing.assert_allclose(
    np.concatenate([part.waveform for part in parts]), whole, atol=1e-6
  )
  expected = tf.saved_model.load(tagger.directory).signatures["timeline"](
    waveform=tf.constant(whole[np.newaxis]),
    window_seconds=tf.constant(window_seconds),
    hop_seconds=tf.constant(hop_seconds),
  )
  np.testing.assert_allclose(
    np.concatenate([part.scores for part in parts]),
    expected["scores"][0],
    atol=1e-6,
  )
  begins = np.concatenate([part.begin_seconds for part in parts])
  np.testing.assert_allclose(begins, expected["times_seconds"], atol=1e-5)
  ends = np.concatenate([part.end_seconds for part in parts])
  np.testing.assert_allclose(
    ends - begins, min(window_seconds, seconds), atol=1e-4
  )


def test_a_model_without_the_signature_is_told(tagger, tmp_path):
  module = tf.Module()
  old = {
    name: tagger._module.signatures[name]
    for name in ("serving_default", "classes")
  }
  module.variables_of_old = tagger._module.model_variables
  tf.saved_model.save(module, str(tmp_path / "old"), signatures=old)
  with pytest.raises(ValueError, match="has no signature timeline: export"):
    exported_tagger.ExportedTagger(str(tmp_path / "old")).timeline(
      np.zeros(9), 1, 1
    )


def _part(begins, scores, seconds=1.0):
  begins = np.array(begins, float)
  return prediction.Part(
    np.zeros(0, np.float32), begins, begins + seconds, np.array(scores)
  )


@pytest.mark.parametrize(
  ("seconds", "text"),
  [(0, "0:00:00"), (62.5, "0:01:02.5"), (3723.999, "1:02:04")],
)
def test_time_is_written_as_a_clock_has_it(seconds, text):
  assert prediction.clock(seconds) == text


@pytest.mark.parametrize("merge", [np.mean, np.max])
def test_columns_are_bounded_and_equal_the_stream_in_groups(merge):
  rows = np.random.default_rng(0).normal(size=[1003, 2])
  columns = picture.Columns(50, merge)
  for chunk in np.split(rows, [1, 40, 333, 900]):
    columns.add(chunk)
  got = columns.all()
  # 16 rows in each: with 8 there would be 125.
  expected = [merge(rows[i : i + 16], axis=0) for i in range(0, 1003, 16)]
  np.testing.assert_allclose(got, expected)


def test_a_recording_shorter_than_a_frame_has_a_picture():
  image = picture.Picture(["A"], 16000)
  part = _part([0], [[0.5]])
  part.waveform = np.full(10, 0.1, np.float32)
  image.add(part)
  assert pyplot.imread(io.BytesIO(image.png("x"))).shape[:2] == (800, 1200)


@pytest.mark.parametrize("text", ["a$_$b", "5$", "$x$", r"\$a$ \$", "a_b"])
def test_no_name_is_a_formula(text):
  """Drawn as matplotlib draws it when told that nothing is one."""
  image = picture.Picture([text], 16000)
  part = _part([0], [[0.5]])
  part.waveform = np.full(1600, 0.1, np.float32)
  image.add(part)
  image.png(text)
  drawn = []
  for parse_math, shown in ((True, picture.literal(text)), (False, text)):
    figure = pyplot.figure(figsize=(3, 1))
    figure.text(0.1, 0.5, shown, parse_math=parse_math)
    figure.canvas.draw()
    drawn.append(np.asarray(figure.canvas.buffer_rgba()).copy())
    pyplot.close(figure)
  np.testing.assert_array_equal(*drawn)


@pytest.fixture(name="no_fonts_are_kept")
def _no_fonts_are_kept():
  """What matplotlib knows of fonts is as before."""
  picture._font_with.cache_clear()
  before = list(font_manager.fontManager.ttflist)
  yield
  font_manager.fontManager.ttflist[:] = before
  picture._font_with.cache_clear()


def _font(path, letter):
  """Makes a font of one letter, a square."""
  builder = fontTools.fontBuilder.FontBuilder(1000)
  builder.setupGlyphOrder([".notdef", "square"])
  builder.setupCharacterMap({ord(letter): "square"})
  pen = fontTools.pens.ttGlyphPen.TTGlyphPen(None)
  pen.moveTo((100, 0))
  for point in ((100, 900), (900, 900), (900, 0)):
    pen.lineTo(point)
  pen.closePath()
  glyph = pen.glyph()
  builder.setupGlyf({".notdef": glyph, "square": glyph})
  builder.setupHorizontalMetrics(
    dict.fromkeys([".notdef", "square"], (1000, 0))
  )
  builder.setupHorizontalHeader(ascent=900, descent=-100)
  builder.setupNameTable({"familyName": "Square", "styleName": "Regular"})
  builder.setupOS2()
  builder.setupPost()
  builder.save(path)


def test_letters_without_a_font_are_spelled_out(tmp_path, no_fonts_are_kept):
  letter = "\U000f0000"  # For private use: no font has it.
  assert picture.literal(f"a{letter}\n") == r"a\U000f0000\n"
  assert picture.fonts("a", letter) == ["DejaVu Sans"]
  image = picture.Picture([letter, "犬"], 16000)
  part = _part([0], [[0.5, 0.5]])
  part.waveform = np.full(1600, 0.1, np.float32)
  image.add(part)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    image.png(letter)
    _font(tmp_path / "square.ttf", letter)
    font_manager.fontManager.addfont(tmp_path / "square.ttf")
    picture._font_with.cache_clear()
    assert picture.literal(letter) == letter
    assert picture.fonts("a", letter) == ["DejaVu Sans", "Square"]
    image.png(letter)


def _predict(model, *arguments):
  return [
    command.ROOT / "tools" / "predict.py",
    f"--saved_model={model}",
    *arguments,
  ]


def test_tables_go_to_programs_with_exit_code_1_for_a_broken_file(
  model, tagger, tmp_path
):
  _write(tmp_path / "a.wav", 1)
  (tmp_path / "bad.wav").write_bytes(b"?")
  _write(tmp_path / "c.flac", 2)
  done = command.run(
    *_predict(model, "--csv", "--embeddings=new/e.npz", "--top_k=9", "."),
    cwd=tmp_path,
  )
  assert done.returncode == 1
  assert done.stderr.count("predict: error: bad.wav: cannot be read") == 1
  # Short work has no progress bar in a log file.
  assert done.stderr.startswith("predict: error: bad.wav")
  assert "2 of 3 clips, 0:00:03 of audio, in" in done.stderr
  rows = list(csv.DictReader(io.StringIO(done.stdout)))
  assert len(rows) == 6
  scores, embedding = _alone(tagger, tmp_path / "c.flac")
  assert [row["name"] for row in rows[3:]] == [
    toy.NAMES[i] for i in np.argsort(-scores)
  ]
  assert rows[3]["file"] == "c.flac"
  assert float(rows[3]["score"]) == pytest.approx(scores.max(), abs=1e-6)
  assert os.listdir(tmp_path / "new") == ["e.npz"]
  with np.load(tmp_path / "new" / "e.npz") as arrays:
    assert list(arrays["files"]) == ["a.wav", "c.flac"]
    np.testing.assert_allclose(arrays["embeddings"][1], embedding, atol=1e-5)
    np.testing.assert_allclose(arrays["scores"][1], scores, atol=1e-6)
    assert list(arrays["names"]) == list(toy.NAMES)


@pytest.mark.parametrize("is_told", [False, True])
def test_a_timeline_of_the_standard_input(model, tagger, tmp_path, is_told):
  path = _write(tmp_path / "long.mp3", 6, 44100)
  thresholds = tmp_path / "per_class.csv"
  # As tools/evaluate.py writes it: the last class has no positive clip. The
  # mark in front is Excel's.
  thresholds.write_text(
    "mid,threshold,f1\n"
    + "".join(
      f"{mid},{value},0.5\n"
      for mid, value in zip(tagger.classes.mids, (0, 2, ""))
    ),
    encoding="utf-8-sig",
  )
  told = [f"--thresholds_csv={thresholds}", "--threshold=1"] if is_told else []
  with open(path, "rb") as stdin:
    done = subprocess.run(
      [
        sys.executable,
        *_predict(model, "--timeline", "--json", "--top_k=1", "-"),
        "--window_seconds=2",
        f"--png_dir={tmp_path}",
        f"--audacity_dir={tmp_path}",
        *told,
      ],
      stdin=stdin,
      capture_output=True,
      text=True,
      check=True,
    )
  windows = [json.loads(line) for line in done.stdout.splitlines()]
  whole = audio.read_audio(path, sample_rate_hz=16000)
  expected = tagger.timeline(whole, 2, 1)
  assert len(windows) == len(expected)
  for window, scores in zip(windows, expected):
    assert window["file"] == "-"
    (tag,) = window["tags"]
    assert tag["name"] == toy.NAMES[scores.argmax()]
    assert tag["score"] == pytest.approx(scores.max(), abs=1e-5)
  assert [window["begin_seconds"] for window in windows[:2]] == [0, 1]
  limits = [0, 2, 1] if is_told else [2, 0, 0.5]
  active = (expected >= limits).all(axis=0)
  assert ((expected >= limits).any(axis=0) == active).all()
  end = len(whole) / 16000
  assert (tmp_path / "stdin.txt").read_text() == "".join(
    f"0.000000\t{end:.6f}\t{toy.NAMES[i]}\n" for i in np.flatnonzero(active)
  )
  assert pyplot.imread(tmp_path / "stdin.png").shape[:2] == (800, 1200)


def _events_of(tagger, path, threshold):
  """(begin, end, name), of windows of 1 s each half second, that touch."""
  waveform = audio.read_audio(path, sample_rate_hz=16000)
  found = []
  for i, column in enumerate(tagger.timeline(waveform, 1, 0.5).T):
    for k in np.flatnonzero(column >= threshold):
      begin = min(k / 2, len(waveform) / 16000 - 1)
      if found and found[-1][2] == toy.NAMES[i] and begin <= found[-1][1]:
        found[-1][1] = begin + 1
      else:
        found.append([begin, begin + 1, toy.NAMES[i]])
  return sorted(found)


def _changing(path):
  """Noise of 13.3 s that comes and goes, so that there are several events."""
  rng = np.random.default_rng(3)
  loud = np.repeat(rng.uniform(0, 1, 7) ** 6, 30400)
  soundfile.write(path, loud * rng.uniform(-1, 1, len(loud)), 16000)
  return str(path)


def _between(tagger, path):
  """A threshold that no score is near to, and that some are above."""
  scores = tagger.timeline(audio.read_audio(path, sample_rate_hz=16000), 1, 0.5)
  ordered = np.sort(scores[:, scores.std(axis=0).argmax()])
  widest = np.diff(ordered).argmax()
  return round(float(ordered[widest : widest + 2].mean()), 6)


def test_events_of_files_are_printed_or_written(model, tagger, tmp_path):
  paths = [_changing(tmp_path / "a.wav"), _write(tmp_path / "b.wav", 3)]
  threshold = _between(tagger, paths[0])
  expected = {
    name: _events_of(tagger, path, threshold)
    for name, path in zip(("a.wav", "b.wav"), paths)
  }
  assert len(expected["a.wav"]) > 1
  same = ["--timeline", "--window_seconds=1", f"--threshold={threshold}"]
  out = command.succeed(
    *_predict(model, *same, "--events=tsv", "a.wav", "b.wav"), cwd=tmp_path
  )
  got = {name: [] for name in expected}
  for row in csv.DictReader(io.StringIO(out), delimiter="\t"):
    times = float(row["onset"]), float(row["offset"])
    got[row["filename"]].append([*times, row["label"]])
  assert got == expected
  out = command.succeed(
    *_predict(model, *same, "--events=raven", "--events_dir=e", "--json"),
    "--audacity_dir=e",
    *("a.wav", "b.wav"),
    cwd=tmp_path,
  )
  assert json.loads(out.splitlines()[0])["file"] == "a.wav"
  for name, found in expected.items():
    table = (tmp_path / "e" / f"{name}.Table.1.selections.txt").read_text()
    rows = csv.DictReader(io.StringIO(table), delimiter="\t")
    columns = "Begin Time (s)", "End Time (s)", "Species"
    assert [[row[c] for c in columns] for row in rows] == [
      [f"{begin:.6f}", f"{end:.6f}", label] for begin, end, label in found
    ]
    assert (tmp_path / "e" / f"{name}.txt").read_text() == "".join(
      f"{begin:.6f}\t{end:.6f}\t{label}\n" for begin, end, label in found
    )


def test_events_without_a_place_for_names_are_of_one_recording(model, tmp_path):
  for name in "ab":
    _write(tmp_path / f"{name}.wav", 1)
  line = command.fail(
    *_predict(model, "--timeline", "--events=audacity", "."), cwd=tmp_path
  )
  assert "has no place for the names of 2 recordings: give --events_dir" in line


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl"])
def test_one_table_of_all_files(model, tagger, tmp_path, ending):
  """With all those classes whose score is high enough."""
  names = ["a.wav", "b\tb.wav"]
  for i, name in enumerate(names):
    _write(tmp_path / name, 1, seed=i)
  (tmp_path / "bad.wav").write_bytes(b"?")
  scores = [_alone(tagger, tmp_path / name)[0] for name in names]
  ordered = np.sort(np.concatenate(scores))
  limit = (ordered[2] + ordered[3]) / 2
  done = command.run(
    *_predict(model, f"--output=o/all.{ending}", f"--min_score={limit}"),
    *("bad.wav", *names),
    cwd=tmp_path,
  )
  assert done.returncode == 1 and done.stdout == ""
  text = (tmp_path / "o" / f"all.{ending}").read_text()
  if ending in ("csv", "tsv"):
    delimiter = "," if ending == "csv" else "\t"
    rows = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    got = {(r["file"], r["name"]): float(r["score"]) for r in rows}
  else:
    clips = json.loads(text) if ending == "json" else None
    clips = clips or [json.loads(line) for line in text.splitlines()]
    assert [clip["file"] for clip in clips] == names
    tags = [(clip["file"], tag) for clip in clips for tag in clip["tags"]]
    got = {(file, tag["name"]): tag["score"] for file, tag in tags}
  assert got == {
    (name, toy.NAMES[i]): pytest.approx(row[i], abs=1e-6)
    for name, row in zip(names, scores)
    for i in np.flatnonzero(row >= limit)
  }


def test_a_table_of_each_file_lies_as_the_files_do(model, tagger, tmp_path):
  names = ["day1/rec.wav", "day2/rec.wav"]
  for i, name in enumerate(names):
    (tmp_path / name).parent.mkdir()
    _write(tmp_path / name, 2, seed=i)
  command.succeed(
    *_predict(model, "--timeline", "--output_dir=o", "--json", "."),
    "--window_seconds=1",
    f"--classes={toy.NAMES[2]},{toy.NAMES[0]}",
    cwd=tmp_path,
  )
  for name in names:
    windows = json.loads((tmp_path / "o" / f"{name}.json").read_text())
    waveform = audio.read_audio(tmp_path / name, sample_rate_hz=16000)
    expected = tagger.timeline(waveform, 1, 0.5)
    assert [window["begin_seconds"] for window in windows] == [0, 0.5, 1]
    for window, scores in zip(windows, expected):
      assert {tag["name"]: tag["score"] for tag in window["tags"]} == {
        toy.NAMES[i]: pytest.approx(scores[i], abs=1e-5) for i in (0, 2)
      }


def test_classes_below_their_thresholds_can_be_left_out(model, tmp_path):
  """The model's own are 2, 0 and none."""
  _write(tmp_path / "a.wav", 1)
  out = command.succeed(
    *_predict(model, "--above_thresholds", "--csv", "a.wav"), cwd=tmp_path
  )
  names = {row["name"] for row in csv.DictReader(io.StringIO(out))}
  assert toy.NAMES[0] not in names and toy.NAMES[1] in names


def test_a_page_shows_all_recordings(model, tagger, tmp_path):
  path = _changing(tmp_path / "a.wav")
  threshold = _between(tagger, path)
  (tmp_path / "bad.wav").write_bytes(b"?")
  _write(tmp_path / "c.wav", 1)
  done = command.run(
    *_predict(model, "--timeline", "--html=o/page.html", "--window_seconds=1"),
    f"--threshold={threshold}",
    "--html_max_minutes=0.23",  # Of 13.3 and 1 s.
    *("a.wav", "bad.wav", "c.wav"),
    cwd=tmp_path,
  )
  assert done.returncode == 1, done.stderr
  assert "o/page.html has no sound of 1 recordings" in done.stderr
  page = (tmp_path / "o" / "page.html").read_text()
  a, bad, c = json.loads(page.split('id="data">')[1].split("</script>")[0])
  assert [event[:3] for event in a["events"]] == _events_of(
    tagger, path, threshold
  )
  assert a["seconds"] == pytest.approx(13.3) and a["audio"]
  assert "bad.wav: cannot be read" in bad["error"]
  assert c["title"] == "c.wav" and not c["audio"]


def test_a_terminal_gets_bars(model, tagger, tmp_path):
  path = _write(tmp_path / "a.wav", 1)
  ours, theirs = os.openpty()
  subprocess.run(
    [sys.executable, *_predict(model, "--top_k=1", path)],
    stdout=theirs,
    stderr=subprocess.DEVNULL,
    check=True,
    env={**os.environ, "PYTHONIOENCODING": "utf-8"},
  )
  lines = os.read(ours, 10000).decode().splitlines()
  os.close(ours)
  os.close(theirs)
  scores, _ = _alone(tagger, path)
  full = round(float(scores.max()) * 20)
  bar = "█" * full + "░" * (20 - full)
  assert lines == [
    f"{path}  (1.00 s)",
    f"  {scores.max():.4f}  {bar}  {toy.NAMES[scores.argmax()]}",
  ]


def _encoded(path, samples, codec, container):
  """Writes 48 kHz audio with FFmpeg's libraries."""
  with av.open(str(path), "w", format=container) as file:
    stream = file.add_stream(codec, rate=48000, layout="mono")
    frame = av.AudioFrame.from_ndarray(
      samples[np.newaxis].astype(np.float32), "fltp", "mono"
    )
    frame.sample_rate = 48000
    resampler = av.AudioResampler(stream.format, "mono", 48000, 960)
    for part in [*resampler.resample(frame), *resampler.resample(None), None]:
      file.mux(stream.encode(part))


def test_a_folder_is_read_by_content_and_all_of_it_accounted_for(
  model, tmp_path
):
  (tmp_path / "blues").mkdir()
  for name in ("blues/b.au", "t1.aiff", "t2.aif", "y.wav", "no_ending"):
    kind = {".aif": "AIFF", "": "FLAC"}.get(os.path.splitext(name)[1])
    with open(tmp_path / name, "wb") as file:
      kind = kind or name.rpartition(".")[2].upper()
      soundfile.write(file, np.zeros(8000) + 0.1, 16000, format=kind)
  _encoded(tmp_path / "x.weba", np.zeros(48000) + 0.1, "libopus", "webm")
  (tmp_path / "notes.txt").write_text("no sound")
  (tmp_path / ".hidden.wav").write_bytes(b"?")
  # Nobody writes to it: opened, it would wait for ever.
  os.mkfifo(tmp_path / "live.wav")
  done = command.run(*_predict(model, "--json", "."), cwd=tmp_path, timeout=60)
  assert done.returncode == 0, done.stderr
  files = [json.loads(line)["file"] for line in done.stdout.splitlines()]
  assert files == sorted(
    ["blues/b.au", "t1.aiff", "t2.aif", "y.wav", "no_ending", "x.weba"]
  )
  assert "predict: passed over: 1 .txt" in done.stderr
  assert "1 pipe (./live.wav)" in done.stderr
  assert "1 hidden (./.hidden.wav)" in done.stderr


def test_pipes_that_are_named_are_read_once(model, tagger, tmp_path):
  path = _write(tmp_path / "a.wav", 1)
  samples, rate_hz = soundfile.read(path)
  soundfile.write(tmp_path / "a.flac", samples, rate_hz)
  writers = []
  for kind in ("wav", "flac"):
    os.mkfifo(tmp_path / f"pipe.{kind}")
    content = (tmp_path / f"a.{kind}").read_bytes()
    write = (tmp_path / f"pipe.{kind}").write_bytes
    writers.append(threading.Thread(target=write, args=[content], daemon=True))
    writers[-1].start()
  # One is given twice, and with a device beside them.
  names = ["pipe.wav", "a.wav", "pipe.flac", "pipe.wav", "/dev/zero", "none"]
  done = command.run(
    *_predict(model, "--json", "--top_k=1", *names), cwd=tmp_path, timeout=60
  )
  assert done.returncode == 1
  expected = _alone(tagger, path)[0].max()
  lines = [json.loads(line) for line in done.stdout.splitlines()]
  assert [line["file"] for line in lines] == names[:4]
  for line in lines:
    assert line["tags"][0]["score"] == pytest.approx(expected, abs=1e-5)
  assert "/dev/zero: cannot be read (a device or socket" in done.stderr
  assert "none: cannot be read as audio" in done.stderr
  assert "4 of 6 clips" in done.stderr


def test_a_pipe_has_a_timeline_and_files_under_its_name(model, tmp_path):
  content = pathlib.Path(_write(tmp_path / "a.wav", 2)).read_bytes()
  os.mkfifo(tmp_path / "63")
  write = threading.Thread(
    target=(tmp_path / "63").write_bytes, args=[content], daemon=True
  )
  write.start()
  out = command.succeed(
    *_predict(model, "--timeline", "--audacity_dir=o", "63"), cwd=tmp_path
  )
  assert {line.split("\t")[0] for line in out.splitlines()} == {"63"}
  assert os.listdir(tmp_path / "o") == ["63.txt"]


def test_files_that_begin_as_flags_do_are_told(model, tmp_path):
  names = ["-0s3IERDp00.wav", "YtHEfKsx00.wav"]
  for name in names:
    _write(tmp_path / name, 1)
  line = command.fail(*_predict(model, *names), cwd=tmp_path)
  assert "'-0s3IERDp00.wav' is the name of a file" in line
  assert "put -- before the first FILE, or ./ before this one" in line
  out = command.succeed(
    *_predict(model, "--top_k=1", "--", *names), cwd=tmp_path
  )
  assert [line.split("\t")[0] for line in out.splitlines()] == names
  line = command.fail(*_predict(model, "-no_such_file.wav"), cwd=tmp_path)
  assert "Unknown command line flag" in line


@pytest.mark.parametrize("is_timeline", [False, True])
def test_scores_of_silence_are_told(model, tmp_path, is_timeline):
  rng = np.random.default_rng(0)
  left = rng.uniform(-0.5, 0.5, 32000)
  for name, channels in (
    ("opposite", np.stack([left, -left], axis=1)),
    ("silent", np.zeros(32000)),
    ("sound", np.stack([left, left], axis=1)),
  ):
    soundfile.write(tmp_path / f"{name}.wav", channels, 16000)
  timeline = ["--timeline"] if is_timeline else []
  done = command.run(*_predict(model, "--json", *timeline, "."), cwd=tmp_path)
  assert done.returncode == 0
  assert f"predict: opposite.wav: {audio.CANCELLED}\n" in done.stderr
  assert f"predict: silent.wav: {prediction.SILENT}\n" in done.stderr
  assert "sound.wav" not in done.stderr
  remarks = {}  # Those of the last window of each.
  for line in map(json.loads, done.stdout.splitlines()):
    remarks[line["file"]] = line["remarks"]
  assert remarks == {
    "opposite.wav": [audio.CANCELLED],
    "silent.wav": [prediction.SILENT],
    "sound.wav": [],
  }


def test_what_is_written_lies_as_the_files_do(model, tmp_path):
  names = ["dog/1.wav", "cat/1.wav", f"{'long' * 62}.wav"]
  for name in names:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    _write(tmp_path / name, 1)
  command.succeed(
    *_predict(model, "--timeline", "--png_dir=p", "--audacity_dir=t", *names),
    cwd=tmp_path,
  )
  for folder, ending in (("p", "png"), ("t", "txt")):
    short, *others = sorted(
      str(path.relative_to(tmp_path / folder))
      for path in (tmp_path / folder).rglob(f"*.{ending}")
    )[::-1]
    assert others == [f"dog/1.wav.{ending}", f"cat/1.wav.{ending}"]
    assert short.startswith("long" * 50) and len(short) < 240


def test_what_cannot_be_written_keeps_nothing_back(model, tmp_path):
  """`ulimit -f` stands for the full disk: no file above 4 kB."""
  for name in ("a.wav", "b.wav"):
    _write(tmp_path / name, 1)
  tool, *arguments = _predict(model, "--timeline", "--png_dir=p", ".")
  limited = (
    "import resource, sys, runpy;"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, -1));"
    "sys.argv[0] = 'predict';"
    f"runpy.run_path({str(tool)!r}, run_name='__main__')"
  )
  done = command.run(
    "-c", limited, *arguments, "--audacity_dir=t", cwd=tmp_path
  )
  assert done.returncode == 2
  assert {line.split("\t")[0] for line in done.stdout.splitlines()} == {
    "a.wav",
    "b.wav",
  }
  assert "2 of 2 clips" in done.stderr
  assert "could not be written: p/a.wav.png (File too large), p/b" in (
    done.stderr
  )
  assert sorted(os.listdir(tmp_path / "t")) == ["a.wav.txt", "b.wav.txt"]
  assert not os.listdir(tmp_path / "p")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--json", "--csv", "x"], "--json and --csv are given: choose one"),
    (["--timeline", "--embeddings=e", "x"], "--embeddings are of whole files"),
    (["--png_dir=p", "x"], "--png_dir is given, which needs --timeline"),
    (["--hop_seconds=1", "x"], "--hop_seconds is given, which needs"),
    (["--timeline", "--threshold=1", "x"], "which needs --audacity_dir"),
    (
      ["--timeline", "--min_seconds=1", "x"],
      "which needs --audacity_dir, --events or",
    ),
    (["--csv", "--tsv", "x"], "--csv and --tsv are given: choose one"),
    (["--output=x.xlsx", "x"], "'.xlsx' is given: give one of .csv, .tsv"),
    (["--output=x.csv", "--json", "x"], "--json is given: give one of .csv"),
    (["--output=x.csv", "--output_dir=o", "x"], "choose one"),
    (["--output=/proc/none/x.csv", "x"], "another place with --output"),
    (["--timeline", "--events=tsv", "--output=x.csv", "x"], "--events_dir"),
    (["--html=x.html", "x"], "--html is given, which needs --timeline"),
    (["--timeline", "--html_max_minutes=1", "x"], "which needs --html"),
    (["--ontology=x.json", "x"], "--ontology is given, which needs --classes"),
    (["--min_score=2", "x"], "min_score=2"),
    (["--events=tsv", "x"], "--events is given, which needs --timeline"),
    (["--timeline", "--events_dir=e", "x"], "which needs --events"),
    (["--timeline", "--events=xml", "x"], "<tsv|csv|json|audacity|raven>"),
    (["--timeline", "--events=tsv", "--json", "x"], "or --events=json, =csv"),
    (["--timeline", "--hop_seconds=0", "x"], "hop_seconds=0"),
    (["--embeddings=/proc/none/e", "x"], "/proc/none"),
    (["--embeddings=/proc/e", "x"], "/proc: cannot be written to"),
    (["--embeddings=new/", "x"], "--embeddings=new/: a folder; give a file"),
    (["--embeddings=/dev/null", "x"], "/dev/null: that is no file"),
    ([], "at least one FILE is required"),
    (["none/*.wav"], "none/*.wav: no audio file there"),
    (
      ["--timeline", "--png_dir=/proc/none", "x"],
      "another place with --png_dir",
    ),
  ],
)
def test_a_mistake_in_a_flag_is_one_line(arguments, message, tmp_path):
  line = command.fail(*_predict("none", *arguments), cwd=tmp_path)
  assert message in line


def test_thresholds_that_do_not_fit_are_refused(model, tagger, tmp_path):
  file = tmp_path / "per_class.csv"
  rows = "".join(f"{mid},high\n" for mid in tagger.classes.mids)
  for content, message in (
    ("mid,threshold\n/m/x,0.5\n", "no threshold of class"),
    (f"mid,f1\n{rows}", "no threshold of class"),
    (f"f1,mid,threshold\n{rows}", "no threshold of class"),
    (
      f"mid,threshold\n{rows}",
      "per_class.csv: threshold: could not convert string",
    ),
    ("x" * 200_000, "per_class.csv: cannot be read: field larger than"),
  ):
    file.write_text(content)
    line = command.fail(
      *_predict(model, "--timeline", f"--thresholds_csv={file}", "x.wav"),
      f"--audacity_dir={tmp_path}",
    )
    assert message in line


def test_embeddings_that_cannot_be_written_leave_the_older_ones(
  model, tmp_path
):
  """`ulimit -f` stands for the full disk: no file above 1 kB."""
  _write(tmp_path / "a.wav", 1)
  (tmp_path / "e.npz").write_text("older")
  tool, *arguments = _predict(model, "--embeddings=e.npz", "a.wav")
  limited = (
    "import resource, sys, runpy;"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1));"
    "sys.argv[0] = 'predict';"
    f"runpy.run_path({str(tool)!r}, run_name='__main__')"
  )
  line = command.fail("-c", limited, *arguments, cwd=tmp_path)
  assert "File too large" in line
  assert (tmp_path / "e.npz").read_text() == "older"
  assert {path.name for path in tmp_path.iterdir()} == {"a.wav", "e.npz"}


def test_benchmark(model, tmp_path):
  for i in range(3):
    _write(tmp_path / f"{i}.wav", 1 + i % 2, seed=i)
  printed = command.succeed(
    "benchmarks/benchmark_predict.py",
    f"--saved_model={model}",
    "--rounds=1",
    tmp_path,
  )
  head, *rows = printed.splitlines()
  assert head == "3 files of 2 lengths, 0:00:04"
  seconds = {row.split()[0]: float(row.split()[1]) for row in rows}
  assert [*seconds] == ["decode", "model", "both", "command", "start-up"]
  assert seconds["start-up"] > 0.5  # TensorFlow is imported.


def test_benchmark_of_a_broken_file_is_one_line(model, tmp_path):
  (tmp_path / "bad.wav").write_bytes(b"?")
  line = command.fail(
    "benchmarks/benchmark_predict.py", f"--saved_model={model}", tmp_path
  )
  assert "bad.wav: cannot be read as audio" in line
