"""Settings of a pair with every kind of source, for what looks at the app without starting it."""

EVERY_SOURCE = """
[redis]
url = "redis://127.0.0.1:1/0"
[[pair]]
name = "one"
[pair.blob]
account_url = "https://acct.blob.core.windows.net"
container = "c"
change_feed = { enabled = true }
[pair.blob.events]
queue_url = "https://acct.queue.core.windows.net/q"
[pair.vast]
endpoint = "https://vast.example"
bucket = "c"
access_key_env = "A"
secret_key_env = "S"
[pair.vast.events]
bootstrap = ["b:9092"]
topic = "t"
"""
