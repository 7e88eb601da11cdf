import collections

import pytest
from accelerate import PartialState

from depth_anything_hf.labeling.plan import BlockEnd, BlockId, Work, missing_blocks, schedule
from depth_anything_hf.labeling.sources import Item, digest_of


class Process:
    """One process of several: Accelerate's own division, without the processes."""

    split_between_processes = PartialState.split_between_processes

    def __init__(self, process_index: int = 0, num_processes: int = 1):
        self.process_index, self.num_processes = process_index, num_processes


class Source:
    """Parts of given lengths; a part may end in an error."""

    def __init__(self, *lengths: int, whole_files: bool = True, prefix: str = "", errors: dict | None = None):
        self.name, self.lengths, self.whole_files, self.prefix = "photos", lengths, whole_files, prefix
        self.parts = tuple(f"part{part}" for part in range(len(lengths)))
        self.errors, self.opened, self.taken = errors or {}, [], 0

    def read(self, part: int):
        self.opened.append(part)
        for row in range(self.lengths[part]):
            self.taken += 1
            yield Item(f"{self.prefix}{part}/{row}", None)
        if part in self.errors:
            raise self.errors[part]


def run(source, block_size=3, finished=None, index=0, count=1):
    """Follow a schedule: the keys of each block, and its end."""
    blocks, open_keys = {}, []
    for step in schedule(source, block_size, finished or {}, Process(index, count)):
        if isinstance(step, Work):
            assert step.position == len(open_keys)
            open_keys.append((step.block, step.item.key))
        else:
            assert {block for block, _ in open_keys} <= {step.block}
            assert step.block not in blocks
            blocks[step.block] = ([key for _, key in open_keys], step)
            open_keys = []
    assert open_keys == []
    return blocks


def entries(blocks):
    return {name: {"inputs": end.inputs, "last": end.last, "digest": end.digest} for name, (_, end) in blocks.items()}


LAYOUTS = [(7,), (6,), (0,), (1,), (4, 0, 9, 3, 1), (3, 3), (0, 0, 5), (2,) * 7]


def test_schedule__divides_parts_into_blocks():
    blocks = run(Source(7, 0, 3), 3)
    assert {str(name): keys for name, (keys, _) in blocks.items()} == {
        "00000-00000": ["0/0", "0/1", "0/2"],
        "00000-00001": ["0/3", "0/4", "0/5"],
        "00000-00002": ["0/6"],
        "00001-00000": [],
        "00002-00000": ["2/0", "2/1", "2/2"],
    }
    ends = [end for _, end in blocks.values()]
    assert [end.last for end in ends] == [False, False, True, True, True]
    assert [end.inputs for end in ends] == [3, 3, 1, 0, 3]
    assert ends[0] == BlockEnd(BlockId(0, 0), 3, False, digest_of(["0/0", "0/1", "0/2"]), None)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("lengths", LAYOUTS)
def test_schedule__gives_every_input_once_in_the_same_blocks(lengths, count):
    alone = run(Source(*lengths))
    shares = [run(Source(*lengths), index=index, count=count) for index in range(count)]
    together = {}
    for share in shares:
        assert not together.keys() & share.keys()
        together |= share
    assert together == alone
    found = collections.Counter(key for keys, _ in together.values() for key in keys)
    assert found == {f"{part}/{row}": 1 for part, length in enumerate(lengths) for row in range(length)}
    assert missing_blocks(len(lengths), entries(together)) == []


def test_schedule__processes_have_parts_of_their_own():
    sources = [Source(*(2,) * 5) for _ in range(2)]
    for index, source in enumerate(sources):
        run(source, index=index, count=2)
    assert sorted(sources[0].opened + sources[1].opened) == [0, 1, 2, 3, 4]
    assert abs(len(sources[0].opened) - len(sources[1].opened)) == 1


def test_schedule__shares_the_blocks_of_a_single_part_evenly():
    shares = [run(Source(18), index=index, count=3) for index in range(3)]
    assert [[name.block for name in share] for share in shares] == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("length", "lasts"), [(6, [False, True]), (7, [False, False, True]), (0, [True]), (3, [True])]
)
def test_schedule__last_is_right_at_a_multiple_of_the_block_size(length, lasts):
    assert [end.last for _, end in run(Source(length)).values()] == lasts


