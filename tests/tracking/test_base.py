import pytest

from metarun.tracking.base import flat, flat_results, require_extra, words


def test_flat_keeps_empty_mappings_and_lists():
    assert flat({"a": {"b": {"c": 1}, "d": {}}, "e": [{"f": 2}]}) == {"a.b.c": 1, "a.d": {}, "e": [{"f": 2}]}


def test_a_missing_package_is_one_line_that_names_the_extra():
    require_extra("tensorboard", "json")
    with pytest.raises(ImportError) as raised:
        require_extra("tensorboard", "json", "no_such_package")
    assert str(raised.value) == (
        "no_such_package is not installed: pip install 'metarun[tensorboard]', or leave this tracker out"
    )


def test_the_results_for_a_summary_are_those_of_the_result():
    rows = [
        {"inner_steps": steps, "diverged": [3] * steps, "accuracy": {"mean": mean, "ci95": 0.01}}
        for steps, mean in ((0, 0.2), (5, None))
    ]
    found = flat_results({"score": "accuracy", "results": rows})
    assert found.pop("test/accuracy") != found.pop("test/accuracy_after_5")  # null stands for NaN
    assert found == {"test/accuracy_ci95": 0.01, "test/diverged": 5, "test/accuracy_after_0": 0.2}


def test_an_error_is_told_on_one_line():
    assert words(RuntimeError("the pipe\nis broken.")) == "the pipe is broken"
    assert words(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert words(RuntimeError("x" * 301)) == "x" * 300 + " ..."
