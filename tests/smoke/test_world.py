"""Which GPU each rank takes, before anything that looks at it is imported."""

import os

import pytest

from verlock.smoke import world


@pytest.fixture
def torchrun(monkeypatch):
    def start(rank, size, **more):
        for name in ("NCCL_HOSTID", "NCCL_SOCKET_IFNAME", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        given = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), **more}
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return start


def test_ranks_with_a_gpu_each_are_left_alone(torchrun):
    torchrun(1, 2)
    world.take_place(2)
    assert os.environ["LOCAL_RANK"] == "1"
    assert "NCCL_HOSTID" not in os.environ


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_share_one_gpu_are_hosts_of_their_own(torchrun, rank):
    torchrun(rank, 2)
    world.take_place(1)
    assert (os.environ["LOCAL_RANK"], os.environ["NCCL_HOSTID"]) == ("0", f"rank{rank}")
    assert os.environ["NCCL_SOCKET_IFNAME"] == "lo"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(("rank", "seen"), [(0, "4"), (1, "7"), (2, "4"), (3, "7")])
def test_more_ranks_than_gpus_go_round_them(torchrun, rank, seen):
    torchrun(rank, 4, CUDA_VISIBLE_DEVICES="4,7")
    world.take_place(2)
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["LOCAL_RANK"]) == (seen, "0")
