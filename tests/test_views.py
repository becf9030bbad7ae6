"""The table of views: the functions of each entry exist, and a view refuses the options of other views."""

from dataclasses import fields

import pytest

from attncli.errors import UsageProblem
from attncli.views import NAMED_VIEWS, VIEWS, ViewOptions, find_view


def test_every_entry_names_functions_and_options_that_exist():
    options = {field.name for field in fields(ViewOptions)}
    for view in VIEWS:
        functions = view.load(ViewOptions())
        assert all(map(callable, (functions.find, functions.screen, functions.document)))
        assert set(view.takes) <= options
    assert options == {option for view in VIEWS for option in view.takes} | {"pair"}  # every view takes a pair


def test_a_view_refuses_options_of_other_views_and_names_those_views():
    with pytest.raises(UsageProblem, match="check does not go with") as refused:
        find_view("lens").refuse_options(ViewOptions(check=False))
    assert refused.value.message == "check does not go with view lens."
    assert refused.value.hint == "It goes with the first screen or view bars."
    find_view(None).refuse_options(ViewOptions(check=False, temperature=0.5, words=True))


def test_the_error_for_an_unknown_view_lists_all_views():
    with pytest.raises(UsageProblem, match=r"^view 'tree' is not a view") as refused:
        find_view("tree")
    assert all(name in refused.value.hint for name in NAMED_VIEWS)
