"""Real servers on this machine behind event proxies: Azurite, an S3 server, Redis, Kafka. For laptops and tests."""
