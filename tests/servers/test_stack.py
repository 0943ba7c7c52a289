"""The event proxies: what they forward and what they tell."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable
from uuid import uuid4

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobBlock, StandardBlobTier
from botocore.exceptions import ClientError

from tests.servers.stack_lab import SIDES, Lab

pytestmark = pytest.mark.servers
MIB = 1024 * 1024
ODD_KEYS = [
    "a b", "a+b", "a%20b", "a%2Bb", "100%", "ä/ö ü", "日本語/ファイル", "x//y", "q?x=1&y=2", "#frag", "s;c,comma",
    "tick`caret^pipe|", "quote'\"", "brackets[1]{2}(3)", "~tilde", "emoji-\U0001f600", " lead", "eq=at@dollar$!*:",
    "e\u0301 and \u00e9",
]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------- the events


def _block_list(lab: Lab, key: str) -> None:
    blob = lab.blobs.get_blob_client(key)
    blob.stage_block("AAAA", b"12345")
    blob.stage_block("BBBB", b"678")
    blob.commit_block_list([BlobBlock("AAAA"), BlobBlock("BBBB")])


def _copy_blob(lab: Lab, key: str) -> None:
    lab.blobs_direct.upload_blob(f"{key}-source", b"12345678")
    lab.blobs.get_blob_client(key).start_copy_from_url(f"{lab.info.blob_endpoint}/{lab.info.container}/{key}-source")


@pytest.mark.parametrize(
    ("write", "api"),
    [
        (lambda lab, key: lab.put("blob", key, b"12345678"), "PutBlob"),
        (_block_list, "PutBlockList"),
        (_copy_blob, "CopyBlob"),
    ],
    ids=["put", "block-list", "copy"],
)
def test_a_created_blob_is_told(lab: Lab, key: str, write: Callable[[Lab, str], object], api: str) -> None:
    """One BlobCreated with the blob's own ETag and length, whichever way it was written."""
    write(lab, key)
    [event] = lab.events("blob", key)
    now = lab.blobs_direct.get_blob_client(key).get_blob_properties()
    assert (event["eventType"], event["data"]["api"]) == ("Microsoft.Storage.BlobCreated", api)
    assert (event["data"]["eTag"], event["data"]["contentLength"]) == (now.etag.strip('"'), 8)
    assert event["topic"] == lab.info.account_id


def test_deletes_and_tiers_of_blobs_are_told(lab: Lab, key: str) -> None:
    """BlobDeleted without an ETag, BlobTierChanged."""
    lab.put("blob", key)
    lab.blobs.get_blob_client(key).set_standard_blob_tier(StandardBlobTier.COOL)
    lab.blobs.delete_blob(key)
    events = {event["eventType"].rpartition(".")[2]: event["data"] for event in lab.events("blob", key, 3)}
    assert set(events) == {"BlobCreated", "BlobTierChanged", "BlobDeleted"}
    assert (events["BlobDeleted"]["api"], "eTag" in events["BlobDeleted"]) == ("DeleteBlob", False)


def test_what_event_grid_does_not_tell_is_not_told(lab: Lab, key: str) -> None:
    """No event of metadata, headers, snapshots, leases, staged blocks, reads, or of anything that failed."""
    lab.put("blob", key)
    blob = lab.blobs.get_blob_client(key)
    blob.set_blob_metadata({"a": "1"})
    blob.set_http_headers()
    blob.create_snapshot()
    blob.acquire_lease(15).release()
    blob.stage_block("AAAA", b"1")
    assert blob.download_blob().readall() == b"x"
    with pytest.raises(ResourceExistsError):
        blob.upload_blob(b"y")
    with pytest.raises(HttpResponseError):
        blob.upload_blob(b"y", overwrite=True, etag="0x1", match_condition=MatchConditions.IfNotModified)
    with pytest.raises(ResourceNotFoundError):
        lab.blobs.delete_blob(f"{key}-missing")
    lab.events("blob", key, 1)
    assert lab.stats("blob")["events"]["emitted"] == 2, "the write and the one after it"


def _multipart(lab: Lab, key: str) -> None:
    where = {"Bucket": lab.info.bucket, "Key": key}
    upload = lab.s3.create_multipart_upload(**where)["UploadId"]
    part = lab.s3.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"12345678")
    lab.s3.complete_multipart_upload(
        **where, UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    )


def _copy_object(lab: Lab, key: str) -> None:
    lab.s3_direct.put_object(Bucket=lab.info.bucket, Key=f"{key}-source", Body=b"12345678")
    lab.s3.copy_object(Bucket=lab.info.bucket, Key=key, CopySource={"Bucket": lab.info.bucket, "Key": f"{key}-source"})


def _post(lab: Lab, key: str) -> None:
    form = lab.s3.generate_presigned_post(lab.info.bucket, key)
    fields = {**form["fields"], "file": "12345678"}
    parts = "".join(f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in fields.items())
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    request = urllib.request.Request(form["url"], data=f"{parts}--B--\r\n".encode(), headers=headers)  # noqa: S310 - loopback
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - loopback


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda lab, key: lab.put("vast", key, b"12345678"), "Put"),
        (_copy_object, "Copy"),
        (_multipart, "CompleteMultipartUpload"),
        (_post, "Post"),
    ],
    ids=["put", "copy", "multipart", "post"],
)
def test_a_created_object_is_told(lab: Lab, key: str, write: Callable[[Lab, str], object], name: str) -> None:
    """One record with the object's own ETag and size, whichever way it was written."""
    write(lab, key)
    [record] = lab.events("vast", key)
    now = lab.s3_direct.head_object(Bucket=lab.info.bucket, Key=key)
    assert (record["eventSource"], record["eventName"]) == ("vast:s3", f"s3:ObjectCreated:{name}")
    assert (record["s3"]["object"]["eTag"], record["s3"]["object"]["size"]) == (now["ETag"].strip('"'), 8)
    assert record["s3"]["bucket"]["name"] == lab.info.bucket


