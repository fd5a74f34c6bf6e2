# SPDX-License-Identifier: Apache-2.0
"""A tagger that a TF Serving server runs, over gRPC or REST."""

from __future__ import annotations

import abc
import base64
import http.client
import io
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import soundfile

from tf_audioset.data import labels
from tf_audioset.runtime.errors import UserError

_Result = TypeVar("_Result")
_LONGEST_WAIT_SECONDS = 10.0
# What a server answers that is overloaded or restarting.
_RETRIED_HTTP = (502, 503, 504)


class ServingError(UserError):
  """The server refused a request; the message is the server's."""


class UnavailableError(ServingError):
  """There was no answer (in time); another try may succeed."""


class Connection(abc.ABC):
  """To one model of a server; for use by many threads."""

  @abc.abstractmethod
  def predict(
    self, signature: str, inputs: Mapping[str, np.ndarray]
  ) -> dict[str, np.ndarray]:
    """Sends one request, once.

    Args:
      signature: Its name.
      inputs: Arrays by name; bytes are in arrays of objects.

    Returns:
      The outputs by name; bytes are in arrays of objects.

    Raises:
      UnavailableError: Connection, server or time failed.
      ServingError: The server refuses the request.
    """


class Grpc(Connection):
  """PredictionService, with the package tensorflow-serving-api."""

  def __init__(self, host: str, *, model: str, timeout_seconds: float):
    """Takes HOST:PORT; sends nothing yet.

    Raises:
      UserError: If the package is not installed.
    """
    try:
      import grpc
      from tensorflow_serving.apis import (
        predict_pb2,
        prediction_service_pb2_grpc,
      )
    except ImportError:
      raise UserError(
        "gRPC needs the package tensorflow-serving-api: pip install "
        "'.[serving]' in the checkout, or pip install "
        "'tensorflow-serving-api>=2.15,<2.16'; REST (--rest) does not."
      ) from None
    self._grpc, self._request_class = grpc, predict_pb2.PredictRequest
    self._model, self._timeout_seconds = model, timeout_seconds
    # gRPC's own limit is 4 MB: a minute of audio.
    options = [("grpc.max_receive_message_length", -1)]
    self._channel = grpc.insecure_channel(host, options)
    self._stub = prediction_service_pb2_grpc.PredictionServiceStub(
      self._channel
    )

  def predict(self, signature, inputs):
    import tensorflow as tf

    request = self._request_class()
    request.model_spec.name = self._model
    request.model_spec.signature_name = signature
    for name, array in inputs.items():
      request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    try:
      response = self._stub.Predict(request, self._timeout_seconds)
    except self._grpc.RpcError as e:
      code = self._grpc.StatusCode
      is_retried = e.code() in (code.UNAVAILABLE, code.DEADLINE_EXCEEDED)
      kind = UnavailableError if is_retried else ServingError
      raise kind(f"{e.code().name}: {e.details()}") from None
    return {name: tf.make_ndarray(x) for name, x in response.outputs.items()}


