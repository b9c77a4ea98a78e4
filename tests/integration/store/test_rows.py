"""The types of rows are those of the columns that their queries select."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import peewee
import pytest

from ci_runner.model.job_options import JobOptions
from ci_runner.store import rows
from ci_runner.store.database import Database
from ci_runner.store.schema import (
    ArtifactRow,
    EventRow,
    FeedRow,
    GrantRow,
    JobOptionsField,
    JobRow,
    JobSecretRow,
    KeyRow,
    LeaseRow,
    MappingField,
    RunRow,
    RunSecretRow,
    SpoolRow,
    TestRow,
    UserRow,
    UtcField,
)
from ci_runner.store.store import Store

#: Each kind of row → the models whose columns it has.
MODELS: dict[type, tuple[type[peewee.Model], ...]] = {
    rows.Id: (UserRow, JobRow, RunRow),
    rows.JobId: (TestRow,),
    rows.NodeId: (TestRow,),
    rows.Digest: (GrantRow,),
    rows.ArtifactDigest: (ArtifactRow,),
    rows.Submitted: (JobRow, RunRow),
    rows.FirstSubmission: (JobRow, RunRow),
    rows.Newest: (JobRow, RunRow),
    rows.LastSeq: (RunRow,),
    rows.OpenCount: (JobRow,),
    rows.EndedJob: (JobRow,),
    rows.StoredTiming: (EventRow,),
    rows.OpenJob: (JobRow,),
    rows.OwnedJob: (JobRow,),
    rows.JobEnd: (JobRow,),
    rows.JobTurn: (JobRow,),
    rows.StoredJob: (JobRow,),
    rows.PhaseChanges: (JobRow,),
    rows.JobChanges: (JobRow,),
    rows.RunState: (RunRow,),
    rows.StoredRun: (RunRow,),
    rows.StoredUser: (UserRow,),
    rows.UserDeletion: (UserRow,),
    rows.StoredKey: (KeyRow,),
    rows.StoredArtifact: (ArtifactRow,),
    rows.StoredTest: (TestRow,),
    rows.OutcomeCount: (TestRow,),
    rows.JobOutcome: (TestRow,),
    rows.JobWithTests: (JobRow,),
    rows.StoredSpool: (SpoolRow,),
    rows.FeedEntry: (FeedRow,),
    rows.Secret: (RunSecretRow, JobSecretRow),
    rows.StoredLease: (LeaseRow,),
}
#: Columns that a query computes, or takes from another table.
COMPUTED = {"n", "s", "planned", "number"}
#: Base class of a column → the type of its values; subclasses come first.
VALUES: dict[type, object] = {
    UtcField: dt.datetime,
    JobOptionsField: JobOptions,
    MappingField: dict,
    peewee.BooleanField: bool,
    peewee.IntegerField: int,
    peewee.TextField: str,
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    store = Store.open(tmp_path / "runner.db")
    yield store._database
    store.close()


def test_every_kind_of_row_is_compared() -> None:
    kinds = {kind for kind in vars(rows).values() if type(kind).__name__ == "_TypedDictMeta"}
    assert {kind for kind in kinds if kind.__module__ == rows.__name__} == set(MODELS)


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_types_are_those_of_the_columns(kind: type) -> None:
    for model in MODELS[kind]:
        for name, hint in get_type_hints(kind).items():
            if name in COMPUTED and not hasattr(model, name):
                continue
            column = getattr(model, name)
            expected = next(value for base, value in VALUES.items() if isinstance(column, base))
            parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            assert {_value_type(each) for each in parts if each is not NoneType} == {expected}, (model, name)
            assert column.null == (NoneType in parts), (model, name)


def _value_type(hint: object) -> object:
    """Return the type of a column's values, without what they are limited to or contain."""
    if get_origin(hint) is Literal:
        return type(get_args(hint)[0])
    return dict if get_origin(hint) is not None else hint


def test_a_query_that_selects_other_columns_is_refused(database: Database) -> None:
    assert database.first(LeaseRow.select(), rows.StoredLease) is not None
    with pytest.raises(TypeError, match=r"the query selects epoch, which are not those of Id"):
        database.rows(LeaseRow.select(LeaseRow.epoch), rows.Id)


def test_only_a_number_is_an_integer(database: Database) -> None:
    assert database.integer(LeaseRow.select(LeaseRow.epoch)) == 0
    with pytest.raises(TypeError, match="the query returned str, not a number"):
        database.integer("SELECT 'three'")
