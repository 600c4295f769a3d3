"""What a box may hold is checked before a worker loads anything."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure import budget
from dure.budget import Budget
from dure.errors import PlanTooLarge
from dure.known_models import CATALOGUE_SHAPES
from dure.machine_memory import Memory
from dure.memory_plan import MIB, Load

SHAPE = CATALOGUE_SHAPES["qwen2.5-coder-1.5b-korean"]
WEIGHTS = 857 * 10**6
WANTED = Load(slots=4, context=2048)


def test_a_plan_that_fits_is_returned() -> None:
    box = Budget(3 * 10**9)
    plan = budget.require(box, WEIGHTS, SHAPE, WANTED)
    assert plan.rss + plan.margin <= box.worker


def test_one_that_does_not_fit_is_refused_with_numbers_whose_limit_it_is_and_what_would_fit() -> None:
    box = Budget(2000 * MIB, source="cgroup v2 /sys/fs/cgroup/box")
    with pytest.raises(PlanTooLarge) as caught:
        budget.require(box, WEIGHTS, SHAPE, WANTED)
    said = str(caught.value)
    smaller = budget.fitted(box, WEIGHTS, SHAPE, WANTED)
    assert smaller is not None
    assert "1488 MiB of 2000 MiB" in said
    assert "cgroup v2 /sys/fs/cgroup/box" in said
    assert "--fit" in said
    assert f"--slots {smaller.slots}" in said


def test_where_not_even_one_short_slot_fits_a_smaller_model_is_the_remedy() -> None:
    box = Budget(1200 * MIB)
    assert budget.fitted(box, WEIGHTS, SHAPE, replace(WANTED, has_editor=False)) is None
    assert budget.fitted(box, WEIGHTS, SHAPE, WANTED) is None
    with pytest.raises(PlanTooLarge, match=r"dure model recommend --ram 1200MiB"):
        budget.require(box, WEIGHTS, SHAPE, WANTED)


def test_where_only_kiwi_is_too_much_its_passes_are_left_out() -> None:
    box = Budget(1700 * MIB)
    assert budget.fitted(box, WEIGHTS, SHAPE, WANTED) is None
    assert budget.fitted(box, WEIGHTS, SHAPE, replace(WANTED, has_editor=False)) is not None
    with pytest.raises(PlanTooLarge, match=r"DURE_WORKER_EDITS=light.*--fit"):
        budget.require(box, WEIGHTS, SHAPE, WANTED)


def test_workers_of_one_machine_share_what_its_reserve_leaves() -> None:
    one, two = Budget(3 * 10**9), Budget(3 * 10**9, num_workers=2)
    assert two.worker == (one.total - one.reserve) // 2
    with pytest.raises(PlanTooLarge, match="shared by 2 workers"):
        budget.require(two, WEIGHTS, SHAPE, WANTED)


def test_a_control_group_holds_no_system_so_less_is_kept_back() -> None:
    total = 3 << 30
    group = Budget.of(Memory(total, total, "cgroup v1 /sys/fs/cgroup/memory/box"))
    assert group.worker > Budget.of(Memory(total, total)).worker


def test_this_machine_is_read_below_the_root_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 3000000 kB\nMemAvailable: 2000000 kB\n")
    here = Budget.here(root=tmp_path)
    assert here is not None
    assert (here.total, here.source) == (3_000_000 << 10, "host")
    assert Budget.here(root=tmp_path / "nothing") is None


@given(total=st.integers(400 * MIB, 4000 * MIB), slots=st.integers(1, 16), context=st.integers(512, 8192))
def test_what_is_chosen_fits_and_is_never_more_than_was_wanted(total: int, slots: int, context: int) -> None:
    box, wanted = Budget(total), Load(slots, context)
    found = budget.fitted(box, WEIGHTS, SHAPE, wanted)
    if found is None:
        least = Load(1, budget.LEAST_CONTEXT, prompt_cache_bytes=0)
        assert not box.holds(box.plan(WEIGHTS, SHAPE, least))
        return
    assert box.holds(box.plan(WEIGHTS, SHAPE, found))
    assert found.slots <= slots
    assert found.context <= context
    if found != wanted:
        assert not box.holds(box.plan(WEIGHTS, SHAPE, wanted))
