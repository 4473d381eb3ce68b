"""`python -m stolon.launch_server`: flags, socket, engine, signals, in this order."""

from __future__ import annotations

import asyncio
import errno
import gc
import ipaddress
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...lang.errors import InvalidRequest, StolonError
from .. import limits
from ..config import EngineConfig
from ..sampling_defaults import read_sampling_defaults
from . import auth, logs
from .app import App
from .connection import listen
from .flags import PROGRAM, parse
from .service import Service
from .settings import ServerConfig
from .stopping import StopSignals, until_stopped

if TYPE_CHECKING:
    from ..embed import EmbeddingEngine
    from ..engine import Engine

logger = logging.getLogger(__name__)


class CannotStart(Exception):
    """Why the server does not start, and the exit status that says so: 2 for flags, 1 for the world."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit status. Flags and port are checked before torch is imported."""
    settings, config = parse(arguments)
    try:
        with logs.to_stderr(settings):
            keys, tls = _keys(settings), tls_of(settings)
            if settings.allowed_origins and not keys.users:
                message = "no key is asked for: whoever visits an allowed page lends it this server"
                print(f"{PROGRAM}: warning: {message}", file=sys.stderr)
            sock = _bound_socket(settings, has_key=bool(keys.users))
            # while the model is being loaded there is nothing to finish: a signal may end the process at once
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            return asyncio.run(_serve(settings, config, sock, keys, tls))
    except CannotStart as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return error.status


def _keys(settings: ServerConfig) -> auth.Keys:
    if settings.admin_api_key is not None:
        _check_key(settings.admin_api_key, "admin")
    users = tuple(map(auth.digest, _user_keys(settings)))
    admin = None if settings.admin_api_key is None else auth.digest(settings.admin_api_key)
    if admin in users:
        raise CannotStart("--admin-api-key must not be the key of all clients", 2)
    return auth.Keys(users, admin)


def _user_keys(settings: ServerConfig) -> tuple[str, ...]:
    """Those of which clients must send one, from wherever they were given."""
    keys = settings.api_key
    if settings.api_key_file is not None:
        if keys:
            raise CannotStart("give one of --api-key and --api-key-file", 2)
        try:
            keys = (Path(settings.api_key_file).read_text("utf-8").rstrip("\r\n"),)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise CannotStart(f"--api-key-file cannot be read: {reason}", 2) from None
    for key in keys:
        _check_key(key, "api")
    return keys


def _check_key(key: str, name: str) -> None:
    most = limits.LENGTHS["api_key"].high
    if not (0 < len(key) <= most and key.isascii() and key.isprintable() and key == key.strip()):
        raise CannotStart(f"the {name} key must be 1–{most} printable ASCII characters, without spaces around it", 2)


def _bound_socket(settings: ServerConfig, *, has_key: bool) -> socket.socket:
    """The one socket of the server, listening."""
    host, port = settings.host, settings.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise CannotStart(f"--host {host[:80]!r} is not an address of this machine", 2) from None
    family, kind, protocol, _, address = found[0]
    if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback and not has_key:
        if not settings.insecure_no_auth:
            raise CannotStart(
                f"--host {host} can be reached from other machines: give --api-key-file or --api-key, "
                "or --insecure-no-auth to serve everyone who can connect",
                2,
            )
        print(f"{PROGRAM}: warning: no key is asked for, and {host} can be reached by others", file=sys.stderr)
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(1024)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise CannotStart(f"port {port} on {host} is in use; stop what listens there or give --port", 1) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise CannotStart(f"--host {host} is not an address of this machine", 2) from None
        raise CannotStart(f"cannot listen on port {port} of {host}: {error.strerror}", 1) from None
    return sock


def tls_of(settings: ServerConfig) -> ssl.SSLContext | None:
    """With the certificate that was named; None: plain HTTP."""
    certificate, key = settings.ssl_certfile, settings.ssl_keyfile
    if certificate is None:
        if key is not None:
            raise CannotStart("--ssl-keyfile is the key of a certificate; give --ssl-certfile, too", 2)
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password="")  # a key that needs one is refused, not asked about
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CannotStart(f"--ssl-certfile and --ssl-keyfile cannot be read: {reason}", 2) from None
    return context


async def _serve(
    settings: ServerConfig, config: EngineConfig, sock: socket.socket, keys: auth.Keys, tls: ssl.SSLContext | None
) -> int:
    try:
        service = Service(settings)
    except ImportError as error:
        raise _not_installed(error) from error
    listener = await listen(App(service, keys).answer, settings, sock, tls)
    try:
        engine, embedder = await asyncio.to_thread(load, settings, config)
        service.serve(engine, embedder=embedder)
        # what is there now stays: no collection of garbage need look at it again
        gc.freeze()
        stop = StopSignals()
        _say(service.served.memory_report)
        if engine is not None and engine.sampling_defaults:
            values = ", ".join(f"{name} {value:g}" for name, value in engine.sampling_defaults.items())
            _say(f"where a request says nothing: {values}; --sampling-defaults openai: the protocol's")
        _say(f"ready: {_url(sock, tls)} serves {service.served.model_name}")
        await until_stopped(service, stop)
        return 0
    finally:
        await listener.close()


def load(settings: ServerConfig, config: EngineConfig) -> tuple[Engine | None, EmbeddingEngine | None]:
    """The engine for the kind of model that is to be served. Raises CannotStart with the one cause."""
    try:
        # torch and transformers are an optional extra, and slow to import
        from ..directories import model_directory
        from ..embed import EmbeddingEngine
        from ..engine import Engine
        from ..packed import embeds
    except ImportError as error:
        raise _not_installed(error) from error
    try:
        folder = model_directory(config)
        if config.is_embedding or embeds(folder):
            return None, EmbeddingEngine(config)
        defaults = read_sampling_defaults(settings.sampling_defaults, folder, settings.preferred_sampling_params)
        return Engine(config, sampling_defaults=defaults), None
    except InvalidRequest as error:
        raise CannotStart(str(error), 2) from error
    except StolonError as error:
        raise CannotStart(str(error), 1) from error
    except Exception as error:
        logger.debug("loading failed", exc_info=error)
        raise CannotStart(f"the model cannot be loaded: {type(error).__name__}: {error}", 1) from error


def _say(text: str) -> None:
    """Print; a server whose standard output is full or closed serves all the same."""
    try:
        print(text, flush=True)
    except OSError as error:
        logger.warning("standard output cannot be written: %s", error.strerror)
        # what is left in the buffer would be tried again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _not_installed(error: ImportError) -> CannotStart:
    return CannotStart(f"the local runtime is not installed ({error.name} is missing): pip install 'stolon[local]'", 1)


def _url(sock: socket.socket, tls: ssl.SSLContext | None) -> str:
    host, port = sock.getsockname()[:2]
    scheme = "http" if tls is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
