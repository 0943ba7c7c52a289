"""moto's S3 server as a process: ``python -m fedplane.localstack.moto_main PORT``."""

from __future__ import annotations

import logging
import os
import sys

# moto answers unknown hosts and regions as AWS would; nothing here reaches AWS.
os.environ.setdefault("MOTO_S3_CUSTOM_ENDPOINTS", "")
os.environ.setdefault("S3_IGNORE_SUBDOMAIN_BUCKETNAME", "true")


def main() -> None:
    """Serve on loopback until terminated."""
    from moto.moto_server.werkzeug_app import (  # noqa: PLC0415 - after the environment
        DomainDispatcherApplication,
        create_backend_app,
    )
    from werkzeug.serving import WSGIRequestHandler, make_server  # noqa: PLC0415

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    WSGIRequestHandler.protocol_version = "HTTP/1.1"  # keep connections
    app = DomainDispatcherApplication(create_backend_app)
    make_server("127.0.0.1", int(sys.argv[1]), app, threaded=True).serve_forever()


if __name__ == "__main__":
    main()