class Rest(Connection):
  """The REST interface, as JSON."""

  def __init__(self, host: str, *, model: str, timeout_seconds: float):
    """Takes HOST:PORT; sends nothing yet."""
    self._url = f"http://{host}/v1/models/{model}:predict"
    self._timeout_seconds = timeout_seconds

  def predict(self, signature, inputs):
    body = {
      "signature_name": signature,
      "inputs": {name: _to_json(array) for name, array in inputs.items()},
    }
    request = urllib.request.Request(
      self._url,
      data=json.dumps(body).encode(),
      headers={"Content-Type": "application/json"},
    )
    try:
      with urllib.request.urlopen(
        request, timeout=self._timeout_seconds
      ) as response:
        content = response.read()
    except urllib.error.HTTPError as e:
      kind = UnavailableError if e.code in _RETRIED_HTTP else ServingError
      text = e.read().decode(errors="replace")
      try:
        text = json.loads(text)["error"]
      except (ValueError, KeyError, TypeError):
        pass  # A proxy's page.
      raise kind(f"HTTP {e.code}: {text.strip()}") from None
    except (OSError, http.client.HTTPException) as e:
      reason = getattr(e, "reason", e)
      raise UnavailableError(f"{self._url}: {reason}") from None
    try:
      outputs = json.loads(content)["outputs"]
      return {name: _from_json(value) for name, value in outputs.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
      raise ServingError(
        f"{self._url}: what answers there is not TF Serving."
      ) from None


def _to_json(array: np.ndarray):
  if array.dtype != object:
    return array.tolist()
  return [{"b64": base64.b64encode(content).decode()} for content in array]


def _from_json(value) -> np.ndarray:
  array = np.array(value)
  if array.dtype.kind != "U":
    return array.astype(np.float32) if array.dtype.kind == "f" else array
  encode = np.vectorize(str.encode, otypes=[object])
  return encode(array)


def retry(
  call: Callable[[], _Result],
  *,
  num_retries: int,
  sleep: Callable[[float], None] = time.sleep,
) -> _Result:
  """Calls `call`; repeats it after growing waits while the server is away.

  Args:
    call: Without arguments.
    num_retries: Tries after the first.
    sleep: For tests.

  Returns:
    What `call` returns.

  Raises:
    ServingError: As the last try did.
  """
  for attempt in range(num_retries):
    try:
      return call()
    except UnavailableError:
      wait_seconds = min(0.25 * 2**attempt, _LONGEST_WAIT_SECONDS)
      # Not all clients at the same moment.
      sleep(wait_seconds * random.uniform(0.5, 1.0))
  return call()


class ServedTagger:
  """What `exported_tagger.ExportedTagger` is, but computed by a server."""

  def __init__(
    self,
    connection: Connection,
    *,
    signature: str = "serving_default",
    num_retries: int = 3,
    classes: labels.ClassList | None = None,
    sample_rate_hz: int = 16000,
  ):
    """Asks the server for the classes, unless they are given.

    Args:
      connection: To the model.
      signature: serving_default (float32 samples) or wav (16 bits).
      num_retries: Of each request, see `retry`.
      classes: For a server with batching, which cannot answer `classes`.
      sample_rate_hz: Of the model, if `classes` are given.

    Raises:
      ServingError: If the server does not answer, or refuses.
    """
    self._connection, self._signature = connection, signature
    self._num_retries = num_retries
    self.classes, self.sample_rate_hz = classes, sample_rate_hz
    if classes is None:
      facts = self._predict("classes", {})
      self.classes = labels.ClassList(
        mids=tuple(x.decode() for x in facts["mid"]),
        names=tuple(x.decode() for x in facts["name"]),
      )
      self.sample_rate_hz = int(facts["sample_rate_hz"])

  def score(self, waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `exported_tagger.ExportedTagger.score`."""
    if self._signature == "wav":
      inputs = {"wav": np.array([*map(self._wav, waveform)], object)}
    else:
      inputs = {"waveform": np.asarray(waveform, np.float32)}
    outputs = self._predict(self._signature, inputs)
    num_scores = outputs["scores"].shape[-1]
    if num_scores != len(self.classes):
      raise ServingError(
        f"the model has {num_scores} classes, the class list "
        f"{len(self.classes)}: give the model's own"
      )
    return outputs["scores"], outputs["embedding"]

  def pad(self, waveform: np.ndarray) -> np.ndarray:
    """Returns the waveform itself: the server pads, and less is sent."""
    return waveform

  def _predict(self, signature, inputs):
    return retry(
      lambda: self._connection.predict(signature, inputs),
      num_retries=self._num_retries,
    )

  def _wav(self, waveform) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, self.sample_rate_hz, "PCM_16", format="WAV")
    return file.getvalue()
