"""The connection to a Kafka broker through kafka-python: opened, its refusals put in words, closed when it cannot be opened."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import AuthorizationError, KafkaError, SaslAuthenticationFailedError
from kafka.net.compat import KafkaNetClient

BOOTSTRAP_MS = 10_000
_GRACE_SECONDS = 0.5
_DROPPED_TIMES = 2
"""Connections in a row that a broker accepted and hung up on: no chance."""


class BrokerFault(KafkaError):  # type: ignore[misc]  # kafka-python is not typed
    """Told in words for a person, without the name of a class."""

    def __str__(self) -> str:
        """The text alone."""
        return str(self.args[0])


class BrokerRefuses(BrokerFault):
    """Our credentials, or the broker's certificate, are refused: asking again soon would only lock an account."""


class BrokerAway(BrokerFault):
    """The broker, or the topic, cannot be reached now."""


class Connection:
    """An open consumer and the cluster it sees. Made, used and closed in one thread; ``close`` may come from another."""

    def __init__(self, options: dict[str, Any]) -> None:
        """Connect. Raises BrokerRefuses or BrokerAway, which say why, with nothing left open."""
        made: list[KafkaNetClient] = []

        def client(**config: Any) -> KafkaNetClient:  # noqa: ANN401 - kafka-python's own options
            made.append(KafkaNetClient(**config))
            return made[-1]

        closing = threading.Lock()  # of two threads that close one client at once, one finds it half closed and raises

        def close() -> None:
            with closing:
                for one in made:
                    one.close()

        timeout_ms = options.get("bootstrap_timeout_ms", BOOTSTRAP_MS)
        # With a version named, the client may wait for a broker without end; closing makes it give up.
        patience = threading.Timer(timeout_ms / 1_000 + _GRACE_SECONDS, close)
        patience.start()
        with _told(str(options["client_id"])) as causes:
            try:
                self.consumer = KafkaConsumer(**options, kafka_client=client)
                self.consumer.bootstrap(timeout_ms=timeout_ms)
            except (KafkaError, RuntimeError) as error:
                close()  # the client's own thread goes on when its constructor raises: one more for every try
                raise _why(causes, options) or in_words(error, options) from None
            finally:
                patience.cancel()
        self._cluster = made[-1].cluster

    def topic_id(self, topic: str) -> str:
        """The identity that a topic made anew does not share, in hexadecimal; empty where the broker tells none."""
        found = self._cluster.topic_id(topic)
        return found.hex if found is not None and found.int else ""

    def close(self) -> None:
        """Release the connection; waits that other threads are in fail. Idempotent."""
        self.consumer.close(autocommit=False, timeout_ms=1_000)


def in_words(error: BaseException, options: dict[str, Any]) -> KafkaError:
    """*error* as what a person can act on; it never holds a secret, since kafka-python puts none in its errors."""
    servers = ", ".join(options["bootstrap_servers"])
    text = str(error).removeprefix(f"{type(error).__name__}: ")
    if isinstance(error, SaslAuthenticationFailedError):
        then = "correct what pair.vast.events.sasl_username_env and sasl_password_env name"
        return BrokerRefuses(f"the broker at {servers} refuses the user name or the password: {then}")
    if isinstance(error, AuthorizationError):
        return BrokerRefuses(f"the broker at {servers} does not let us read: grant topic Read and Describe ({text})")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return BrokerRefuses(f"the certificate of {servers} is not trusted: set pair.vast.events.ca_file ({text})")
    if "Handshake failed" in text:
        return BrokerRefuses(f"no TLS with {servers}: check pair.vast.events.security_protocol ({text})")
    return BrokerAway(f"no broker at {servers} can be used: {text}")


def _why(causes: list[BaseException], options: dict[str, Any]) -> KafkaError | None:
    """The error that the attempts of one bootstrap tell of together."""
    final = next((one for one in causes if isinstance(in_words(one, options), BrokerRefuses)), None)
    if final is not None:
        return in_words(final, options)
    dropped = [one for one in causes if "disconnected" in str(one)]
    if len(dropped) >= _DROPPED_TIMES:
        # A broker may hang up so soon after its refusal that the client does not read it.
        if "sasl_mechanism" in options:
            return in_words(SaslAuthenticationFailedError(), options)
        servers = ", ".join(options["bootstrap_servers"])
        return BrokerAway(f"the broker at {servers} hangs up on us: check pair.vast.events.security_protocol")
    return in_words(causes[-1], options) if causes else None


class _Causes(logging.Handler):
    """kafka-python tells a bootstrap that failed only that it did; why, it logs, in a thread named after the client."""

    def __init__(self, client_id: str) -> None:
        super().__init__(logging.ERROR)
        self._thread = f"kafka-io-{client_id}"
        self.causes: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the exception it is about."""
        if record.threadName == self._thread and isinstance(record.args, tuple):
            self.causes += [one for one in record.args if isinstance(one, BaseException)]


@contextmanager
def _told(client_id: str) -> Iterator[list[BaseException]]:
    handler = _Causes(client_id)
    log = logging.getLogger("kafka.net.connection")
    log.addHandler(handler)
    try:
        yield handler.causes
    finally:
        log.removeHandler(handler)
