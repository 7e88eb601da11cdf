"""Runs that are killed, or come to the limits of the machine, and the same command after that."""

import json
import random

import pytest

from depth_anything_hf.data.folder import load_folder

pytestmark = pytest.mark.slow

COUNT, BROKEN, BLOCK = 72, 4, 6


@pytest.fixture(scope="module")
def many(save_photos, tmp_path_factory):
    """Folder of pictures, of which some are broken."""
    folder = save_photos(tmp_path_factory.mktemp("many"), COUNT)
    for i in range(BROKEN):
        (folder / "2" / f"9{i}.jpg").write_bytes(b"\xff\xd8\xff" + bytes(i))
    return folder


@pytest.fixture(scope="module")
def command(many, teacher):
    """Function that gives the arguments of the command for a folder."""

    def arguments(out, *more):
        plain = ["--device", "cpu", "--resolution", "56", "--shard_size", str(BLOCK), "--disable_tqdm", "true"]
        return ["--model", teacher, "--images", many, "--out", out, *plain, *more]

    return arguments


@pytest.fixture(scope="module")
def straight(start_run, command, tmp_path_factory):
    """A folder that was labeled without interruption, and how long that takes with 1 and with 2 processes."""
    folder = tmp_path_factory.mktemp("straight")
    seconds = {}
    for processes in (1, 2):
        done = start_run(command(folder / str(processes) / "out", "--num_workers", "1"), processes)
        assert done["codes"] == [0] * processes, done["output"]
        seconds[processes] = done["seconds"]
    return folder, seconds


def test_label_images__two_processes_give_the_files_of_one(straight, contents):
    folder, _ = straight
    assert contents(folder / "1" / "out") == contents(folder / "2" / "out")


def test_label_images__straight_run_has_every_input_once(straight, many, rejects):
    folder = straight[0] / "1" / "out"
    sources = load_folder(folder)["source"]
    files = {path.relative_to(many).as_posix() for path in many.rglob("*.*")}
    assert len(files) == COUNT + BROKEN
    assert sorted([*sources, *rejects(folder)]) == sorted(files)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["inputs"], manifest["labeled"], manifest["rejected"]) == (COUNT + BROKEN, COUNT, BROKEN)
    assert sum(shard["rows"] for shard in manifest["shards"]) == COUNT


def test_label_images__killed_at_random_moments_ends_with_the_same_files(
    straight, start_run, command, contents, tmp_path
):
    folder, seconds = straight
    expected, chance = contents(folder / "1" / "out"), random.Random(0)
    shards = {name: digest for name, digest in expected.items() if name.endswith(".parquet")}
    left_blocks, left_halves, kills, number = [], 0, 0, 0
    while kills < 12:
        number += 1
        out = tmp_path / str(number) / "out"
        ended = False
        for attempt in range(40):
            processes = 1 + (number + attempt) % 2
            before = entries(out)
            moment = {}
            if kills < 12 and attempt % 3 == 0:  # anywhere: it loads, labels or finishes
                moment = {"kill_after": chance.uniform(0.1, 1.0) * seconds[processes]}
            elif kills < 12:  # while it labels and writes
                more = chance.randrange(1, 5)
                moment = {"watch": f"{out}/progress/*.json", "files": len(before) + more}
                moment |= {"kill_after": chance.uniform(0, 0.05)}
            done = start_run(command(out, "--num_workers", str(chance.randrange(2))), processes, **moment)
            # Blocks that stood there were not labelled again; a shard under its final name is whole.
            assert before.items() <= entries(out).items()
            found = contents(out) if out.exists() else {}
            assert {name: found[name] for name in found if name.endswith(".parquet")}.items() <= shards.items()
            if not done["killed"]:
                assert done["codes"] == [0] * processes, done["output"]
                ended = True
                break
            kills += 1
            left_halves += any(name.endswith(".partial") for name in found)
            left_blocks.append(len(entries(out)))
        assert ended
        assert contents(out) == expected
    blocks = -(-(COUNT + BROKEN) // BLOCK)
    assert len({left for left in left_blocks if 0 < left < blocks}) > 2  # killed while it labelled
    assert left_halves  # and while it wrote


def entries(out):
    """When each block's entry was written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "progress").glob("*.json")}


def test_label_images__full_disk_says_so_and_goes_on(straight, start_run, command, contents, tmp_path):
    # A limit on the size of files stands for the disk: the kernel refuses to write further, here as there.
    expected, out = contents(straight[0] / "1" / "out"), tmp_path / "out"
    sizes = sorted(path.stat().st_size for path in (straight[0] / "1" / "out" / "data").iterdir())
    for largest, finished in ((100, False), (sizes[-1] - 1, True)):  # the first cannot even begin
        done = start_run(command(out, "--num_workers", "0"), largest_file=largest)
        assert done["codes"] == [1]
        assert f"{out} cannot grow (File too large)" in done["output"]
        assert "repeat the same command" in done["output"]
        assert "Traceback" not in done["output"]
        assert bool(entries(out)) == finished
        assert not list(out.rglob("*.partial"))
    before = entries(out)
    assert start_run(command(out, "--num_workers", "0"))["codes"] == [0]
    assert before.items() <= entries(out).items()
    assert contents(out) == expected


def test_label_images__interrupted_from_the_keyboard(straight, start_run, command, contents, tmp_path):
    folder, seconds = straight
    arguments = command(tmp_path / "out", "--num_workers", "1")
    done = start_run(arguments, kill_after=0.6 * seconds[1], signal="SIGINT")
    assert (done["killed"], done["codes"]) == (True, [130]), done["output"]
    assert "pseudo-label: stopped." in done["output"]
    assert start_run(arguments)["codes"] == [0]
    assert contents(tmp_path / "out") == contents(folder / "1" / "out")


def test_label_images__few_open_files_are_enough(start_run, command, tmp_path):
    # One block and one batch of all pictures: none of them may keep a worker's file handle until it is labelled.
    arguments = command(tmp_path / "out", "--num_workers", "1", "--shard_size", "100", "--batch_size", "100")
    done = start_run(arguments, open_files=64)
    assert done["codes"] == [0], done["output"]


def test_label_images__killed_before_its_settings_were_written(start_run, command, contents, straight, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".settings.json.1.partial").write_text("{")
    done = start_run(command(tmp_path / "out", "--num_workers", "0"))
    assert done["codes"] == [0], done["output"]
    assert contents(tmp_path / "out") == contents(straight[0] / "1" / "out")
