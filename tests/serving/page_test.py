# SPDX-License-Identifier: Apache-2.0
"""The page of recordings: what its JSON holds, and that it needs no network."""

import base64
import io
import json
import re

import numpy as np
from matplotlib import pyplot

from tf_audioset.data import audio
from tf_audioset.serving import events, page, prediction

_NAMES = ["Dog", "</script><b>", "Bell"]


def _part(waveform, scores):
  begins = np.arange(len(scores)) / 2
  return prediction.Part(
    waveform.astype(np.float32), begins, begins + 1, np.array(scores), ("ends",)
  )


def _recording(max_audio_seconds=10.0, seconds=2):
  """A tone that is on from half to one second."""
  time = np.arange(seconds * 16000) / 16000
  tone = 0.5 * np.sin(2 * np.pi * 1000 * time) * ((time >= 0.5) & (time < 1))
  recording = page.Recording(_NAMES, 16000, max_audio_seconds)
  recording.add(
    _part(tone, [[0.25, 0.5, 0.75], [0.0, 1.0, 0.5], [0.0, 0.5, 0.25]])
  )
  return recording, tone


def _content(uri, kind):
  head, _, content = uri.partition(",")
  assert head == f"data:{kind};base64"
  return base64.b64decode(content)


def test_a_recording_has_what_is_seen_and_heard(tmp_path):
  recording, tone = _recording()
  found = [events.Event(0.5, 1.5, 1, 1.0), events.Event(0.0, 1.0, 0, 0.25)]
  data = recording.data("a.wav", found, np.array([False, False, True]))
  assert data["events"] == [
    [0.0, 1.0, "Dog", 0.25],
    [0.5, 1.5, _NAMES[1], 1.0],
  ]
  assert data["seconds"] == 2 and data["remarks"] == ["ends"]
  # Windows stand for what is nearer to their middles than to others'.
  assert data["edges"] == [0.0, 0.75, 1.25, 2.0]
  rows = {row["name"]: row["scores"] for row in data["rows"]}
  assert list(rows) == [_NAMES[1], "Dog"]
  assert list(base64.b64decode(rows["Dog"])) == [64, 0, 0]
  assert list(base64.b64decode(rows[_NAMES[1]])) == [128, 255, 128]
  (tmp_path / "x.mp3").write_bytes(_content(data["audio"], "audio/mpeg"))
  heard = audio.read_audio(tmp_path / "x.mp3", sample_rate_hz=16000)
  both = slice(0, min(len(heard), len(tone)))
  assert abs(len(heard) - len(tone)) < 2000
  loud = np.abs(heard[both]).reshape(-1, 800).max(axis=1) > 0.2
  np.testing.assert_array_equal(np.flatnonzero(loud), np.arange(10, 20))
  png = io.BytesIO(_content(data["spectrogram"], "image/png"))
  picture = pyplot.imread(png)[..., :3].sum(axis=-1)
  assert picture.shape[0] == 64
  # The tone, between 0.6 and 0.9 s, is the brightest of its columns.
  columns = slice(int(picture.shape[1] * 0.3), int(picture.shape[1] * 0.45))
  brightest = 63 - picture[:, columns].argmax(axis=0)
  mels = 2595 * np.log10(1 + np.array([1000, 8000]) / 700)
  np.testing.assert_allclose(brightest, 64 * mels[0] / mels[1], atol=1.5)


def test_those_with_events_come_first_and_long_sound_is_left_out():
  recording, _ = _recording(max_audio_seconds=1.5)
  data = recording.data(
    "a.wav", [events.Event(0, 1, 2, 0.75)], np.zeros(3, bool)
  )
  assert [row["name"] for row in data["rows"]] == ["Bell", _NAMES[1], "Dog"]
  assert data["audio"] == "" and recording.audio_seconds == 0


def test_the_page_is_one_file_and_names_are_text():
  recording, _ = _recording()
  data = recording.data("<i>.wav", [], np.zeros(3, bool))
  failure = {"title": "b.wav", "error": "b.wav: cannot be read"}
  text = page.page("A & B", ["Model <x>"], [data, failure])
  assert "<title>A &amp; B</title>" in text and "Model &lt;x&gt;" in text
  assert "@@" not in text
  without_data = re.sub(r"base64,[\w+/=]+", "", text)
  assert not re.search(r"https?:|//\w|<link|src=", without_data)
  assert "default-src 'none'" in text
  (held,) = re.findall(
    r'<script type="application/json" id="data">(.*?)</script>', text, re.S
  )
  assert json.loads(held) == [data, failure]
