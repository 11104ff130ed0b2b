"""The section `schedule` of params.yaml and presets, and when it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from components import params
from components.errors import ParamsError
from flows import overlay, schedules


@pytest.fixture
def checkout(tmp_path: Path, root: Path) -> Path:
    (tmp_path / "presets").mkdir()
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    (tmp_path / "presets/news.yaml").write_text("name: news\nschedule: {cron: '0 3 * * 1', timezone: Europe/Berlin}\n")
    (tmp_path / "presets/later.yaml").write_text("name: later\n")
    return tmp_path


def test_each_file_has_a_schedule_of_its_own_or_is_started_by_hand(checkout: Path) -> None:
    found = {one.name: one for one in schedules.planned(checkout)}
    assert list(found) == ["params.yaml", "later", "news"]
    assert found["params.yaml"].preset is None
    assert found["later"].schedule is None
    news = found["news"].schedule
    assert news is not None
    assert (news.cron, news.timezone) == ("0 3 * * 1", "Europe/Berlin")


def test_a_preset_does_not_inherit_the_schedule_of_params() -> None:
    base = {"name": "digits", "schedule": {"cron": "0 3 * * *", "timezone": "UTC"}}
    assert "schedule" not in overlay.overlay(base, {"name": "news"})
    assert overlay.overlay(base, {"schedule": {"cron": "1 * * * *"}})["schedule"] == {"cron": "1 * * * *"}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{cron: '0 25 * * *', timezone: UTC}", "schedule.cron: must be a cron line of five fields"),
        ("{cron: daily at three, timezone: UTC}", "got 'daily at three'"),
        ("{cron: 'H 3 * * *', timezone: UTC}", "schedule.cron: must be a cron line"),
        ("{cron: '0 3 * * *', timezone: Mars/Base}", "schedule.timezone: must be a name of the IANA list"),
        ("{cron: '0 3 * * *'}", "schedule.timezone: is missing; add it"),
        ("{cron: '0 3 * * *', timezone: UTC, chron: 1}", "schedule.chron: unknown key"),
        ("{cron: 3, timezone: UTC}", "schedule.cron: input should be a valid string, got 3"),
        ("{cron: '0 3 * * *', timezone: UTC, stage_timeout_s: 0}", "schedule.stage_timeout_s: "),
        ("{cron: '0 3 * * *', timezone: UTC, notify: [team]}", "schedule.notify: must name blocks as <type>/<name>"),
        ("[1]", "schedule: "),
    ],
)
def test_what_prefect_would_not_take_is_one_line(checkout: Path, section: str, said: str) -> None:
    (checkout / "presets/news.yaml").write_text(f"name: news\nschedule: {section}\n")
    with pytest.raises(ParamsError) as refused:
        schedules.planned(checkout)
    (line,) = refused.value.errors
    assert line.startswith("presets/news.yaml: schedule")
    assert said in line


def test_the_shipped_files_can_be_scheduled(root: Path) -> None:
    assert [one.name for one in schedules.planned(root)] == schedules.names(root)


def test_params_take_a_schedule(root: Path) -> None:
    raw = params.read(root / "params.yaml")
    assert params.check({**raw, "schedule": {"cron": "0 3 * * *", "timezone": "UTC"}}).schedule is not None
