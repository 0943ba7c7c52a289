"""The stage about one object beyond 5 GiB, each way."""

from __future__ import annotations

import hashlib
import os
import shutil
from functools import partial
from pathlib import Path

from tests.acceptance import verify
from tests.acceptance.lab import Lab, Results, lab
from tests.acceptance.stages_transfer import GIB, MIB, ONCE, PART_BYTES, finished, finished_anew


def sparse(file: Path, size_bytes: int, part_bytes: int = PART_BYTES) -> str:
    """Write a sparse file with a mark across each border of parts and in the midst of each part; its MD5 in hexadecimal.

    No two marks are alike: a part that is lost, repeated, cut or in another's place gives another MD5, which zeros would not.
    """
    md5 = partial(hashlib.md5, usedforsecurity=False)
    with file.open("w+b") as out:
        out.truncate(size_bytes)
        for at in [*range(0, size_bytes, part_bytes // 2), size_bytes]:
            mark = md5(str(at).encode()).digest()
            start = max(0, at - len(mark) // 2)
            out.seek(start)
            out.write(mark[: size_bytes - start])
        out.seek(0)
        return hashlib.file_digest(out, md5).hexdigest()


def huge(results: Results) -> None:
    """One sparse object beyond 5 GiB, from a file on the VAST side to Blob, and a copy of it back."""
    size = 5 * GIB + 3 * MIB + 1
    free = shutil.disk_usage(Path.cwd()).free
    if free < 16 * GIB:
        results.check("16 GiB of disk are free", False, f"{free // GIB} GiB")
        return
    with lab(results, "huge", ONCE) as the:
        file = the.home / "stack" / "s3" / the.sides.bucket / "huge.bin"
        md5 = sparse(file, size)
        the.sides.s3.put_object(Bucket=the.sides.bucket, Key="stays", Body=b"so that neither side looks emptied on the way back")
        the.start_engine()
        results.check("vast to blob: in step", finished(the, 900))
        results.figure("peak_rss_mib", the.rss_bytes("VmHWM") // MIB)
        _whole(results, "vast to blob", verify.read_blob(the.sides, "huge.bin"), size, md5)
        the.stop_engine()
        os.truncate(file, 0)  # disk for the way back
        _huge_back(the, size, md5)


def _huge_back(the: Lab, size: int, md5: str) -> None:
    client = the.sides.container.get_blob_client("back.bin")
    client.start_copy_from_url(f"{the.info['blob_direct_endpoint']}/{the.info['container']}/huge.bin")
    the.sides.container.delete_blob("huge.bin")
    the.sides.s3.delete_object(Bucket=the.sides.bucket, Key="huge.bin")
    the.start_engine()
    the.results.check("blob to vast: in step", finished_anew(the, 900))
    _whole(the.results, "blob to vast", verify.read_vast(the.sides, "back.bin"), size, md5)
    told = client.get_blob_properties().content_settings.content_md5
    the.results.check("the hash that the engine gave the blob is its content's", bytes(told or b"").hex() == md5)


def _whole(results: Results, way: str, held: verify.Held | None, size: int, md5: str) -> None:
    found = (held.size_bytes, held.md5) if held is not None else None
    results.check(f"{way}: every byte is the file's", found == (size, md5), found)
