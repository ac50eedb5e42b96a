"""``mosaic-collect copy``, and the other commands on a store in object storage."""

from __future__ import annotations

import json
import os

import mosaic_collect as mc
from tests.export import stores


def test_a_store_is_copied_and_read_back(cli, made: str, s3: str, tmp_path) -> None:
    done = cli("copy", made, s3, "--verify")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{s3}: 10 steps; 32 shards copied, ")
    done = cli("copy", made, s3, "--json")
    told = json.loads(done.out)
    assert (told["copied"], told["kept"], told["ok"]) == (0, 32, True)
    back = str(tmp_path / "back.zarr")
    assert cli("copy", s3, back).code == 0
    assert mc.verify_store(back).ok


def test_a_copy_that_is_damaged_there_is_a_no(cli, made: str, tmp_path) -> None:
    back = str(tmp_path / "back.zarr")
    assert cli("copy", made, back).code == 0
    stores.flip(os.path.join(back, "actions", "c.1.0.0"), 100)
    done = cli("copy", made, back, "--verify")
    assert done.code == 1
    assert "actions, block 1, chunk 0: checksum mismatch" in done.out


def test_what_is_no_store_is_not_copied(cli, s3: str, tmp_path) -> None:
    cli("copy", s3, str(tmp_path / "back.zarr")).failed(f"no store at {s3}")
    assert not (tmp_path / "back.zarr").exists()


def test_other_commands_take_urls(cli, made: str, s3: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    mc.copy_store(made, s3)
    for words in (("inspect",), ("verify",), ("stats",), ("watch", "--once")):
        done = cli(words[0], s3, *words[1:])
        assert (done.code, done.err) == (0, ""), done
    assert os.listdir() == ["expert.zarr"]
    cli("export", s3).failed("output: expected a name")
    assert cli("export", s3, "expert.npy").code == 0
    assert cli("verify", s3, "--npy", "expert.npy").code == 0
    cli("verify", "ftp://host/run.zarr").failed("got the URL ftp://host/run.zarr")
