"""Ids of messages: unique, in order, and not to be guessed."""

import os
import sys

import pytest

from hubsub._core.ids import COUNTED, DIGITS, Ids, is_unguessable


def test_ids_count_up_and_none_comes_twice() -> None:
    ids = Ids()
    minted = [ids.mint() for _ in range(70_000)]
    assert len(set(minted)) == len(minted)
    assert [int(id[: 2 * COUNTED], 16) for id in minted] == list(range(70_000))


def test_the_random_digits_of_an_id_do_not_repeat_and_use_every_bit() -> None:
    ids = Ids()
    random = [ids.mint()[2 * COUNTED :] for _ in range(10_000)]
    assert {len(digits) for digits in random} == {16}
    assert len(set(random)) == len(random)
    assert [{digits[place] for digits in random} for place in range(16)] == [set(DIGITS)] * 16


def test_the_form_of_an_id_tells_that_it_cannot_be_guessed() -> None:
    id = Ids().mint()
    assert is_unguessable(id)
    for other in ("", "1", "199", id[:-1], id + "0", id.upper(), "z" + id[1:], id[:-1] + "\n", "1-" + id[2:]):
        assert not is_unguessable(other) or other == id


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.skipif(sys.platform == "darwin", reason="forking is not safe there")
def test_a_fork_mints_other_ids_than_its_parent() -> None:
    ids = Ids()
    ids.mint()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, ids.mint().encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with open(reading) as pipe:
        theirs = pipe.read()
    assert is_unguessable(theirs)
    assert theirs not in [ids.mint() for _ in range(1000)]
