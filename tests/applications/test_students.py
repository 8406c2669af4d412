"""Students on the features of a frozen backbone: how they are trained on a whole split."""

from dataclasses import replace

from tests.applications.small_inputs import inputs, random_split


def test_no_step_on_a_split_has_far_fewer_pairs_than_the_others() -> None:
    """201 pairs in batches of 100 would leave one, whose loss is zero: only momentum and weight decay would move a student."""
    given = inputs().students
    students = replace(given, protocol=given.protocol.model_copy(update={"batch_size": 100}))
    student, sizes = students.build(), list[int]()
    student.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0])))
    assert list(students.epochs_on_split(student, random_split(201, 4), 0.1, 2)) == [0, 1]
    assert sizes == [67, 67, 67] * 2
