# SPDX-License-Identifier: Apache-2.0
"""Google Cloud Storage on loopback, with faults, for TensorFlow's own client.

    with storage_emulator.Emulator(folder) as storage:
      storage.objects["bucket", "a/b"] = b"..."
      variables = storage.variables
      command.succeed("tools/x.py", "gs://bucket/a", variables=variables)

The client speaks only HTTPS and only to Google's names. So this is a proxy that
answers for these names itself, with a certificate made on the spot. The client
must be told of both before its first request: in another process.
"""

from __future__ import annotations

import collections
import datetime
import http.server
import json
import os
import pathlib
import random
import re
import socket
import ssl
import struct
import threading
import time
import urllib.parse

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_HOSTS = ("storage.googleapis.com", "www.googleapis.com")

FAULTS = ("refused", "reset", "slow", "truncated")


class Emulator:
  """The server; stops at the end of the `with` block.

  Attributes:
    objects: Content by (bucket, name).
    buckets: Those that exist.
    status: Buckets that answer with this HTTP status only.
    page_size: The most names in one answer to a listing.
    fault_rate: To this share of the requests one of FAULTS happens.
    faults: How often each fault has happened.
    requests: (method, path, content bytes sent) of each request.
    variables: Of the environment, for the process of the client.
  """

  def __init__(self, folder: pathlib.Path):
    """Starts it; a certificate is written to `folder`."""
    self.objects = {}
    self.buckets = {"bucket"}
    self.status = {}
    self.page_size = 1000
    self.fault_rate = 0.0
    self.faults = collections.Counter()
    self.requests = []
    self.lock = threading.RLock()
    self.uploads = {}  # [bucket, name, content so far] of each.
    self.generations = collections.Counter()
    self._random = random.Random(0)
    self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = _make_certificate(folder)
    self.tls.load_cert_chain(certificate)
    self._server = http.server.ThreadingHTTPServer(
      ("127.0.0.1", 0), _Connection
    )
    self._server.emulator = self
    self._server.daemon_threads = True
    self._server.request_queue_size = 128
    threading.Thread(target=self._server.serve_forever, daemon=True).start()
    proxy = f"http://127.0.0.1:{self._server.server_port}"
    self.variables = {
      "https_proxy": proxy,
      "http_proxy": proxy,
      "no_proxy": "",
      "CURL_CA_BUNDLE": str(certificate),
      "NO_GCE_CHECK": "true",  # No search for credentials.
      "GOOGLE_APPLICATION_CREDENTIALS": "",
      "CLOUDSDK_CONFIG": str(folder),
    }

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._server.shutdown()
    self._server.server_close()

  def put(self, folder: pathlib.Path, url: str) -> None:
    """Copies a folder of the disk to gs://BUCKET/NAME."""
    bucket, _, name = url[len("gs://") :].partition("/")
    for path in folder.rglob("*"):
      if path.is_file():
        relative = path.relative_to(folder).as_posix()
        self.write(bucket, f"{name}/{relative}", path.read_bytes())

  def get(self, url: str, folder: pathlib.Path) -> None:
    """Copies gs://BUCKET/NAME to a folder of the disk."""
    bucket, _, prefix = url[len("gs://") :].partition("/")
    for (owner, name), content in sorted(self.objects.items()):
      if owner == bucket and name.startswith(f"{prefix}/") and name[-1] != "/":
        path = folder / name[len(prefix) + 1 :]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

  def write(self, bucket: str, name: str, content: bytes) -> None:
    """What an upload ends with."""
    with self.lock:
      self.objects[bucket, name] = content
      self.generations[bucket, name] += 1

  def next_fault(self) -> str:
    """Which fault is to happen to the next request; "" is none."""
    with self.lock:
      if self._random.random() >= self.fault_rate:
        return ""
      return self._random.choice(FAULTS)


class _Broken(Exception):
  """The connection was cut off."""


