"""librdkafka's mock broker as a process: ``python -m fedplane.localstack.kafka_mock_main ADDRESS_FILE TOPIC``.

The broker chooses its own port and lives as long as this process; its address is written to the file once the topic is there.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from confluent_kafka import Producer


def main() -> None:
    """Serve until terminated."""
    address_file, topic = Path(sys.argv[1]), sys.argv[2]
    broker = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 3})
    broker.list_topics(topic, timeout=10)  # asking for it makes it
    found = broker.list_topics(timeout=10)
    [one] = found.brokers.values()
    part = address_file.with_suffix(".part")
    part.write_text(f"{one.host}:{one.port}")
    part.rename(address_file)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
