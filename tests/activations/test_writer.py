"""The writer does jobs in order behind the caller's back, never more than two ahead, and hides no failure."""

from __future__ import annotations

import threading

import pytest

from neuronlens.activations.writer import ShardWriter

SECONDS = 30  # a test that waits as long has failed


def test_jobs_are_done_in_order_on_another_thread():
    done = []
    with ShardWriter() as writer:
        for i in range(20):
            writer.submit(lambda i=i: done.append((i, threading.current_thread() is threading.main_thread())))
    assert done == [(i, False) for i in range(20)]


def test_a_third_job_waits_for_the_first():
    """So that two blocks of results are in memory, and not all that a slow disk has not taken yet."""
    disk, handed = threading.Semaphore(0), []

    def caller():
        with ShardWriter() as writer:
            for i in range(4):
                writer.submit(lambda: disk.acquire(timeout=SECONDS))
                handed.append(i)

    thread = threading.Thread(target=caller)
    thread.start()
    for written in range(3):
        while len(handed) < 2 + written:
            assert thread.is_alive()
        thread.join(timeout=0.05)
        assert len(handed) == 2 + written
        disk.release()
    disk.release()
    thread.join(timeout=SECONDS)
    assert handed == [0, 1, 2, 3]


@pytest.mark.parametrize("broken", [0, 2, 5])
def test_a_failure_ends_the_block_with_the_original_error(broken):
    done, error = [], OSError(28, "No space left on device")

    def job(i):
        if i == broken:
            raise error
        done.append(i)

    with pytest.raises(OSError, match="No space left") as caught, ShardWriter() as writer:
        for i in range(6):
            writer.submit(lambda i=i: job(i))
    assert caught.value is error
    assert done[:broken] == list(range(broken))
    assert len(done) <= broken + 1, "what was behind the failure is dropped, but for a job that had begun"
    assert not any(thread.name.startswith("shards") for thread in threading.enumerate())


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_failing_block_waits_for_the_running_job_alone(kind):
    begun, go, done = threading.Event(), threading.Event(), []

    def slow():
        begun.set()
        assert go.wait(SECONDS)
        done.append("slow")

    with pytest.raises(kind), ShardWriter() as writer:
        writer.submit(slow)
        writer.submit(lambda: done.append("dropped"))
        assert begun.wait(SECONDS)
        threading.Timer(0.05, go.set).start()
        raise kind
    assert done == ["slow"]


def test_the_blocks_own_failure_goes_before_the_writers():
    with pytest.raises(ValueError, match="first"), ShardWriter() as writer:
        writer.submit(lambda: [].pop())
        raise ValueError("first")
