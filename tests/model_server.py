# SPDX-License-Identifier: Apache-2.0
"""A stand-in for TF Serving: gRPC and REST in front of TensorFlow's C API.

The model is run by the C++ library that TF Serving is built on, and what it
answers to a request is passed on.

  python tests/model_server.py SAVED_MODEL [GRPC_PORT REST_PORT]
"""

from __future__ import annotations

import base64
import concurrent.futures
import http.server
import json
import pathlib
import sys
import threading

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from tests import c_api

MODEL = "tagger"
_HTTP = {3: 400, 5: 404, 14: 503}


class ModelServer(prediction_service_pb2_grpc.PredictionServiceServicer):
  """Serves from construction to `close`."""

  def __init__(self, saved_model: str, grpc_port=0, rest_port=0):
    path = pathlib.Path(saved_model) / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    self._signatures = message.meta_graphs[0].signature_def
    self._session = c_api.Session(c_api.load_library(), saved_model)
    self._lock = threading.Lock()
    self.failures = []  # (code, message) that are answered before all else.
    self.shapes = []  # Of what was asked for, to be looked at by tests.
    options = [("grpc.max_receive_message_length", -1)]
    pool = concurrent.futures.ThreadPoolExecutor(4)
    self._grpc = grpc.server(pool, options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
      self, self._grpc
    )
    self.grpc_host = (
      f"localhost:{self._grpc.add_insecure_port(f'localhost:{grpc_port}')}"
    )
    self._grpc.start()
    self._http = http.server.ThreadingHTTPServer(
      ("localhost", rest_port), type("Handler", (_Handler,), {"model": self})
    )
    self.rest_host = f"localhost:{self._http.server_port}"
    threading.Thread(target=self._http.serve_forever, daemon=True).start()

  def close(self):
    self._grpc.stop(None)
    self._http.shutdown()
    self._http.server_close()

  def run(self, model: str, signature: str, inputs) -> dict[str, np.ndarray]:
    """What TF Serving checks, and then the model."""
    if self.failures:
      raise c_api.Error(*self.failures.pop(0))
    if model != MODEL:
      raise c_api.Error(5, f"Servable not found for request: Latest({model})")
    definition = self._signatures[signature]
    if set(inputs) != set(definition.inputs):
      raise c_api.Error(3, "input size does not match signature")
    names = sorted(definition.outputs)
    with self._lock:
      self.shapes += [np.shape(x) for x in inputs.values()]
      results = self._session.run(
        {definition.inputs[name].name: x for name, x in inputs.items()},
        [definition.outputs[name].name for name in names],
      )
    return dict(zip(names, results))

  def Predict(self, request, context):
    spec = request.model_spec
    inputs = {name: tf.make_ndarray(x) for name, x in request.inputs.items()}
    try:
      outputs = self.run(spec.name, spec.signature_name, inputs)
    except c_api.Error as e:
      (code,) = (code for code in grpc.StatusCode if code.value[0] == e.code)
      context.abort(code, str(e))
    response = predict_pb2.PredictResponse()
    for name, array in outputs.items():
      response.outputs[name].CopyFrom(tf.make_tensor_proto(array))
    return response


class _Handler(http.server.BaseHTTPRequestHandler):
  model: ModelServer

  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    inputs = {
      name: np.array([base64.b64decode(x["b64"]) for x in value], object)
      if name == "wav"
      else np.array(value, np.float32)
      for name, value in body["inputs"].items()
    }
    name = self.path.removeprefix("/v1/models/").removesuffix(":predict")
    try:
      outputs = self.model.run(name, body["signature_name"], inputs)
    except c_api.Error as e:
      self._answer(_HTTP[e.code], {"error": str(e)})
    else:
      decode = np.vectorize(bytes.decode, otypes=[object])
      self._answer(
        200,
        {
          "outputs": {
            name: (decode(x) if x.dtype == object else x).tolist()
            for name, x in outputs.items()
          }
        },
      )

  def _answer(self, status, body):
    content = json.dumps(body).encode()
    self.send_response(status)
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, *_):
    pass


if __name__ == "__main__":
  server = ModelServer(sys.argv[1], *map(int, sys.argv[2:]))
  print(f"gRPC {server.grpc_host}, REST {server.rest_host}", flush=True)
  threading.Event().wait()
