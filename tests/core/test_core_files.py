"""Config and policy files: every mistake at once, each with its place and its cure, and nothing half in force."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.config import Config
from autoscaler.config_file import read_config, read_policies, read_policy
from autoscaler.domain.ids import ModelName
from autoscaler.errors import ConfigError
from autoscaler.policies import PolicyBook
from autoscaler.policy import Policy
from autoscaler.toml_file import line_of, parse_toml, read_toml

POLICY = 'schema = 1\nmodel = "llama"\nengine = "vllm"\n'
FILE = Path("policies/llama.toml")


def complaint(text: str, file: Path = FILE) -> str:
    with pytest.raises(ConfigError) as refused:
        parse_toml(text, file, Policy)
    return str(refused.value)


def put(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_a_misspelt_key_is_named_with_file_line_and_the_nearest_right_one() -> None:
    said = complaint(POLICY + '\n[scaling]\nmax_step = 2\nstabilisation = "5m"\n')

    assert said.startswith("policies/llama.toml:7: scaling.stabilisation: no such key; ")
    assert "did you mean 'stabilization'?" in said
    assert "target_utilization" in said


def test_all_mistakes_are_told_at_once_each_on_its_line() -> None:
    said = complaint(
        'schema = 1\nmodel = "llama"\nengine = "vlm"\n[nodes]\nmax = -1\n[drain]\ndeadline = 30\n'
        'on_deadline = "cutt"\n[hold]\nrequests = "many"\nqueue = 1\n'
    ).splitlines()

    assert [line.split(": ")[0] for line in said] == [
        "policies/llama.toml:3",
        "policies/llama.toml:5",
        "policies/llama.toml:7",
        "policies/llama.toml:8",
        "policies/llama.toml:10",
        "policies/llama.toml:11",
    ]
    assert "found 'vlm', allowed: 'vllm'" in said[0]
    assert "did you mean 'vllm'?" in said[0]
    assert 'such as "30s"' in said[2]
    assert "did you mean 'cut'?" in said[3]


def test_a_missing_key_and_a_missing_table_are_said_to_be_missing() -> None:
    assert complaint("schema = 1\n").splitlines() == [
        "policies/llama.toml: model: is missing: this key is required",
        "policies/llama.toml: engine: is missing: this key is required",
    ]


def test_two_keys_that_contradict_each_other_are_told_where_their_table_begins() -> None:
    said = complaint(POLICY + "[nodes]\nmin = 3\nmax = 2\n")

    assert said == "policies/llama.toml:4: nodes: max 2 is below min 3"


def test_text_that_is_not_toml_is_placed() -> None:
    assert "policies/llama.toml: not TOML" in complaint("model = \n")
    assert "line 1" in complaint("model = \n")


@pytest.mark.parametrize(
    "text",
    [
        '[server.env]\nHF_TOKEN = ["hunter2"]\n',
        '[server.env]\nOPENAI_API_KEY = { a = "hunter2" }\n',
        '[server.env]\nPLAIN = { inner = "hunter2" }\n',
        'password = "hunter2"\n',
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(text: str) -> None:
    assert "hunter2" not in complaint(POLICY + text)


def test_the_right_one_of_several_tables_is_pointed_at() -> None:
    text = POLICY + '[[signals.sources]]\nkind = "gateway"\n[[signals.sources]]\nkind = "gatewy"\n'

    assert complaint(text).startswith("policies/llama.toml:7: signals.sources[1].kind: ")


@given(st.text(max_size=200))
def test_any_text_is_refused_in_words(text: str) -> None:
    said = ""
    try:
        parse_toml(text, FILE, Policy)
    except ConfigError as exc:
        said = str(exc)

    assert said.startswith("policies/llama.toml")


@given(
    text=st.text(alphabet='ab.[]="\n# ', max_size=80),
    where=st.lists(st.sampled_from(["a", "b", 0, 1]), max_size=4),
)
def test_a_line_found_is_a_line_of_the_file(text: str, where: list[int | str]) -> None:
    line = line_of(text, where)

    assert line is None or 1 <= line <= len(text.splitlines())


def test_values_that_overflow_arithmetic_are_mistakes_like_any_other() -> None:
    text = POLICY + (
        f'[drain]\ndeadline = "{"9" * 40}w"\n[hold]\nbytes = "{"9" * 400}GB"\n'
        f'[limits]\nusd_per_day = "{"9" * 60}"\n'
    )

    assert [line.split(": ")[1] for line in complaint(text).splitlines()] == [
        "drain.deadline",
        "hold.bytes",
        "limits.usd_per_day",
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"#" * (1024 * 1024 + 1), "is a mistake"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    path = tmp_path / "llama.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match=why) as refused:
        read_toml(path, Policy)
    assert str(path) in str(refused.value)


# config.toml

CLOUD = '[cloud]\nowner = "abcdefgh"\nkey_file = "secrets/key"\n'
LIMITS = "[limits]\nusd_per_hour = 10\nusd_per_month = 900\nnodes = 8\n"
FIREWALL = '[firewall]\nsources = ["198.51.100.7/32"]\n'


def test_paths_in_a_config_are_relative_to_its_file(tmp_path: Path) -> None:
    path = put(
        tmp_path,
        "config.toml",
        'schema = 1\nbalancer = "haproxy"\nstate_dir = "state"\n'
        + CLOUD
        + LIMITS
        + FIREWALL
        + '[[haproxy]]\nsocket = "run/haproxy.sock"\nmaster_socket = "/abs/master.sock"\n',
    )

    config = read_config(path)

    assert config.cloud.key_file == tmp_path / "secrets/key"
    assert config.store_file == tmp_path / "state/autoscaler.db"
    assert config.policies == tmp_path / "policies"
    assert config.haproxy[0].socket == tmp_path / "run/haproxy.sock"
    assert str(config.haproxy[0].master_socket) == "/abs/master.sock"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (CLOUD + FIREWALL, "limits.usd_per_hour is missing: state what you are willing to spend"),
        (CLOUD + LIMITS + "[firewall]\nsources = []\n", "firewall.sources is empty"),
        (CLOUD + LIMITS + FIREWALL + '[timings]\nsweep = "1s"\n', "the least is 30s"),
        (CLOUD + LIMITS + '[firewall]\nsources = ["0.0.0.0/0"]\n', "opens the serving ports"),
        (CLOUD + LIMITS + FIREWALL + '[serve]\nlisten = "0.0.0.0:80"\n', "is not loopback"),
        ('[cloud]\nowner = "abcdefgh"\n' + LIMITS + FIREWALL, "give key_file, or email"),
    ],
)
def test_what_would_be_dangerous_on_a_real_cloud_is_refused(
    tmp_path: Path, text: str, why: str
) -> None:
    path = put(tmp_path, "config.toml", "schema = 1\n" + text)

    with pytest.raises(ConfigError) as refused:
        read_config(path)

    assert why in str(refused.value)


def test_an_emulator_on_loopback_may_be_fast(tmp_path: Path) -> None:
    text = 'schema = 1\n[cloud]\nurl = "http://127.0.0.1:1/v0.1"\n' + CLOUD[8:]
    config = read_config(put(tmp_path, "config.toml", text + '[timings]\nsweep = "1s"\n'))

    assert isinstance(config, Config)
    assert config.timings.sweep.total_seconds() == 1


# the directory of policies


def test_a_file_beside_the_policy_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = put(tmp_path, "llama.toml", POLICY + '[server]\ntoken_file = "hub.token"\n')

    with pytest.raises(ConfigError, match=r"server\.token_file: no such file: .*hub\.token"):
        read_policy(path)


def test_every_mistake_of_every_file_is_told(tmp_path: Path) -> None:
    put(tmp_path, "a.toml", "schema = 1\n")
    put(tmp_path, "b.toml", POLICY + "wrong = 1\n")
    put(tmp_path, "c.toml", POLICY)
    put(tmp_path, "ignored.txt", "not a policy")

    with pytest.raises(ConfigError) as refused:
        read_policies(tmp_path)

    assert len(str(refused.value).splitlines()) == 3


@pytest.mark.parametrize(
    "second",
    ['model = "llama"', 'model = "Llama"', 'model = "mistral"\naliases = ["llama"]'],
    ids=["the same name", "the same short name", "an alias of the other"],
)
def test_two_files_may_not_claim_one_model(tmp_path: Path, second: str) -> None:
    put(tmp_path, "a.toml", POLICY)
    put(tmp_path, "b.toml", f'schema = 1\n{second}\nengine = "vllm"\n')

    with pytest.raises(ConfigError, match=r"b\.toml: model: .* clashes with .*a\.toml"):
        read_policies(tmp_path)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such directory: `policies` in config"):
        read_policies(tmp_path / "none")


LLAMA, MISTRAL = ModelName("llama"), ModelName("mistral")


@pytest.fixture
def book(tmp_path: Path) -> PolicyBook:
    put(tmp_path, "llama.toml", POLICY)
    put(tmp_path, "mistral.toml", POLICY.replace("llama", "mistral"))
    made = PolicyBook(tmp_path)
    made.load()
    return made


def test_a_first_load_with_a_mistake_puts_nothing_in_force(tmp_path: Path) -> None:
    put(tmp_path, "llama.toml", POLICY)
    put(tmp_path, "bad.toml", "schema = 2\n")
    book = PolicyBook(tmp_path)

    with pytest.raises(ConfigError):
        book.load()

    assert book.policies == {}


def test_a_bad_file_is_refused_whole_and_all_old_policies_stay(
    tmp_path: Path, book: PolicyBook
) -> None:
    put(tmp_path, "llama.toml", POLICY + "[nodes]\nmax = 9\n")
    put(tmp_path, "mistral.toml", "half writ")

    change = book.reload()

    assert change.error is not None
    assert book.error == change.error
    assert book.policies[LLAMA].nodes.max == 4
    assert (change.added, change.changed, change.vanished) == ((), (), ())


def test_mending_the_file_puts_everything_in_force(tmp_path: Path, book: PolicyBook) -> None:
    put(tmp_path, "mistral.toml", "half writ")
    book.reload()
    put(tmp_path, "mistral.toml", POLICY.replace("llama", "mistral") + "[nodes]\nmax = 9\n")

    change = book.reload()

    assert (change.changed, book.error) == ((MISTRAL,), None)
    assert book.policies[MISTRAL].nodes.max == 9


def test_a_vanished_file_is_no_wish_for_zero(tmp_path: Path, book: PolicyBook) -> None:
    (tmp_path / "llama.toml").unlink()

    change = book.reload()
    again = book.reload()
    put(tmp_path, "llama.toml", POLICY)
    back = book.reload()

    assert change.vanished == again.vanished == (LLAMA,)
    assert set(book.policies) == {LLAMA, MISTRAL}
    assert (back.vanished, back.added, back.changed) == ((), (), ())


def test_a_vanished_directory_leaves_everything_in_force(tmp_path: Path, book: PolicyBook) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    tmp_path.rmdir()

    assert "no such directory" in (book.reload().error or "")
    assert set(book.policies) == {LLAMA, MISTRAL}


def test_a_new_file_adds_a_model_and_an_unchanged_one_changes_nothing(
    tmp_path: Path, book: PolicyBook
) -> None:
    put(tmp_path, "qwen.toml", POLICY.replace("llama", "qwen"))

    assert book.reload().added == (ModelName("qwen"),)
    assert book.reload() == type(book.reload())()
