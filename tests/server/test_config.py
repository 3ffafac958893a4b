"""The worker's configuration."""

import pytest

from vllama_server.config import WorkerConfig, parse
from vllama_server.errors import ConfigError


def test_a_model_alone_takes_every_default():
    """Only MODEL is required."""
    assert parse(["./model"], {}) == WorkerConfig(model="./model")


def test_every_flag_reaches_its_field():
    """Each flag sets the field that is named after it."""
    flags = (
        "org/model --listen unix:/tmp/w.sock --name worker-7 --served-name a --served-name b --engine fake "
        "--device cpu --max-streams 8 --max-queue 0 --max-model-len 0 --gpu-memory-utilization 0.5 --deterministic "
        "--trust-client-templates --insecure "
        "--engine-arg speed=0.5 --engine-arg max-streams=3 --metrics 127.0.0.1:0 --drain-timeout 2.5 --stall-seconds 9 "
        "--parent-fd 5 --log-format json"
    )
    assert parse(flags.split(), {}) == WorkerConfig(
        model="org/model",
        listen="unix:/tmp/w.sock",
        name="worker-7",
        served_names=("a", "b"),
        engine="fake",
        device="cpu",
        max_streams=8,
        max_queue=0,
        max_model_len=0,
        gpu_memory_utilization=0.5,
        deterministic=True,
        trust_client_templates=True,
        insecure=True,
        engine_args={"speed": "0.5", "max_streams": "3"},
        metrics="127.0.0.1:0",
        drain_timeout_seconds=2.5,
        stall_seconds=9.0,
        parent_fd=5,
        log_format="json",
    )


def test_each_flag_has_an_environment_twin():
    """Twins are read where flags are absent, repeatable ones as lists."""
    environ = {
        "VLLAMA_MODEL": "m",
        "VLLAMA_SERVED_NAME": "a, b",
        "VLLAMA_ENGINE": "fake",
        "VLLAMA_DETERMINISTIC": "true",
        "VLLAMA_ENGINE_ARG": "speed=2, step_seconds=0",
        "VLLAMA_DRAIN_TIMEOUT": "1",
    }
    config = parse([], environ)
    assert config.model == "m"
    assert config.served_names == ("a", "b")
    assert config.engine == "fake"
    assert config.deterministic
    assert config.engine_args == {"speed": "2", "step_seconds": "0"}
    assert config.drain_timeout_seconds == 1.0


def test_a_value_of_an_engine_argument_may_hold_commas():
    """The next argument begins where a key does; JSON stays whole."""
    twin = 'hf_overrides={"a": 1, "b": [2, 3]}, speed=2,sizes=1,2,4'
    config = parse(["m"], {"VLLAMA_ENGINE_ARG": twin})
    assert config.engine_args == {"hf_overrides": '{"a": 1, "b": [2, 3]}', "speed": "2", "sizes": "1,2,4"}


def test_a_flag_beats_its_twin():
    """The flag counts."""
    assert parse(["m", "--max-queue", "3"], {"VLLAMA_MAX_QUEUE": "9"}).max_queue == 3


def test_an_empty_twin_counts_as_unset():
    """`VLLAMA_METRICS= vllama worker` turns nothing on."""
    assert parse(["m"], {"VLLAMA_METRICS": ""}).metrics is None


def test_the_model_is_served_under_its_own_name_by_default():
    """Without --served-name the model names itself."""
    assert parse(["m"], {}).names == ("m",)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "MODEL"),
        (["m", "--engine", "llamacpp"], "--engine"),
        (["m", "--device", "tpu"], "--device"),
        (["m", "--max-streams", "0"], "--max-streams"),
        (["m", "--max-queue", "-1"], "--max-queue"),
        (["m", "--max-model-len", "many"], "--max-model-len"),
        (["m", "--gpu-memory-utilization", "1.5"], "--gpu-memory-utilization"),
        (["m", "--gpu-memory-utilization", "nan"], "--gpu-memory-utilization"),
        (["m", "--engine-arg", "speed"], "--engine-arg"),
        (["m", "--listen", "8000"], "--listen"),
        (["m", "--listen", "host:99999"], "--listen"),
        (["m", "--listen", "unix:/" + "x" * 200], "--listen"),
        (["m", "--metrics", "unix:/x"], "--metrics"),
        (["m", "--drain-timeout", "-1"], "--drain-timeout"),
        (["m", "--stall-seconds", "inf"], "--stall-seconds"),
        (["m", "--stall-seconds", "5 parsecs"], "--stall-seconds"),
        (["m", "--tls-key", "/no/such/file"], "--tls-key"),
        (["m", "--parent-fd", "x"], "--parent-fd"),
        (["m", "--log-format", "xml"], "--log-format"),
        (["m", "--name", " "], "--name"),
        (["m", "--no-such-flag"], "--no-such-flag"),
        (["m", "--max-queue"], "--max-queue"),
    ],
)
def test_a_wrong_flag_is_refused_by_name(arguments, named):
    """The error names the flag and is one line."""
    with pytest.raises(ConfigError) as error:
        parse(arguments, {})
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_twin_is_refused_by_its_own_name():
    """The message names the variable, not the flag."""
    with pytest.raises(ConfigError, match="VLLAMA_MAX_QUEUE"):
        parse(["m"], {"VLLAMA_MAX_QUEUE": "x"})


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30.0), ("0", 0.0), ("2.5", 2.5), ("30s", 30.0), ("500ms", 0.5), ("1h1m1.5s", 3661.5)]
)
def test_times_are_seconds_or_durations(text, seconds):
    """Both spellings are common, and both mean what they say."""
    assert parse(["m", "--drain-timeout", text], {}).drain_timeout_seconds == seconds


def test_a_certificate_needs_its_key():
    """One without the other is refused."""
    with pytest.raises(ConfigError, match="need each other"):
        parse(["m", "--tls-cert", __file__], {})


def test_the_model_may_follow_a_flag_without_value():
    """--deterministic takes no value and does not swallow the model."""
    assert parse(["--deterministic", "m"], {}) == WorkerConfig(model="m", deterministic=True)


PAIR = ("--tls-cert", __file__, "--tls-key", __file__)
TOKEN = ("--join-token-file", __file__)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--listen", "0.0.0.0:50061"], "--listen 0.0.0.0:50061"),
        (["--listen", "[::]:50061"], "--listen"),
        (["--listen", "10.0.0.7:50061"], "--listen"),
        (["--join", "10.0.0.1:50051", "--advertise", "10.0.0.7:1", *TOKEN], "--join 10.0.0.1:50051"),
    ],
)
def test_plain_text_beyond_this_machine_is_refused(flags, named):
    """Prompts, orders and the token would be open to the network: the refusal names what is wrong and both ways out."""
    with pytest.raises(ConfigError, match=named.replace("[", r"\[")) as error:
        parse(["m", *flags], {})
    assert "--tls-cert" in str(error.value)
    assert "--insecure" in str(error.value)
    assert parse(["m", *flags, *PAIR], {})
    assert parse(["m", *flags, "--insecure"], {}).insecure
    assert parse(["m", *flags], {"VLLAMA_INSECURE": "true"}).insecure


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:50061", "[::1]:50061", "unix:/tmp/w.sock"])
def test_plain_text_on_this_machine_needs_nothing(listen):
    """Loopback addresses and unix sockets are not reached from elsewhere."""
    assert parse(["m", "--listen", listen], {}).listen == listen
