# SPDX-License-Identifier: Apache-2.0
"""Clients against a server that runs the exported model by the C library."""

import contextlib
import http.server
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from tests import command, model_server, toy
from tf_audioset.data import labels
from tf_audioset.serving import (
  client,
  exported_tagger,
  prediction,
  signatures,
)

_KINDS = [client.Grpc, client.Rest]


@pytest.fixture(name="model", scope="module")
def _model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("serving") / "1"
  toy.export_tagger(folder)
  return folder


@pytest.fixture(name="running", scope="module")
def _running(model):
  server = model_server.ModelServer(str(model))
  yield server
  server.close()


@pytest.fixture(name="server")
def _server(running):
  running.failures.clear()
  running.shapes.clear()
  return running


def _connect(server, kind, timeout_seconds=60.0):
  host = server.grpc_host if kind is client.Grpc else server.rest_host
  return kind(host, model="tagger", timeout_seconds=timeout_seconds)


def _noise(*shape):
  rng = np.random.default_rng(0)
  return rng.uniform(-0.5, 0.5, shape).astype(np.float32)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("signature", ["serving_default", "wav"])
def test_a_served_tagger_is_the_exported_one(server, model, kind, signature):
  exported = exported_tagger.ExportedTagger(str(model))
  served = client.ServedTagger(_connect(server, kind), signature=signature)
  assert served.classes == exported.classes
  assert served.sample_rate_hz == 16000
  # 16 bits hold these exactly.
  waveform = np.round(_noise(3, 12345) * 32768) / 32768
  for got, expected in zip(served.score(waveform), exported.score(waveform)):
    np.testing.assert_allclose(got, expected, atol=1e-5)


_LONG = 601 * 16000


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize(
  ("waveform", "message"),
  [
    (_noise(8000), r"must be \[batch, num_samples\].* \[8000\]"),
    (_noise(), r"must be \[batch, num_samples\].* given:\] \[\]"),
    (_noise(1, 8000, 2), r"must be \[batch, num_samples\].* \[1 8000 2\]"),
    (_noise(2, 8000) * np.nan, "not finite; the greatest is.* .nan"),
    (np.full([1, 9], -np.inf, np.float32), "not finite; the greatest is.* .in"),
    (np.full([1, 9], -9000, np.float32), r"divided by 32768.*\[9000\]"),
  ],
)
def test_what_cannot_be_scored_is_an_invalid_argument(
  server, kind, waveform, message
):
  connection = _connect(server, kind)
  code = "INVALID_ARGUMENT" if kind is client.Grpc else "HTTP 400"
  with pytest.raises(client.ServingError, match=f"{code}: .*{message}"):
    connection.predict("serving_default", {"waveform": waveform})
  good = connection.predict("serving_default", {"waveform": _noise(1, 8000)})
  assert good["scores"].shape == (1, 3)


@pytest.mark.parametrize(
  ("signature", "inputs", "message"),
  [
    ("serving_default", {"waveform": np.zeros([1, 9], np.int16)}, "be float"),
    ("serving_default", {"wave": _noise(1, 9)}, "does not match signature"),
    (
      "serving_default",
      {"waveform": _noise(0, 8000)},
      r"one clip or more, of one sample or more; given:\] \[0 8000\]",
    ),
    (
      "serving_default",
      {"waveform": np.zeros([1, 0], np.float32)},
      r"given:\] \[1 0\]",
    ),
    (
      "serving_default",
      {"waveform": np.zeros([1, _LONG], np.float32)},
      "600 s",
    ),
    (
      "batched",
      {"waveform": _noise(160000)},
      r"\[160000\] is not compatible with expected shape \[8,160000\]",
    ),
    (
      "timeline",
      {
        "waveform": _noise(8000),
        "window_seconds": np.float32(1),
        "hop_seconds": np.float32(1),
      },
      r"must be \[batch, num_samples",
    ),
    (
      "timeline",
      {
        "waveform": np.zeros([1, _LONG], np.float32),
        "window_seconds": np.float32(700),
        "hop_seconds": np.float32(1),
      },
      "600 s",
    ),
    ("wav", {"wav": np.array([b"RIFF"], object)}, "not a wav file"),
  ],
)
def test_other_mistakes_are_invalid_arguments(
  server, signature, inputs, message
):
  with pytest.raises(
    client.ServingError, match=f"INVALID_ARGUMENT: .*{message}"
  ):
    _connect(server, client.Grpc).predict(signature, inputs)


def test_all_clips_of_a_request_have_a_limit(monkeypatch):
  monkeypatch.setattr(signatures, "MAX_SECONDS", 2)
  checked = tf.function(signatures._checked)
  checked(tf.zeros([2, 16000]))
  with pytest.raises(
    tf.errors.InvalidArgumentError, match="of a request 2 s, .*3 16000"
  ):
    checked(tf.zeros([3, 16000]))


def test_twenty_minutes_have_a_timeline(server):
  connection = _connect(server, client.Grpc)
  got = connection.predict(
    "timeline",
    {
      "waveform": np.zeros([1, 1200 * 16000], np.float32),
      "window_seconds": np.float32(60),
      "hop_seconds": np.float32(60),
    },
  )
  assert got["scores"].shape == (1, 20, 3)


