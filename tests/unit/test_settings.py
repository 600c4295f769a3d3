import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from dure.errors import DureError, SettingsError
from dure.settings import SectionSettings, Settings
from dure_gateway.settings import GatewaySettings
from dure_worker.settings import WorkerSettings

SECRET = "비밀번호-hunter2"
SECTIONS = [Settings, GatewaySettings, WorkerSettings]


@pytest.mark.parametrize(
    ("section", "variable", "nearest"),
    [
        (Settings, "DURE_REDIS_ULR", "DURE_REDIS_URL"),
        (Settings, "DURE_HOMME", "DURE_HOME"),
        (Settings, "DURE_LOGLEVEL", "DURE_LOG_LEVEL"),
        (GatewaySettings, "DURE_GATEWAY_PROT", "DURE_GATEWAY_PORT"),
        (GatewaySettings, "DURE_GATEWAY_MAX_QUEUE", "DURE_GATEWAY_MAX_QUEUED"),
        (WorkerSettings, "DURE_WORKER_SLOT", "DURE_WORKER_SLOTS"),
        (WorkerSettings, "DURE_WORKER_CONTXT", "DURE_WORKER_CONTEXT"),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_nearest_name(
    section: type[SectionSettings], variable: str, nearest: str
) -> None:
    with pytest.raises(SettingsError, match=f"{variable} is not a setting.*did you mean {nearest}\\?"):
        section.read({variable: "1"})


def test_a_setting_like_no_other_is_refused_with_a_list_of_all() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.read({"DURE_QQQQQQQQQQQQ": "1"})
    assert all(name in str(caught.value) for name in ("DURE_HOME", "DURE_HUB_URL", "DURE_MODEL_SOURCE"))


def test_the_common_section_leaves_the_programs_sections_alone() -> None:
    environ = {"DURE_GATEWAY_PORT": "8000", "DURE_WORKER_SLOTS": "2", "DURE_WORKER_NO_SUCH": "x", "DURE_MODEL": "모델"}
    assert Settings.read(environ).model == "모델"


@pytest.mark.parametrize("section", SECTIONS)
def test_variables_without_the_prefix_are_nobodys_business(section: type[SectionSettings]) -> None:
    assert section.read({"PATH": "/usr/bin", "DURETTE": "x", "MY_DURE_HOME": "x", "dure": "x"})


def test_a_section_reads_only_variables_of_its_own() -> None:
    environ = {"DURE_PORT": "1", "DURE_WORKER_PORT": "2", "DURE_GATEWAY_PORT": "3"}
    assert GatewaySettings.read(environ).port == 3


@pytest.mark.parametrize(
    ("section", "variable", "value"),
    [
        (Settings, "DURE_LOG_LEVEL", "시끄럽게"),
        (Settings, "DURE_LOG_LEVEL", "INFO\n"),
        (GatewaySettings, "DURE_GATEWAY_PORT", "팔천"),
        (GatewaySettings, "DURE_GATEWAY_PORT", "0"),
        (GatewaySettings, "DURE_GATEWAY_WEB_PORT", "65536"),
        (GatewaySettings, "DURE_GATEWAY_MAX_QUEUED", "-1"),
        (GatewaySettings, "DURE_GATEWAY_DEADLINE_S", "591"),
        (WorkerSettings, "DURE_WORKER_ENGINE", "lama"),
        (WorkerSettings, "DURE_WORKER_SLOTS", "0"),
        (WorkerSettings, "DURE_WORKER_SLOTS", "2.5"),
        (WorkerSettings, "DURE_WORKER_CONTEXT", "255"),
        (WorkerSettings, "DURE_WORKER_GRACE_S", "nan"),
        (WorkerSettings, "DURE_WORKER_LEASE_S", "0.5"),
        (WorkerSettings, "DURE_WORKER_LOAD", ""),
    ],
)
def test_a_wrong_value_is_refused_with_variable_and_value(
    section: type[SectionSettings], variable: str, value: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        section.read({variable: value})
    assert f"{variable} = {value!r}: " in str(caught.value)


@pytest.mark.parametrize("name", ["일꾼", "a b", "", "a" * 65, "a/b", "a\n", "w:1"])
def test_a_worker_name_that_cannot_name_a_queue_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="DURE_WORKER_NAME"):
        WorkerSettings.read({"DURE_WORKER_NAME": name})


def test_the_worker_name_made_for_this_machine_is_one_that_would_be_accepted() -> None:
    name = WorkerSettings.read({}).name
    assert WorkerSettings.read({"DURE_WORKER_NAME": name}).name == name


def test_several_wrong_values_are_all_named() -> None:
    with pytest.raises(SettingsError) as caught:
        GatewaySettings.read({"DURE_GATEWAY_PORT": "x", "DURE_GATEWAY_MAX_STREAMS": "0"})
    assert "DURE_GATEWAY_PORT" in str(caught.value)
    assert "DURE_GATEWAY_MAX_STREAMS" in str(caught.value)


def test_the_password_in_the_redis_address_is_never_shown() -> None:
    settings = Settings.read({"DURE_REDIS_URL": f"redis://:{SECRET}@저장소:6379/0"})
    shown = [repr(settings), str(settings), f"{settings}", repr(settings.model_dump()), settings.model_dump_json()]
    assert not [text for text in shown if SECRET in text]
    assert settings.require_redis_url() == f"redis://:{SECRET}@저장소:6379/0"


@pytest.mark.parametrize(
    "environ",
    [
        {"DURE_REDIS_URL": f"http://:{SECRET}@저장소"},
        {"DURE_REDIS_URL": f":{SECRET}@저장소:6379"},
        {"DURE_REDIS_ULR": f"redis://:{SECRET}@저장소"},
        {"DURE_REDIS_URL": f"redis://:{SECRET}@저장소", "DURE_LOG_LEVEL": "틀림"},
        {"DURE_REDIS_URL": f"redis://:{SECRET}@저장소", "DURE_MODLE": "틀림"},
    ],
)
def test_the_password_is_not_in_the_error_about_a_wrong_setting(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.read(environ)
    trace = "".join(traceback.format_exception(caught.value))
    assert SECRET not in str(caught.value)
    assert SECRET not in trace


def test_a_redis_address_of_another_kind_is_refused_with_the_kinds_there_are() -> None:
    with pytest.raises(SettingsError, match=r"DURE_REDIS_URL.*redis://.*rediss://.*unix://"):
        Settings.read({"DURE_REDIS_URL": "http://127.0.0.1:6379"})


def test_a_missing_redis_address_names_the_variable_and_the_command_that_needs_none() -> None:
    with pytest.raises(SettingsError, match=r"DURE_REDIS_URL is not set.*`dure up`.*DURE_REDIS_URL=redis://"):
        Settings.read({}).require_redis_url()


@pytest.mark.parametrize(
    ("section", "field"), [(Settings, "home"), (GatewaySettings, "port"), (WorkerSettings, "slots")]
)
def test_settings_cannot_be_changed_after_the_start(section: type[SectionSettings], field: str) -> None:
    settings = section.read({})
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, field, getattr(settings, field))


@pytest.mark.parametrize("section", SECTIONS)
def test_only_the_given_environment_is_read(section: type[SectionSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    unchanged = section.read({})
    for variable in ("MODEL", "DURE_MODEL", "HOST", "DURE_GATEWAY_HOST", "ENGINE", "DURE_WORKER_ENGINE"):
        monkeypatch.setenv(variable, "scripted")
    assert section.read({}) == unchanged


def test_without_a_mapping_the_process_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURE_GATEWAY_HOST", "0.0.0.0")
    assert GatewaySettings.read().host == "0.0.0.0"


def test_an_override_wins_over_the_environment_and_is_checked_too(tmp_path: Path) -> None:
    assert Settings.read({"DURE_HOME": "/어딘가"}, home=tmp_path).models_dir == tmp_path / "models"
    with pytest.raises(SettingsError, match="DURE_LOG_LEVEL = 'loud'"):
        Settings.read({}, log_level="loud")
    with pytest.raises(SettingsError, match="DURE_NO_SUCH"):
        Settings.read({}, no_such="x")


def test_settings_errors_are_errors_of_this_project() -> None:
    assert issubclass(SettingsError, DureError)


def test_zero_threads_means_the_cores_of_this_process() -> None:
    assert WorkerSettings.read({}).num_threads >= 1
    assert WorkerSettings.read({"DURE_WORKER_THREADS": "3"}).num_threads == 3


def test_the_bits_of_the_cache_are_16_or_8() -> None:
    assert WorkerSettings.read({"DURE_WORKER_KV_BITS": "8"}).kv_bits == 8
    with pytest.raises(SettingsError, match=r"DURE_WORKER_KV_BITS.*16 or 8"):
        WorkerSettings.read({"DURE_WORKER_KV_BITS": "4"})