class _Connection(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  disable_nagle_algorithm = True

  def log_message(self, *_):
    pass

  def do_CONNECT(self):  # noqa: N802
    host = self.path.partition(":")[0]
    self.send_response(200 if host in _HOSTS else 403)
    self.end_headers()
    if host not in _HOSTS:
      self.close_connection = True
      return
    self.connection = self.server.emulator.tls.wrap_socket(
      self.connection, server_side=True
    )
    self.rfile = self.connection.makefile("rb", -1)
    self.wfile = self.connection.makefile("wb", 0)
    self.close_connection = False

  def handle(self):
    try:
      super().handle()
    except (OSError, _Broken):  # The client has gone, or was cut off.
      pass

  def finish(self):
    try:
      super().finish()
    except (OSError, ValueError):
      pass
    self.connection.close()

  def _handle(self):
    emulator = self.server.emulator
    self._fault = emulator.next_fault()
    self._sent = 0
    body = self._body()
    if self._fault:
      emulator.faults[self._fault, self.command] += 1
    if self._fault == "slow":
      time.sleep(0.1)
    if self._fault in ("reset", "truncated"):
      # An upload is cut off in its middle; what has come is kept.
      body = body[: len(body) // 2]
    try:
      if self._fault == "refused":
        return self._answer(*_error(503))
      url = urllib.parse.urlsplit(self.path)
      query = dict(urllib.parse.parse_qsl(url.query))
      self._dispatch(url.path, query, body)
    finally:
      emulator.requests.append((self.command, self.path, self._sent))

  do_GET = do_POST = do_PUT = do_DELETE = _handle

  def _body(self):
    if "chunked" not in self.headers.get("Transfer-Encoding", ""):
      return self.rfile.read(int(self.headers.get("Content-Length", 0)))
    chunks = []
    while length := int(self.rfile.readline(), 16):
      chunks.append(self.rfile.read(length))
      self.rfile.readline()
    self.rfile.readline()
    return b"".join(chunks)

  def _dispatch(self, path, query, body):
    emulator = self.server.emulator
    if self.headers["Host"].startswith(_HOSTS[0]):
      bucket, _, name = path[1:].partition("/")
      call = self._read
    else:
      found = re.fullmatch(
        r"(/upload)?/storage/v1/b/([^/]+)(?:/o)?(?:/(.*))?", path
      )
      is_upload, bucket, name = found.groups(default="")
      call = self._upload if is_upload else self._metadata
    bucket, name = urllib.parse.unquote(bucket), name or ""
    status = emulator.status.get(bucket)
    if status or bucket not in emulator.buckets:
      return self._answer(*_error(status or 404))
    with emulator.lock:
      answer = call(bucket, name, query, body)
    return self._answer(*answer)

  def _read(self, bucket, name, query, body):
    del query, body
    content = self._content(bucket, urllib.parse.unquote(name))
    if content is None:
      return _error(404)
    first, last = re.fullmatch(
      r"bytes=(\d+)-(\d+)", self.headers["Range"]
    ).groups()
    part = content[int(first) : int(last) + 1]
    if not part:
      return 416, b"beyond the end"
    place = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
    return 206, part, {"Content-Range": place}

  def _metadata(self, bucket, name, query, body):
    del body
    objects = self.server.emulator.objects
    if not name and not self.path.partition("?")[0].endswith("/o"):
      return 200, _json({"name": bucket, "location": "US"})
    if not name:
      return 200, _json(self._list(bucket, query))
    source, _, target = name.partition("/rewriteTo/")
    source = urllib.parse.unquote(source)
    if self._content(bucket, source) is None:
      return _error(404)
    if self.command == "DELETE":
      del objects[bucket, source]
      return 204, b""
    if target:
      to_bucket, to_name = re.fullmatch(r"b/([^/]+)/o/(.+)", target).groups()
      self.server.emulator.write(
        to_bucket, urllib.parse.unquote(to_name), objects[bucket, source]
      )
      return 200, _json({"done": True})
    return 200, _json(
      {
        "size": str(len(objects[bucket, source])),
        "generation": str(self.server.emulator.generations[bucket, source]),
        "updated": "2024-01-01T00:00:00.000Z",
      }
    )

  def _list(self, bucket, query):
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
    names, folders = [], set()
    for owner, name in sorted(self.server.emulator.objects):
      if owner == bucket and name.startswith(prefix):
        head, found, _ = name[len(prefix) :].partition(delimiter or "\0")
        if found:
          folders.add(f"{prefix}{head}/")
        else:
          names.append(name)
    entries = [("items", {"name": name}) for name in names]
    entries += [("prefixes", name) for name in sorted(folders)]
    first = int(query.get("pageToken", 0))
    most = self.server.emulator.page_size
    end = first + min(most, int(query.get("maxResults", most)))
    page = collections.defaultdict(list)
    for kind, entry in entries[first:end]:
      page[kind].append(entry)
    return {**page, **({"nextPageToken": str(end)} if entries[end:] else {})}

  def _upload(self, bucket, name, query, body):
    emulator = self.server.emulator
    del name
    if query["uploadType"] == "media":  # Of a folder's mark.
      if self._content(bucket, query["name"]) is not None:
        return 412, b""
      emulator.write(bucket, query["name"], body)
      return 200, b"{}"
    if self.command == "POST":
      session = str(len(emulator.uploads))
      emulator.uploads[session] = [bucket, query["name"], b"", False]
      where = (
        f"https://{_HOSTS[1]}/upload/storage/v1/b/{bucket}/o"
        f"?uploadType=resumable&session={session}"
      )
      return 200, b"", {"Location": where}
    upload = emulator.uploads[query["session"]]
    # "bytes 0-99/100" with content, "bytes */100" to ask; none: it is empty.
    place, _, total = self.headers.get("Content-Range", "0/0").rpartition("/")
    first = re.match(r"bytes (\d+)-", place)
    if first and not upload[3]:
      upload[2] = upload[2][: int(first[1])] + body
    if len(upload[2]) < int(total):
      seen = {"Range": f"bytes=0-{len(upload[2]) - 1}"} if upload[2] else {}
      return 308, b"", seen
    if not upload[3]:
      upload[3] = True
      emulator.write(*upload[:3])
    return 200, b"{}"

  def _content(self, bucket, name):
    return self.server.emulator.objects.get((bucket, name))

  def _answer(self, status, content, headers=None):
    is_get = self.command == "GET"
    is_cut = self._fault in ("reset", "truncated")
    if is_cut and not is_get:  # It is done, but nobody is told.
      self._cut()
    self.send_response(status)
    for name, value in (headers or {}).items():
      self.send_header(name, value)
    if status != 204:
      self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    if is_cut:
      self.wfile.write(content[: len(content) // 2])
      self._cut()
    if is_get and self._fault == "slow" and content:
      step = -(-len(content) // 5)
      for start in range(0, len(content), step):
        self.wfile.write(content[start : start + step])
        time.sleep(0.05)
    else:
      self.wfile.write(content)
    self._sent = len(content)

  def _cut(self):
    """Ends the connection: "truncated" in good order, "reset" without."""
    if self._fault == "reset":
      # No waiting for the rest: the other side is told at once.
      self.connection.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
      )
    else:
      self.connection.unwrap()
    os.close(self.connection.detach())
    raise _Broken


def _error(status: int) -> tuple[int, bytes]:
  """An answer in words, as Google gives it, longer than a short read."""
  words = http.HTTPStatus(status).phrase
  about = {"code": status, "message": words, "errors": [{"reason": words}]}
  return status, json.dumps({"error": about}, indent=2).encode()


def _json(content) -> bytes:
  return json.dumps(content).encode()


def _make_certificate(folder: pathlib.Path) -> pathlib.Path:
  """Key and certificate in one file; the certificate is its own authority."""
  key = ec.generate_private_key(ec.SECP256R1())
  name = x509.Name(
    [x509.NameAttribute(x509.NameOID.COMMON_NAME, "storage emulator")]
  )
  now = datetime.datetime.now(datetime.timezone.utc)
  day = datetime.timedelta(days=1)
  hosts = x509.SubjectAlternativeName([x509.DNSName(host) for host in _HOSTS])
  certificate = (
    x509.CertificateBuilder()
    .subject_name(name)
    .issuer_name(name)
    .public_key(key.public_key())
    .serial_number(1)
    .not_valid_before(now - day)
    .not_valid_after(now + day)
    .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    .add_extension(hosts, False)
    .sign(key, hashes.SHA256())
  )
  path = folder / "certificate.pem"
  path.write_bytes(
    key.private_bytes(
      serialization.Encoding.PEM,
      serialization.PrivateFormat.PKCS8,
      serialization.NoEncryption(),
    )
    + certificate.public_bytes(serialization.Encoding.PEM)
  )
  return path