@pytest.mark.parametrize("kind", _KINDS)
def test_an_unavailable_server_is_asked_again(server, kind, monkeypatch):
  waits = []
  monkeypatch.setattr(client.retry, "__kwdefaults__", {"sleep": waits.append})
  served = client.ServedTagger(_connect(server, kind), num_retries=3)
  server.failures += [(14, "restarting")] * 3
  assert served.score(_noise(1, 8000))[0].shape == (1, 3)
  assert len(waits) == 3
  for wait, longest in zip(waits, (0.25, 0.5, 1.0)):
    assert longest / 2 <= wait <= longest
  server.failures += [(14, "restarting")] * 4
  with pytest.raises(client.UnavailableError, match="restarting"):
    served.score(_noise(1, 8000))
  assert not server.failures and len(waits) == 6


@pytest.mark.parametrize("kind", _KINDS)
def test_a_refused_request_is_not_sent_again(server, kind):
  served = client.ServedTagger(_connect(server, kind), num_retries=3)
  server.failures += [(3, "wrong"), (3, "wrong again")]
  with pytest.raises(client.ServingError, match="wrong$"):
    served.score(_noise(1, 8000))
  assert len(server.failures) == 1


@contextlib.contextmanager
def _http_server(handler):
  """Yields its address, HOST:PORT."""
  server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield f"localhost:{server.server_port}"
  server.shutdown()
  server.server_close()


def test_no_server_and_no_answer_in_time_are_unavailable():
  class Silent(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      time.sleep(0.5)

  with _http_server(Silent) as host:
    for kind, at in (
      (client.Grpc, "localhost:1"),
      (client.Rest, "localhost:1"),
      (client.Grpc, host),
      (client.Rest, host),
    ):
      connection = kind(at, model="tagger", timeout_seconds=0.1)
      with pytest.raises(client.UnavailableError):
        connection.predict("classes", {})


@pytest.mark.parametrize(
  "answer", [b"<html>", b"{}", b"[1]", b'{"outputs": 1}']
)
def test_what_is_no_model_server_is_told(answer):
  class Other(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      self.send_response(200)
      self.end_headers()
      self.wfile.write(answer)

    def log_message(self, *_):
      pass

  with _http_server(Other) as host:
    connection = client.Rest(host, model="tagger", timeout_seconds=9)
    with pytest.raises(client.ServingError, match="is not TF Serving"):
      connection.predict("classes", {})


@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_class_list_of_another_model_is_refused(server, num_classes):
  served = client.ServedTagger(
    _connect(server, client.Rest),
    classes=labels.ClassList.from_names([f"c{i}" for i in range(num_classes)]),
  )
  with pytest.raises(client.ServingError, match=f"3 cl.* list {num_classes}:"):
    served.score(_noise(1, 8000))


def test_a_missing_package_is_told(monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
  with pytest.raises(ValueError, match="needs the package tensorflow-serving"):
    client.Grpc("localhost:1", model="tagger", timeout_seconds=1)


def test_a_wait_has_an_end():
  def fail():
    raise client.UnavailableError("no")

  waits = []
  with pytest.raises(client.UnavailableError):
    client.retry(fail, num_retries=20, sleep=waits.append)
  assert len(waits) == 20 and max(waits) <= 10


def _client(*arguments):
  return ["tools/serve_client.py", *arguments]


@pytest.mark.parametrize("kind", _KINDS)
def test_the_client_tags_files_in_batches(server, model, kind, tmp_path):
  for i, seconds in enumerate((1, 1, 2, 1)):
    samples = _noise(seconds * 8000) if i else np.zeros(seconds * 8000)
    soundfile.write(tmp_path / f"{i}.flac", samples, 8000)
  (tmp_path / "bad.wav").write_bytes(b"?")
  (tmp_path / "notes.txt").touch()
  host = server.grpc_host
  arguments = []
  if kind is client.Rest:
    host = server.rest_host
    table = model / "assets" / "class_labels_indices.csv"
    arguments = ["--rest", f"--class_labels_csv={table}"]
  done = command.run(
    *_client(f"--host={host}", "--top_k=1", *arguments, tmp_path)
  )
  assert done.returncode == 1, done.stderr
  assert "bad.wav: cannot be read as audio" in done.stderr
  assert f"{tmp_path}/0.flac: {prediction.SILENT}\n" in done.stderr
  assert "passed over: 1 .txt\n" in done.stderr
  # Two requests are under way at a time.
  assert sorted(server.shapes) == [(1, 32000), (3, 16000)]
  exported = exported_tagger.ExportedTagger(str(model))
  lines = [line.split("\t") for line in done.stdout.splitlines()]
  assert [line[0] for line in lines] == [
    f"{tmp_path}/{i}.flac" for i in range(4)
  ]
  assert {line[2] for line in lines} <= set(toy.NAMES)
  assert exported.classes == labels.ClassList.from_names(toy.NAMES)


def test_a_load_reports_latencies_and_errors(server, tmp_path):
  soundfile.write(tmp_path / "x.wav", _noise(16000), 16000)
  arguments = (
    f"--host={server.grpc_host}",
    "--load=20",
    "--concurrency=4",
    tmp_path,
  )
  out = command.succeed(*_client(*arguments)).splitlines()
  assert out[0].startswith("20 of 20 requests answered in")
  times = dict(zip(out[1].split()[1::2], map(float, out[1].split()[2::2])))
  assert list(times) == ["mean", "p50", "p90", "p99", "max"]
  assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["max"]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--host=localhost:1", "--retries=0"], "UNAVAILABLE: failed to connect"),
    (["--rest", "--host=localhost:1", "--retries=0"], "Connection refused"),
    (["--model=other"], "NOT_FOUND: Servable not found for request"),
    (["--signature=x"], "serving_default|wav"),
  ],
)
def test_the_clients_mistakes_are_one_line(server, arguments, message):
  line = command.fail(
    *_client(f"--host={server.grpc_host}", *arguments, "x.wav")
  )
  assert message in line
