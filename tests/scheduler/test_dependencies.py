from vldd_dist.scheduler.dependencies import Dependencies


def test_a_unit_is_ready_when_its_last_input_is_committed() -> None:
    dependencies = Dependencies({"a"})
    assert dependencies.add("ready", {"a"})
    assert not dependencies.add("d", {"a", "b", "c"})
    assert not dependencies.add("e", {"c"})
    assert dependencies.commit("b") == []
    assert dependencies.commit("b") == [], "counted once"
    assert dependencies.commit("c") == ["d", "e"]
    assert dependencies.add("late", {"b", "c"})


def test_a_failed_unit_blocks_what_needs_it_directly_or_through_others() -> None:
    dependencies = Dependencies()
    for unit, inputs in (("b", {"a"}), ("c", {"b", "x"}), ("other", {"x"})):
        dependencies.add(unit, inputs)
    assert dependencies.fail("a") == ["b", "c"]
    assert dependencies.fail("a") == []
    assert [dependencies.has_failed(unit) for unit in ("a", "b", "c", "other", "x")] == [True, True, True, False, False]
    # Its other input is committed too late.
    assert dependencies.commit("x") == ["other"]