def test_deletes_and_tags_of_objects_are_told(lab: Lab, key: str) -> None:
    """Tags put and deleted, a delete, and each key of a multi-object delete."""
    where = {"Bucket": lab.info.bucket, "Key": key}
    lab.put("vast", key)
    lab.s3.put_object_tagging(**where, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    lab.s3.delete_object_tagging(**where)
    lab.s3.delete_object(**where)
    names = {record["eventName"] for record in lab.events("vast", key, 4)}
    assert names == {"s3:ObjectCreated:Put", "s3:ObjectTagging:Put", "s3:ObjectTagging:Delete", "s3:ObjectRemoved:Delete"}
    many = [f"{key}-1 ü", f"{key}-2+%"]
    for one in many:
        lab.put("vast", one)
    lab.s3.delete_objects(Bucket=lab.info.bucket, Delete={"Objects": [{"Key": one} for one in many]})
    for one in many:
        assert {record["eventName"] for record in lab.events("vast", one, 2)} == {
            "s3:ObjectCreated:Put",
            "s3:ObjectRemoved:Delete",
        }


def test_a_delete_of_a_versioned_object_is_a_marker(lab: Lab, key: str) -> None:
    """With versioning a delete makes a marker and is told so; deleting a version is a delete."""
    bucket = f"versioned-{uuid4().hex[:12]}"
    lab.s3.create_bucket(Bucket=bucket)
    lab.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    version = lab.s3.put_object(Bucket=bucket, Key=key, Body=b"x")["VersionId"]
    lab.s3.delete_object(Bucket=bucket, Key=key)
    lab.s3.delete_object(Bucket=bucket, Key=key, VersionId=version)
    names = sorted(record["eventName"] for record in lab.events("vast", key, 3))
    assert names == ["s3:ObjectCreated:Put", "s3:ObjectRemoved:Delete", "s3:ObjectRemoved:DeleteMarkerCreated"]


def test_what_vast_does_not_tell_is_not_told(lab: Lab, key: str) -> None:
    """No event of reads, of parts, of an upload given up, of writes that failed, or of writes past the proxy."""
    where = {"Bucket": lab.info.bucket, "Key": key}
    lab.put("vast", key)
    assert lab.s3.get_object(**where)["Body"].read() == b"x"
    upload = lab.s3.create_multipart_upload(**where)["UploadId"]
    lab.s3.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"1")
    lab.s3.abort_multipart_upload(**where, UploadId=upload)
    with pytest.raises(ClientError):
        lab.s3.put_object(**where, Body=b"y", IfNoneMatch="*")
    lab.s3_direct.put_object(**where, Body=b"as over NFS")
    lab.events("vast", key, 1)
    assert lab.stats("vast")["events"]["emitted"] == 2, "the write and the one after it"


# ------------------------------------------------------------------------------------------------------------- what is forwarded


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ODD_KEYS)
def test_odd_keys_come_through_unchanged(lab: Lab, side: str, name: str) -> None:
    """The server holds exactly this key with these bytes, both ways, and the event names it exactly."""
    key = f"{uuid4().hex}/{name}"
    content = os.urandom(50) + key.encode()
    lab.put(side, key, content)
    assert lab.get_direct(side, key) == content
    prefix = key.partition("/")[0]
    if side == "blob":
        assert lab.blobs.download_blob(key).readall() == content
        listed = [blob.name for blob in lab.blobs.list_blobs(name_starts_with=prefix)]
    else:
        assert lab.s3.get_object(Bucket=lab.info.bucket, Key=key)["Body"].read() == content
        listed = [one["Key"] for one in lab.s3.list_objects_v2(Bucket=lab.info.bucket, Prefix=prefix)["Contents"]]
    assert listed == [key]
    lab.until(side, key, 1)


@pytest.mark.parametrize("side", SIDES)
def test_large_bodies_stream_through_unchanged(lab: Lab, side: str, key: str) -> None:
    """Bytes above the size that is passed in one piece, whole and in part."""
    content = os.urandom(5 * MIB + 7)
    lab.put(side, key, content)
    assert lab.get_direct(side, key) == content
    if side == "blob":
        assert lab.blobs.download_blob(key).readall() == content
        assert lab.blobs.download_blob(key, offset=3, length=2 * MIB).readall() == content[3 : 3 + 2 * MIB]
    else:
        assert lab.s3.get_object(Bucket=lab.info.bucket, Key=key)["Body"].read() == content
        part = lab.s3.get_object(Bucket=lab.info.bucket, Key=key, Range=f"bytes=3-{2 + 2 * MIB}")["Body"].read()
        assert part == content[3 : 3 + 2 * MIB]
    [event] = lab.events(side, key)
    size = event["data"]["contentLength"] if side == "blob" else event["s3"]["object"]["size"]
    assert size == len(content)