def test_schedule__reads_no_further_than_one_ahead():
    source = Source(100)
    steps = schedule(source, 10, {}, Process())
    for _ in range(5):
        next(steps)
    assert source.taken == 6


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("lengths", LAYOUTS)
def test_schedule__goes_on_where_it_stopped(lengths, count):
    every = run(Source(*lengths))
    for done in range(len(every) + 1):
        finished = entries(dict(list(every.items())[:done:2]))  # any of them, not the first ones only
        rest = {}
        for index in range(count):
            rest |= run(Source(*lengths), finished=finished, index=index, count=count)
        assert rest == {name: block for name, block in every.items() if name not in finished}


def test_schedule__does_not_open_finished_files():
    finished = entries(run(Source(4, 2, 5)))
    del finished[BlockId(2, 1)]
    source = Source(4, 2, 5)
    assert list(run(source, finished=finished)) == [BlockId(2, 1)]
    assert source.opened == [2]
    folder = Source(4, whole_files=False)  # a folder may have changed
    assert run(folder, finished=entries(run(Source(4)))) == {}
    assert folder.opened == [0]


@pytest.mark.parametrize(
    "changed",
    [
        Source(7, whole_files=False),  # one more, at the end
        Source(5, whole_files=False),  # one fewer
        Source(6, whole_files=False, prefix="other"),
        Source(0, whole_files=False),
    ],
)
def test_schedule__changed_inputs_are_an_error(changed):
    finished = entries(run(Source(6)))
    with pytest.raises(ValueError, match=r"the inputs changed since block 00000-0000\d of photos \(part0\) was label"):
        run(changed, finished=finished)


def test_schedule__change_before_an_unfinished_block_is_an_error():
    finished = entries(run(Source(9)))
    del finished[BlockId(0, 2)]
    steps = schedule(Source(9, prefix="x"), 3, finished, Process())
    with pytest.raises(ValueError, match="it had 3 then and 3 now, or others"):
        next(steps)


@pytest.mark.parametrize("length", [0, 2, 3, 4])
@pytest.mark.parametrize(
    "error", [ValueError("bad page"), EOFError("bad page"), OSError("bad page")], ids=["value", "end", "pyarrow"]
)
def test_schedule__broken_part_ends_there_and_says_why(length, error):
    blocks = run(Source(length, 2, errors={0: error}))
    assert sum(end.inputs for name, (_, end) in blocks.items() if name.part == 0) == length
    ends = [end for name, (_, end) in blocks.items() if name.part == 0]
    assert [end.last for end in ends] == [False] * (len(ends) - 1) + [True]
    assert ends[-1].unreadable == f"{type(error).__name__}: bad page"
    assert [end.unreadable for end in ends[:-1]] == [None] * (len(ends) - 1)
    assert blocks[BlockId(1, 0)][1].unreadable is None  # and the next part is read


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ConnectionError("reset"), KeyError("image")])
def test_schedule__failing_disks_and_networks_stop_the_run(error):
    with pytest.raises(type(error)):
        run(Source(2, errors={0: error}))


def test_missing_blocks__names_the_first_of_each_part():
    finished = entries(run(Source(7, 3, 0)))
    assert missing_blocks(3, finished) == []
    assert missing_blocks(4, finished) == ["00003-00000"]
    del finished[BlockId(0, 1)], finished[BlockId(2, 0)]
    assert missing_blocks(3, finished) == ["00000-00001", "00002-00000"]
    assert missing_blocks(2, {}) == ["00000-00000", "00001-00000"]


def test_digest_of__is_sha256_of_lines():
    # printf 'a\nb\n' | sha256sum, and printf 'caf\xe9\n' | sha256sum for a name that is not UTF-8
    assert digest_of(["a", "b"]) == "911169ddaaf146aff539f58c26c489af3b892dff0fe283c1c264c65ae5aa59a2"
    assert digest_of(["caf\udce9"]) == "9e4efed0ff1dbcf37240f82e1aad6c763eb9331434d2b394a6441abbbe3634eb"
    assert len({digest_of(keys) for keys in (["a", "b"], ["b", "a"], ["ab"], ["a"], [])}) == 5
